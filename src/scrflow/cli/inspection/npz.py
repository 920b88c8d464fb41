"""NumPy archives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from scrflow.cli.inspection.layout import STAMP_KEY, array_table, page, stamp_view
from scrflow.cli.inspection.ranges import contents, is_numeric, range_of, slab


def show_npz(path: Path) -> RenderableType:
    """Arrays of a NumPy archive."""
    table = array_table("array", "shape", "dtype", "min", "mean", "max", "")
    text = None
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            if name == STAMP_KEY:
                text = archive[name].tobytes().decode()
            else:
                _array_row(table, name, archive[name])
    return page(path, "NumPy archive", path.stat().st_size, stamp_view(text, path), table)


def _array_row(table: Table, name: str, array: np.ndarray) -> None:
    shape = "x".join(map(str, array.shape)) or "scalar"
    if is_numeric(array.dtype):
        table.add_row(escape(name), shape, str(array.dtype), *range_of(array.shape, lambda s: slab(array, s)).cells())
    else:
        table.add_row(escape(name), shape, str(array.dtype), "", "", "", contents(array))
