"""What is in a file: ``inspect_file`` gives a printable summary of any artifact, and of files made by others.

Nothing in a file is run: HDF5 and NumPy archives are read without pickles, and a torch checkpoint, which is a pickle,
is named but not opened.
"""

from __future__ import annotations

import csv
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from scrflow.artifacts import Stamp, read_safetensors_metadata
from scrflow.errors import ScrflowError
from scrflow.geometry import camera_centre
from scrflow.scene.model import load_scene, read_lines, read_model, read_poses, read_query_list

STAMP_KEY = "scrflow"
HEAD = 5  # names shown of a long list
ROWS = 24  # datasets shown one by one; more are gathered by their last name (hloc: one group an image)
CHUNK = 1 << 22  # numbers read at once
FULL = 1 << 27  # numbers up to which statistics are over all of an array; beyond, over evenly spaced slabs


def inspect_file(path: Path) -> RenderableType:
    """A rich renderable that says what ``path`` is: kind, stamp, arrays with shape, dtype and range, names, size.

    Takes npz, h5, safetensors, json, jsonl, csv, tsv, txt (poses, query lists, name lists), pictures, torch checkpoints
    (named only), COLMAP model folders, scene folders and folders of artifacts. ScrflowError in one line for a file
    that is missing, damaged, or of no known kind.
    """
    path = Path(path)
    if not path.exists():
        raise ScrflowError(f"{path}: no such file or folder")
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".bin" and path.stem in ("cameras", "images", "points3D", "rigs", "frames"):
        return _folder(path.parent)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = " ".join(sorted(_READERS))
        raise ScrflowError(f"{path}: no known kind of file; there are {known}, COLMAP model folders and scene folders")
    if path.stat().st_size == 0:
        raise ScrflowError(f"{path}: empty file; delete it and run again")
    try:
        return reader(path)
    except ScrflowError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, csv.Error) as error:
        raise _damaged(path, error) from None
    except Exception as error:
        # SafetensorError and zlib.error derive from Exception alone
        if type(error).__name__ not in ("SafetensorError", "error"):
            raise
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ScrflowError:
    message = " ".join(str(error).split()) or type(error).__name__
    return ScrflowError(f"{path}: damaged, or not what its name says ({message}); delete it and run again")


# -------------------------------------------------------------------------------------------------------------- layout


def _page(path: Path, kind: str, size: int, *parts: RenderableType | None) -> Group:
    title = Text(str(path), style="bold")
    return Group(title, Text(f"{kind}, {_size(size)}"), *(p for p in parts if p is not None))


def _stamp_view(text: str | None, path: Path) -> RenderableType:
    if text is None:
        return Text("no stamp: not written by scrflow, or of a form fixed by others")
    stamp = Stamp.from_json(text, path)
    table = _grid()
    table.add_row("kind", escape(stamp.kind))
    table.add_row("stamp", f"{stamp.digest} (schema {stamp.schema}, code {stamp.code or 'not given'})")
    table.add_row("config", escape(_short(json.dumps(stamp.config), 600)))
    table.add_row("inputs", escape(", ".join(f"{k} {v}" for k, v in stamp.inputs.items())) or "none")
    return table


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _array_table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        number = column in ("min", "mean", "max", "count")
        table.add_column(column, overflow="fold", justify="right" if number else "left")
    return table


def _size(count: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} bytes"


def _short(text: str, limit: int = 100) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 4] + " ..."


def _names(names: Iterable[str]) -> str:
    names = list(names)
    more = f" ... and {len(names) - HEAD} more" if len(names) > HEAD else ""
    return _short(", ".join(names[:HEAD]), 400) + more


def _number(value: float) -> str:
    return f"{value:.5g}"


# -------------------------------------------------------------------------------------------------------------- arrays


@dataclass
class Range:
    """Running minimum, mean and maximum of finite numbers, and how many were not finite."""

    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0
    count: int = 0
    bad: int = 0
    sampled: bool = False

    def add(self, values: np.ndarray) -> None:
        """Take in numbers of any shape."""
        values = np.asarray(values, np.float64).ravel()
        finite = values[np.isfinite(values)]
        self.bad += len(values) - len(finite)
        if len(finite):
            self.low, self.high = min(self.low, finite.min()), max(self.high, finite.max())
            self.total, self.count = self.total + finite.sum(), self.count + len(finite)

    def merge(self, other: Range) -> None:
        """Take in another range."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.total, self.count, self.bad = self.total + other.total, self.count + other.count, self.bad + other.bad
        self.sampled |= other.sampled

    def cells(self) -> tuple[str, str, str, str]:
        """min, mean, max, and a remark."""
        remark = "; ".join(
            filter(None, [f"{self.bad} not finite" if self.bad else "", "of a sample" if self.sampled else ""])
        )
        if not self.count:
            return "", "", "", remark
        return _number(self.low), _number(self.total / self.count), _number(self.high), remark


def _range_of(shape: tuple[int, ...], read: Callable[[slice], np.ndarray]) -> Range:
    """Range of an array that ``read`` gives by slabs along its first axis."""
    found = Range()
    if math.prod(shape) == 0:
        return found
    if not shape:
        found.add(read(slice(None)))
        return found
    step = max(1, CHUNK // max(1, math.prod(shape[1:])))
    starts = range(0, shape[0], step)
    every = max(1, math.ceil(math.prod(shape) / FULL))
    found.sampled = every > 1
    for start in starts[::every]:
        found.add(read(slice(start, start + step)))
    return found


def _is_numeric(dtype: np.dtype) -> bool:
    return np.dtype(dtype).kind in "biuf"


def _contents(values: np.ndarray) -> str:
    """Head of an array of strings."""
    flat = [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values.ravel()[: HEAD + 1]]
    return escape(_short(", ".join(flat[:HEAD]), 200)) + (" ..." if values.size > HEAD else "")


def _array_row(table: Table, name: str, array: np.ndarray) -> None:
    shape = "x".join(map(str, array.shape)) or "scalar"
    if _is_numeric(array.dtype):
        table.add_row(escape(name), shape, str(array.dtype), *_range_of(array.shape, lambda s: _slab(array, s)).cells())
    else:
        table.add_row(escape(name), shape, str(array.dtype), "", "", "", _contents(array))


def _slab(array: Any, part: slice) -> np.ndarray:
    return np.asarray(array[part] if array.ndim else array[()])


def _npz(path: Path) -> RenderableType:
    table = _array_table("array", "shape", "dtype", "min", "mean", "max", "")
    text = None
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            if name == STAMP_KEY:
                text = archive[name].tobytes().decode()
            else:
                _array_row(table, name, archive[name])
    return _page(path, "NumPy archive", path.stat().st_size, _stamp_view(text, path), table)


def _h5(path: Path) -> RenderableType:
    with h5py.File(path, "r") as f:
        found: list[tuple[str, h5py.Dataset]] = []
        f.visititems(lambda name, item: found.append((name, item)) if isinstance(item, h5py.Dataset) else None)
        text = f.attrs.get(STAMP_KEY)
        attributes = {k: v for k, v in f.attrs.items() if k != STAMP_KEY}
        parts: list[RenderableType] = [_stamp_view(text, path)]
        if attributes:
            grid = _grid()
            for key, value in attributes.items():
                grid.add_row(escape(key), escape(_short(str(value), 300)))
            parts.append(grid)
        if not found:
            parts.append(Text("no datasets in it"))
        elif len(found) <= ROWS:
            table = _array_table("dataset", "shape", "dtype", "min", "mean", "max", "")
            for name, data in found:
                _h5_row(table, name, data)
            parts.append(table)
        else:
            parts.append(_gathered(found))
        return _page(path, "HDF5 file", path.stat().st_size, *parts)


def _h5_row(table: Table, name: str, data: h5py.Dataset) -> None:
    shape = "x".join(map(str, data.shape)) or "scalar"
    if _is_numeric(data.dtype):
        table.add_row(escape(name), shape, str(data.dtype), *_range_of(data.shape, lambda s: _slab(data, s)).cells())
    else:
        head = np.asarray(data[: HEAD + 1] if data.ndim else data[()])
        table.add_row(
            escape(name),
            shape,
            "string" if data.dtype.kind == "O" else str(data.dtype),
            "",
            "",
            "",
            _contents(head) + (" ..." if data.size > HEAD + 1 and head.size <= HEAD else ""),
        )


def _gathered(found: list[tuple[str, h5py.Dataset]]) -> RenderableType:
    """Datasets of the same last name in one row: hloc keeps a group an image (image name -> global_descriptor)."""
    kinds: dict[str, list[tuple[str, h5py.Dataset]]] = {}
    for name, data in found:
        # a name of its own for each (a file per image) is a flat list: gathered under one heading
        kinds.setdefault(name.rpartition("/")[2] if "/" in name else "*", []).append((name, data))
    if len(kinds) > ROWS:
        kinds = {"*": found}
    table = _array_table("dataset", "count", "shape", "dtype", "min", "mean", "max", "")
    grid = _grid()
    for kind, members in kinds.items():
        shapes = sorted({d.shape for _, d in members})
        shape = "x".join(map(str, shapes[0])) if len(shapes) == 1 else _shape_range(shapes)
        dtypes = "/".join(sorted({str(d.dtype) for _, d in members}))
        total = Range()
        for _, data in members:
            if _is_numeric(data.dtype):
                total.merge(_range_of(data.shape, lambda s, d=data: _slab(d, s)))
        table.add_row(escape(kind), str(len(members)), shape, dtypes, *total.cells())
        if kind == next(iter(kinds)):
            groups = [name.rpartition("/")[0] if kind != "*" else name for name, _ in members]
            grid.add_row(f"{len(groups)} names", escape(_names(groups)))
    return Group(grid, table)


def _shape_range(shapes: list[tuple[int, ...]]) -> str:
    if len({len(s) for s in shapes}) > 1:
        return "various"
    spans = [(min(axis), max(axis)) for axis in zip(*shapes, strict=True)]
    return "x".join(str(a) if a == b else f"{a}..{b}" for a, b in spans)


def _safetensors(path: Path) -> RenderableType:
    from safetensors import safe_open

    metadata = read_safetensors_metadata(path)
    grid = _grid()
    for key, value in metadata.items():
        if key != STAMP_KEY:
            grid.add_row(escape(key), escape(_short(value, 300)))
    table = _array_table("tensor", "shape", "dtype", "min", "mean", "max", "")
    with safe_open(path, "pt") as f:
        for name in f.keys():  # noqa: SIM118 - not a dict
            tensor = f.get_tensor(name)
            shape = "x".join(map(str, tensor.shape)) or "scalar"
            found = _range_of(tuple(tensor.shape), lambda s, t=tensor: (t[s] if t.ndim else t).double().numpy())
            table.add_row(escape(name), shape, str(tensor.dtype).removeprefix("torch."), *found.cells())
    stamp = _stamp_view(metadata.get(STAMP_KEY), path)
    parts = _map_parts(path, metadata)
    return _page(path, "safetensors file", path.stat().st_size, stamp, grid if grid.row_count else None, parts, table)


def _map_parts(path: Path, metadata: dict[str, str]) -> RenderableType | None:
    """Of a map: its parts in bytes and what it says of localizing with it; None for any other file."""
    stamp = Stamp.from_json(metadata[STAMP_KEY], path) if STAMP_KEY in metadata else None
    if stamp is None or stamp.kind != "map":
        return None
    from scrflow.mapformat import MAP_FORMAT, sizes

    grid = _grid()
    grid.add_row(
        "map format", f"{escape(metadata.get('format', 'none, made before maps had one'))}, read: {MAP_FORMAT}"
    )
    unit = stamp.config.get("unit", "")
    pairs = [f"{t:g} {unit} {r:g} deg" for t, r in stamp.config.get("thresholds", ())]
    grid.add_row("thresholds", escape(", ".join(pairs) or "none"))
    for key in ("localize", "map"):
        grid.add_row(key, escape(_short(json.dumps(stamp.config.get(key, "none")), 300)))
    for part, count in sorted(sizes(path).items(), key=lambda item: -item[1]):
        grid.add_row(part, f"{count} bytes, {100 * count / path.stat().st_size:.1f} %")
    return grid


def _checkpoint(path: Path) -> RenderableType:
    """A torch checkpoint is a pickle, and unpickling runs what is in it: only the archive's entries are listed."""
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as f:
            pickle = f.read(1) == b"\x80"
        if not pickle:
            raise ScrflowError(f"{path}: damaged: neither a torch archive nor a pickle; delete it and run again")
        kind = "pickle (an old torch checkpoint, say; not opened, as that runs code in it)"
        return _page(path, kind, path.stat().st_size)
    with zipfile.ZipFile(path) as z:
        entries = z.infolist()
        if bad := z.testzip():
            raise ScrflowError(f"{path}: damaged: entry {bad} has a wrong checksum; delete it and run again")
    data = [e for e in entries if re.search(r"/data/\d+$", e.filename)]
    grid = _grid()
    size = _size(sum(e.file_size for e in data))
    grid.add_row("entries", f"{len(entries)}, {len(data)} of them tensors, {size} together")
    kind = "torch checkpoint (a pickle: not opened, as that runs code in it)" if data else "zip archive"
    return _page(path, kind, path.stat().st_size, grid)


# ---------------------------------------------------------------------------------------------------------------- text


def _json(path: Path) -> RenderableType:
    values = json.loads(path.read_text(encoding="utf-8"))
    text = None
    if isinstance(values, dict) and isinstance(values.get(STAMP_KEY), dict):
        text = json.dumps(values.pop(STAMP_KEY))
    grid = _grid()
    for key, value in values.items() if isinstance(values, dict) else [("list", values)]:
        _json_row(grid, str(key), value, depth=0)
    return _page(path, "JSON", path.stat().st_size, _stamp_view(text, path), grid)


def _json_row(grid: Table, key: str, value: Any, depth: int) -> None:
    if isinstance(value, dict) and depth < 2 and 0 < len(value) <= ROWS:
        for name, inner in value.items():
            _json_row(grid, f"{key}.{name}", inner, depth + 1)
        return
    if isinstance(value, dict):
        shown = f"{len(value)} keys: {_names(map(str, value))}"
    elif isinstance(value, list) and len(value) > HEAD:
        shown = f"{len(value)} entries: {_short(json.dumps(value[:HEAD])[1:-1], 200)} ..."
    else:
        shown = _short(json.dumps(value), 300)
    grid.add_row(escape(key), escape(shown))


def _jsonl(path: Path) -> RenderableType:
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise ScrflowError(f"{path}: line {number} is no JSON ({error}); cut it off, or run again") from None
            if not isinstance(records[-1], dict):
                raise ScrflowError(f"{path}: line {number} is no JSON object; cut it off, or run again")
    frame = pd.DataFrame(records)
    grid = _grid()
    grid.add_row("records", str(len(records)))
    grid.add_row("last", escape(_short(json.dumps(records[-1]), 400)) if records else "")
    return _page(path, "JSON lines", path.stat().st_size, grid, _frame_table(frame))


def _table_file(path: Path, separator: str) -> RenderableType:
    frame = pd.read_csv(path, sep=separator)
    grid = _grid()
    grid.add_row("rows", str(len(frame)))
    return _page(path, "table", path.stat().st_size, grid, _frame_table(frame))


def _frame_table(frame: pd.DataFrame) -> Table:
    table = _array_table("column", "dtype", "min", "mean", "max", "")
    for name in frame.columns:
        column = frame[name]
        if pd.api.types.is_numeric_dtype(column):  # bool is one
            found = Range()
            found.add(column.to_numpy())
            table.add_row(escape(str(name)), str(column.dtype), *found.cells())
        else:
            values = column.dropna().astype(str)
            missing = f", {len(column) - len(values)} missing" if len(values) < len(column) else ""
            distinct = list(dict.fromkeys(values))
            remark = f"{len(distinct)} distinct: {_names(distinct)}{missing}"
            table.add_row(escape(str(name)), "text", "", "", "", escape(remark))
    return table


def _text(path: Path) -> RenderableType:
    """Poses, a query list or a list of names, told apart by the fields of the first line; other text by its head."""
    lines = read_lines(path)
    if not lines:
        raise ScrflowError(f"{path}: nothing but empty lines and comments")
    size, fields = path.stat().st_size, lines[0][1]
    if len(fields) == 8 and _floats(fields[1:]):
        return _page(path, "poses: name qw qx qy qz tx ty tz (cam_from_world)", size, _poses_view(read_poses(path)))
    if len(fields) == 9 and _floats(fields[1:]):
        poses = [f for _, f in lines]
        if not all(len(f) == 9 and _floats(f[1:]) for f in poses):
            raise ScrflowError(f"{path}: expected 'name qw qx qy qz tx ty tz f' on every line")
        grid = _grid()
        grid.add_row(f"{len(poses)} names", escape(_names(f[0] for f in poses)))
        return _page(path, "pose list: name qw qx qy qz tx ty tz f", size, grid)
    if len(fields) >= 5 and fields[1].isupper() and fields[2].isdigit():
        cameras = read_query_list(path)
        grid = _grid()
        grid.add_row(f"{len(cameras)} queries", escape(_names(cameras)))
        grid.add_row("cameras", escape(_cameras(c for c in cameras.values() if c is not None)))
        return _page(path, "query list: name MODEL width height params (hloc)", size, grid)
    if all(len(f) == 1 for _, f in lines):
        grid = _grid()
        grid.add_row(f"{len(lines)} names", escape(_names(f[0] for _, f in lines)))
        return _page(path, "list of names", size, grid)
    head = Text("\n".join("  " + _short(" ".join(f), 110) for _, f in lines[:HEAD]))
    return _page(path, f"text, {len(lines)} lines", size, head)


def _floats(fields: list[str]) -> bool:
    try:
        [float(f) for f in fields]
    except ValueError:
        return False
    return True


def _poses_view(poses: dict[str, np.ndarray]) -> Table:
    grid = _grid()
    grid.add_row(f"{len(poses)} names", escape(_names(poses)))
    grid.add_row("centres", _box(camera_centre(np.stack(list(poses.values())))))
    return grid


def _box(points_N3: np.ndarray) -> str:
    low, high = points_N3.min(0), points_N3.max(0)
    return ", ".join(f"{axis} {_number(a)} to {_number(b)}" for axis, a, b in zip("xyz", low, high, strict=True))


def _cameras(cameras: Iterable[Any]) -> str:
    counts: dict[str, int] = {}
    for c in cameras:
        key = f"{c.model.name} {c.width}x{c.height}"
        counts[key] = counts.get(key, 0) + 1
    return ", ".join(f"{n} {key}" for key, n in sorted(counts.items()))


def _picture(path: Path) -> RenderableType:
    try:
        with Image.open(path) as image:
            image.load()
            kind = f"{image.format} picture, {image.width} x {image.height} px, {image.mode}"
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise _damaged(path, error) from None
    return _page(path, kind, path.stat().st_size)


# ------------------------------------------------------------------------------------------------------------- folders


def _folder(path: Path) -> RenderableType:
    size = _bytes_in(path)
    if (path / "scene.json").exists():
        return _scene(path, size)
    if any((path / f"cameras{suffix}").exists() for suffix in (".bin", ".txt")):
        return _model(path, size)
    entries = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    if not entries:
        raise ScrflowError(f"{path}: empty folder")
    grid = _grid()
    for entry in entries[:ROWS]:
        grid.add_row(escape(entry.name + ("/" if entry.is_dir() else "")), _size(_bytes_in(entry)))
    if len(entries) > ROWS:
        grid.add_row("...", f"{len(entries) - ROWS} more")
    return _page(path, "folder; inspect what is in it", size, grid)


def _bytes_in(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def _scene(path: Path, size: int) -> RenderableType:
    scene = load_scene(path)
    stamp = _stamp_view(scene.stamp.to_json(), path)
    grid = _grid()
    grid.add_row("images", escape(str(scene.image_root)))
    grid.add_row(f"{len(scene.mapping)} mapping", escape(_names(v.name for v in scene.mapping)))
    grid.add_row("cameras", escape(_cameras(v.camera for v in scene.mapping)))
    if scene.mapping:
        centres = camera_centre(np.stack([v.cam_from_world for v in scene.mapping]))
        grid.add_row(f"centres, {scene.unit}", _box(centres))
    conditions: dict[str, int] = {}
    for query in scene.queries:
        conditions[query.condition] = conditions.get(query.condition, 0) + 1
    grid.add_row(f"{len(scene.queries)} queries", escape(_names(q.name for q in scene.queries)))
    grid.add_row("conditions", escape(", ".join(f"{n} {c}" for c, n in sorted(conditions.items()))))
    grid.add_row("with pose", f"{len(scene.query_poses)} of {len(scene.queries)} queries")
    return _page(path, "scene", size, stamp, grid)


def _model(path: Path, size: int) -> RenderableType:
    model = read_model(path)
    grid = _grid()
    images = [model.image(i) for i in model.reg_image_ids()]
    grid.add_row(f"{len(images)} images", escape(_names(sorted(im.name for im in images))))
    grid.add_row("cameras", escape(_cameras(model.cameras.values())))
    if images:
        grid.add_row("centres", _box(np.array([im.projection_center() for im in images])))
    if len(model.points3D):
        grid.add_row(
            "points",
            f"{len(model.points3D)}, mean track {model.compute_mean_track_length():.2f}, "
            f"mean reprojection error {model.compute_mean_reprojection_error():.3f} px",
        )
    else:
        grid.add_row("points", "none")
    return _page(path, "COLMAP model", size, grid)


_READERS: dict[str, Callable[[Path], RenderableType]] = {
    ".npz": _npz,
    ".h5": _h5,
    ".hdf5": _h5,
    ".safetensors": _safetensors,
    ".pt": _checkpoint,
    ".pth": _checkpoint,
    ".ckpt": _checkpoint,
    ".json": _json,
    ".jsonl": _jsonl,
    ".csv": lambda path: _table_file(path, ","),
    ".tsv": lambda path: _table_file(path, "\t"),
    ".txt": _text,
    ".png": _picture,
    ".jpg": _picture,
    ".jpeg": _picture,
}
