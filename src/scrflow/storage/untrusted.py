"""Arrays from HDF5 and NumPy files that others made.

An HDF5 name can lead to another file of this machine (external links, external storage, virtual datasets), a dataset or
an archive of a few bytes can declare terabytes, and an array of objects is a pickle, which executes what is in it. All
of these are refused before an array is allocated.
"""

import math
import zipfile
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import DTypeLike

from scrflow.core.errors import ScrflowError, damage_reported
from scrflow.storage.artifact import STAMP_KEY, read_stamp

_MAX_RATIO = 200  # unpacked over packed; arrays of zeros below _HARMLESS exceed it
_HARMLESS_H5, _HARMLESS_NPZ = 1 << 20, 64 << 20  # bytes
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def held(group: h5py.Group, name: str, path: Path) -> h5py.Dataset | h5py.Group | None:
    """What the file itself holds under a name, checked as the module says; None if there is nothing."""
    at = group
    for part in name.split("/"):
        link = at.get(part, getlink=True) if isinstance(at, h5py.Group) and part else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            target = getattr(link, "filename", "") or getattr(link, "path", "something else")
            raise ScrflowError(f"{path}: {name}: {part} is a link to {target!r}; do not use this file")
        at = at[part]
    if isinstance(at, h5py.Dataset):
        _check_dataset(at, name, path)
    return at


def array_of(group: h5py.Group, name: str, path: Path, dtype: DTypeLike) -> np.ndarray | None:
    """The array under a name as ``dtype``; None if there is none. ScrflowError if it holds no numbers."""
    data = held(group, name, path)
    if not isinstance(data, h5py.Dataset):
        return None
    if data.dtype.kind not in "biuf":
        raise ScrflowError(f"{path}: {name} is of type {data.dtype}, expected numbers; make it again")
    return np.asarray(data, dtype)


def check_whole(file: h5py.File, path: Path) -> None:
    """Check every name of an open file as ``held`` does."""
    todo: list[tuple[str, h5py.Group]] = [("", file)]
    seen = set()
    while todo:
        prefix, group = todo.pop()
        for name in group:
            item = held(group, name, path)
            if isinstance(item, h5py.Group):
                where = h5py.h5o.get_info(item.id)
                if (where.fileno, where.addr) not in seen:  # a group may hold itself
                    seen.add((where.fileno, where.addr))
                    todo.append((f"{prefix}{name}/", item))


def _check_dataset(data: h5py.Dataset, name: str, path: Path) -> None:
    if data.external or data.is_virtual:
        raise ScrflowError(f"{path}: {name} has its numbers in another file; do not use this file")
    if data.shape is None:
        raise ScrflowError(f"{path}: {name} is empty, without a shape; make it again")
    stored, declared = data.id.get_storage_size(), math.prod(data.shape) * data.dtype.itemsize
    if declared > max(_HARMLESS_H5, _MAX_RATIO * stored):
        raise ScrflowError(
            f"{path}: {name} declares {declared / 1e6:.0f} MB and has {stored / 1e6:.3g} MB; do not use this file"
        )


def read_arrays(path: Path, kind: str) -> dict[str, np.ndarray]:
    """All arrays of a NumPy archive except its stamp. ScrflowError if it is of another kind, or damaged."""
    read_stamp(path, kind)
    with damage_reported(path, "not an archive of arrays"):
        check_npz(path)
        with np.load(path, allow_pickle=False) as z:
            return {name: z[name] for name in z.files if name != STAMP_KEY}


def check_npz(path: Path) -> None:
    """ValueError if the arrays are not what their headers and the archive say."""
    with zipfile.ZipFile(path) as z:
        members = z.infolist()
        size = sum(info.file_size for info in members)
        if size > max(_HARMLESS_NPZ, _MAX_RATIO * path.stat().st_size):
            raise ValueError(f"unpacks to {size / 1e6:.0f} MB, over {_MAX_RATIO} times its size")
        if len({info.filename for info in members}) < len(members):
            raise ValueError("a name is in it twice")
        for info in members:
            with z.open(info) as f:
                version = np.lib.format.read_magic(f)
                if version not in _HEADERS:
                    raise ValueError(f"{info.filename} has version {version}")
                shape, _, dtype = _HEADERS[version](f)
                if dtype.hasobject:
                    raise ValueError(f"{info.filename} holds objects, which are pickles")
                declared, stored = math.prod(shape) * dtype.itemsize, info.file_size - f.tell()
                if min(shape, default=0) < 0 or declared != stored:
                    raise ValueError(f"{info.filename} declares {declared} bytes and has {stored}")
