"""HDF5 files, those of hloc with a group an image among them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from scrflow.cli.inspection.layout import (
    HEAD,
    ROWS,
    array_table,
    grid_of_pairs,
    names_of,
    page,
    short,
    stamp_view,
)
from scrflow.cli.inspection.ranges import Range, contents, is_numeric, range_of, slab
from scrflow.storage.checksum import stamp_in_user_block


def show_h5(path: Path) -> RenderableType:
    """Attributes and datasets."""
    with h5py.File(path, "r") as f:
        found: list[tuple[str, h5py.Dataset]] = []
        f.visititems(lambda name, item: found.append((name, item)) if isinstance(item, h5py.Dataset) else None)
        attributes = dict(f.attrs)
        parts: list[RenderableType] = [stamp_view(stamp_in_user_block(path), path)]
        if attributes:
            grid = grid_of_pairs()
            for key, value in attributes.items():
                grid.add_row(escape(key), escape(short(str(value), 300)))
            parts.append(grid)
        if not found:
            parts.append(Text("no datasets in it"))
        elif len(found) <= ROWS:
            table = array_table("dataset", "shape", "dtype", "min", "mean", "max", "")
            for name, data in found:
                _h5_row(table, name, data)
            parts.append(table)
        else:
            parts.append(_gathered(found))
        return page(path, "HDF5 file", path.stat().st_size, *parts)


def _h5_row(table: Table, name: str, data: h5py.Dataset) -> None:
    shape = "x".join(map(str, data.shape)) or "scalar"
    if is_numeric(data.dtype):
        table.add_row(escape(name), shape, str(data.dtype), *range_of(data.shape, lambda s: slab(data, s)).cells())
    else:
        head = np.asarray(data[: HEAD + 1] if data.ndim else data[()])
        table.add_row(
            escape(name),
            shape,
            "string" if data.dtype.kind == "O" else str(data.dtype),
            "",
            "",
            "",
            contents(head) + (" ..." if data.size > HEAD + 1 and head.size <= HEAD else ""),
        )


def _gathered(found: list[tuple[str, h5py.Dataset]]) -> RenderableType:
    """Datasets of the same last name in one row: hloc keeps a group an image (image name -> global_descriptor)."""
    kinds: dict[str, list[tuple[str, h5py.Dataset]]] = {}
    for name, data in found:
        # a name of its own for each (a file per image) is a flat list: gathered under one heading
        kinds.setdefault(name.rpartition("/")[2] if "/" in name else "*", []).append((name, data))
    if len(kinds) > ROWS:
        kinds = {"*": found}
    table = array_table("dataset", "count", "shape", "dtype", "min", "mean", "max", "")
    grid = grid_of_pairs()
    for kind, members in kinds.items():
        shapes = sorted({d.shape for _, d in members})
        shape = "x".join(map(str, shapes[0])) if len(shapes) == 1 else _shape_range(shapes)
        dtypes = "/".join(sorted({str(d.dtype) for _, d in members}))
        total = Range()
        for _, data in members:
            if is_numeric(data.dtype):
                total.merge(range_of(data.shape, lambda s, d=data: slab(d, s)))
        table.add_row(escape(kind), str(len(members)), shape, dtypes, *total.cells())
        if kind == next(iter(kinds)):
            groups = [name.rpartition("/")[0] if kind != "*" else name for name, _ in members]
            grid.add_row(f"{len(groups)} names", escape(names_of(groups)))
    return Group(grid, table)


def _shape_range(shapes: list[tuple[int, ...]]) -> str:
    if len({len(s) for s in shapes}) > 1:
        return "various"
    spans = [(min(axis), max(axis)) for axis in zip(*shapes, strict=True)]
    return "x".join(str(a) if a == b else f"{a}..{b}" for a, b in spans)
