"""``scrflow inspect FILE``: a summary of any artifact, and of files that other tools wrote.

Nothing in a file is executed: HDF5 and NumPy archives are read without pickles, and a torch checkpoint, which is a
pickle, is listed but not opened.
"""

import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from PIL import Image
from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.pretty import Pretty
from rich.table import Table
from rich.text import Text

from scrflow.core.errors import ScrflowError, damage_reported
from scrflow.core.geometry import camera_centre
from scrflow.scene.colmap_model import read_model
from scrflow.scene.lists import finite_numbers, read_poses, read_query_list
from scrflow.scene.model import load_scene
from scrflow.storage.artifact import FORMS, STAMP_KEY, Stamp, read_safetensors_metadata, stamp_text
from scrflow.storage.checksum import checksum_fault
from scrflow.storage.listfile import read_lines, split_name
from scrflow.storage.untrusted import check_npz, held

HEAD = 5  # names shown of a long list
ROWS = 24  # entries shown one by one
SAMPLE = 1 << 25  # numbers read of large arrays
_MODEL_FILES = ("cameras", "images", "points3D", "rigs", "frames")


def inspect_file(path: Path) -> RenderableType:
    """A rich renderable that says what ``path`` is: kind, size, stamp, arrays with shape, dtype and range, names.

    Takes the files of _READERS, COLMAP models, scenes and other folders. ScrflowError in one line for all else.
    """
    path = Path(path)
    if not path.exists():
        raise ScrflowError(f"{path}: no such file or folder; correct the path")
    if path.suffix == ".bin" and path.stem in _MODEL_FILES:
        path = path.parent
    reader = _folder if path.is_dir() else _READERS.get(path.suffix.lower())
    if reader is None:
        known = " ".join(sorted(_READERS))
        raise ScrflowError(f"{path}: unknown kind of file; give one of {known}, a COLMAP model or a folder of results")
    if path.stat().st_size == 0:
        raise ScrflowError(f"{path}: empty file; delete it and run again")
    with damage_reported(path, "not what its name says"):
        kind, *parts = reader(path)
        artifact = path / "scene.json" if kind == "scene" else path
        stamp = [_stamp(artifact)] if artifact.suffix in FORMS else []
        return Group(Text(str(path), style="bold"), Text(f"{kind}, {decimal(_size(path))}"), *stamp, *parts)


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in (path, *path.rglob("*")) if p.is_file())


def _short(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]} ..."


def _names(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" ... and {len(names) - HEAD} more" if len(names) > HEAD else ""
    return _short(", ".join(names[:HEAD]), 400) + more


def _pairs(*rows: tuple[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _stamp(path: Path) -> RenderableType:
    text = stamp_text(path)
    if text is None:
        return Text("no stamp: not an artifact of scrflow, or in another tool's format")
    stamp = Stamp.from_json(text, path)
    return _pairs(
        ("kind", stamp.kind),
        ("stamp", f"{stamp.digest} (schema {stamp.schema}, code {stamp.code or 'not given'})"),
        ("config", _short(json.dumps(stamp.config), 600)),
        ("content", checksum_fault(path) or "as it was written (SHA-256)"),
        ("inputs", ", ".join(f"{k} {v}" for k, v in stamp.inputs.items()) or "none"),
    )


_Array = np.ndarray | h5py.Dataset


def _array_table(groups: dict[str, list[_Array]]) -> RenderableType:
    """A row for each group of arrays: shape, dtype, and the range of the numbers or the first strings."""
    rows = []
    for name, arrays in groups.items():
        spans = [(min(axis), max(axis)) for axis in zip(*(a.shape for a in arrays), strict=False)]
        shape = "x".join(str(a) if a == b else f"{a}..{b}" for a, b in spans) or "scalar"
        dtypes = "/".join(sorted({"string" if a.dtype.kind == "O" else str(a.dtype) for a in arrays}))
        rows.append((name if len(arrays) == 1 else f"{name} ({len(arrays)})", shape, dtypes, *_statistics(arrays)))
    frame = pd.DataFrame(rows, columns=["name", "shape", "dtype", "min", "mean", "max", ""])
    return Text(frame.to_string(index=False, max_colwidth=80)) if rows else Text("no arrays")


def _statistics(arrays: list[_Array]) -> tuple[str, str, str, str]:
    """Minimum, mean, maximum and a remark."""
    numeric = [a for a in arrays if a.dtype.kind in "biuf"]
    if not numeric:
        first = np.asarray(arrays[0][: HEAD + 1] if arrays[0].ndim else arrays[0][()]).ravel()
        return "", "", "", _names(v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in first)
    every = max(1, sum(a.size for a in numeric) // SAMPLE)
    values = np.concatenate([np.ravel(a[::every] if a.ndim else a[()]) for a in numeric]).astype(np.float64)
    finite = values[np.isfinite(values)]
    bad = f"{len(values) - len(finite)} not finite" if len(finite) < len(values) else ""
    remark = "; ".join(filter(None, [bad, f"of every {every}th" if every > 1 else ""]))
    return (*(f"{f(finite):.5g}" if len(finite) else "" for f in (np.min, np.mean, np.max)), remark)


def _npz(path: Path) -> tuple[Any, ...]:
    check_npz(path)
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: [archive[name]] for name in archive.files if name != STAMP_KEY}
    return "NumPy archive", _array_table(arrays)


def _hdf5(path: Path) -> tuple[Any, ...]:
    """Attributes and datasets. Of many, those with the same last name share a row: hloc writes a group an image."""
    with h5py.File(path, "r") as file:
        found: list[str] = []
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        keys = [name if len(found) <= ROWS else name.rpartition("/")[2] for name in found]
        if len(set(keys)) > ROWS:
            keys = ["*"] * len(found)
        groups: dict[str, list[_Array]] = {}
        for key, name in zip(keys, found, strict=True):
            groups.setdefault(key, []).append(held(file, name, path))
        rows = [(key, _short(str(value), 300)) for key, value in file.attrs.items()]
        if len(groups) < len(found):
            images = list(dict.fromkeys(name.rpartition("/")[0] or name for name in found))
            rows.append((f"{len(images)} names", _names(images)))
        return "HDF5 file", _pairs(*rows), _array_table(groups)


def _safetensors(path: Path) -> tuple[Any, ...]:
    from safetensors import safe_open

    arrays = {}
    with safe_open(path, "pt") as f:
        for name in f.keys():  # noqa: SIM118 - not a dict
            tensor = f.get_tensor(name)
            try:
                arrays[name] = [tensor.numpy()]
            except TypeError:  # NumPy has no bfloat16
                arrays[f"{name} ({tensor.dtype})"] = [tensor.float().numpy()]
    metadata = read_safetensors_metadata(path)
    text = metadata.pop(STAMP_KEY, None)
    rows = [(key, _short(value, 300)) for key, value in sorted(metadata.items())]
    if text is not None and Stamp.from_json(text, path).kind == "map":
        from scrflow.map.format import sizes

        parts = sorted(sizes(path).items(), key=lambda item: -item[1])
        rows += [(part, f"{count} bytes, {count / path.stat().st_size:.1%}") for part, count in parts]
    return "safetensors file", _pairs(*rows), _array_table(arrays)


def _checkpoint(path: Path) -> tuple[Any, ...]:
    """A torch checkpoint is a pickle, and unpickling executes it: list the archive's entries only."""
    if path.read_bytes()[:1] == b"\x80":
        return ("pickle, such as an old torch checkpoint (not opened: that executes code in it)",)
    with zipfile.ZipFile(path) as z:
        if bad := z.testzip():
            raise ValueError(f"entry {bad} has a wrong checksum")
        sizes = [e.file_size for e in z.infolist() if "/data/" in e.filename]
    text = f"{len(sizes)} tensors, {decimal(sum(sizes))} together"
    return "torch checkpoint (a pickle, not opened: that executes code in it)", _pairs(("entries", text))


def _json(path: Path) -> tuple[Any, ...]:
    values = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(values, dict):
        values.pop(STAMP_KEY, None)
    return "JSON", Pretty(values, max_depth=4, max_length=ROWS, max_string=200)


def _json_lines(path: Path) -> tuple[Any, ...]:
    frame = pd.read_json(path, lines=True, convert_dates=False)
    last = frame.iloc[-1].dropna().to_dict() if len(frame) else None
    return "JSON lines", _columns(frame), Text("last record:"), Pretty(last, max_length=ROWS, max_string=200)


def _columns(frame: pd.DataFrame) -> RenderableType:
    numbers = frame.select_dtypes(["number", "bool"])
    texts = {name: frame[name].dropna().astype(str).unique() for name in frame.columns.difference(numbers.columns)}
    distinct = [(str(name), f"{len(values)} distinct: {_names(values)}") for name, values in texts.items()]
    return Group(_array_table({str(name): [numbers[name].to_numpy()] for name in numbers}), _pairs(*distinct))


def _text(path: Path) -> tuple[Any, ...]:
    """Poses, a query list or a list of names, told apart by the fields of the first line; other text by its head."""
    lines = [(name, *fields) for _, line in read_lines(path) for name, fields in [split_name(line)]]
    if not lines:
        raise ScrflowError(f"{path}: nothing but empty lines and comments; give a file with content")
    first, numbers = lines[0], [0 if finite_numbers(fields) is None else 1 + len(fields) for _, *fields in lines]
    names = (f"{len(lines)} names", _names(line[0] for line in lines))
    if numbers[0] == 8:
        return "poses: name qw qx qy qz tx ty tz (cam_from_world)", _pairs(names, _extent(read_poses(path).values()))
    if numbers[0] == 9:
        if set(numbers) != {9}:
            raise ScrflowError(f"{path}: not 'name qw qx qy qz tx ty tz f' on every line; correct the other lines")
        return "pose list: name qw qx qy qz tx ty tz f", _pairs(names)
    if len(first) >= 5 and first[1].isupper() and first[2].isdigit():
        cameras = _cameras(read_query_list(path).values())
        return "query list: name MODEL width height params (hloc)", _pairs(names, ("cameras", cameras))
    if set(map(len, lines)) == {1}:
        return "list of names", _pairs(names)
    return f"text, {len(lines)} lines", Text("\n".join("  " + _short(" ".join(line), 110) for line in lines[:HEAD]))


def _picture(path: Path) -> tuple[Any, ...]:
    with Image.open(path) as image:
        image.load()  # finds damage
        return (f"{image.format} picture, {image.width} x {image.height} px, {image.mode}",)


def _folder(path: Path) -> tuple[Any, ...]:
    if (path / "scene.json").exists():
        return _scene(path)
    if any((path / f"cameras{suffix}").exists() for suffix in (".bin", ".txt")):
        return _model(path)
    entries = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    if not entries:
        raise ScrflowError(f"{path}: empty folder; give one with files in it")
    rows = [(entry.name + "/" * entry.is_dir(), decimal(_size(entry))) for entry in entries[:ROWS]]
    return f"folder of {len(entries)}; inspect the files in it", _pairs(*rows)


def _scene(path: Path) -> tuple[Any, ...]:
    scene = load_scene(path)
    conditions = Counter(query.condition for query in scene.queries)
    return "scene", _pairs(
        ("images", str(scene.image_root)),
        (f"{len(scene.mapping)} mapping", _names(v.name for v in scene.mapping)),
        ("cameras", _cameras(v.camera for v in scene.mapping)),
        _extent((v.cam_from_world for v in scene.mapping), f", {scene.unit}"),
        (f"{len(scene.queries)} queries", _names(q.name for q in scene.queries)),
        ("conditions", ", ".join(f"{n} {c}" for c, n in sorted(conditions.items()))),
        ("with pose", f"{len(scene.query_poses)} of {len(scene.queries)} queries"),
    )


def _model(path: Path) -> tuple[Any, ...]:
    model = read_model(path)
    images = [model.image(i) for i in model.reg_image_ids()]
    return "COLMAP model", _pairs(
        (f"{len(images)} images", _names(sorted(image.name for image in images))),
        ("cameras", _cameras(model.cameras.values())),
        _extent(image.cam_from_world().matrix() for image in images),
        ("summary", model.summary()),
    )


def _extent(cam_from_world: Iterable[np.ndarray], unit: str = "") -> tuple[str, str]:
    """Row of the box that the camera centres fill."""
    centres_N3 = camera_centre(np.reshape(list(cam_from_world), (-1, 3, 4)))
    spans = [f"{axis} {c.min():.5g} to {c.max():.5g}" for axis, c in zip("xyz", centres_N3.T, strict=True) if len(c)]
    return f"centres{unit}", ", ".join(spans)


def _cameras(cameras: Iterable[Any]) -> str:
    """How many there are of each model and size."""
    counts = Counter(f"{c.model.name} {c.width}x{c.height}" for c in cameras if c is not None)
    return ", ".join(f"{n} {key}" for key, n in sorted(counts.items()))


_READERS: dict[str, Callable[[Path], tuple[Any, ...]]] = {
    ".npz": _npz,
    **dict.fromkeys((".h5", ".hdf5"), _hdf5),
    ".safetensors": _safetensors,
    **dict.fromkeys((".pt", ".pth", ".ckpt"), _checkpoint),
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": lambda path: ("table", _columns(pd.read_csv(path))),
    ".tsv": lambda path: ("table", _columns(pd.read_csv(path, sep="\t"))),
    ".txt": _text,
    **dict.fromkeys((".png", ".jpg", ".jpeg"), _picture),
}
