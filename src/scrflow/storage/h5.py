"""Arrays out of HDF5 files that somebody else made.

An HDF5 file can do more than hold arrays: a name may lead to another file of this machine (external links, external
storage, virtual datasets), and a dataset may declare terabytes that were never written. None of that has a place in
hloc's files or in a map, so it is refused before anything is read.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import DTypeLike

from scrflow.core.errors import ScrflowError

# gzip and lzf leave keypoints and descriptors some tens of times smaller at most, small ones of zeros excepted
_MAX_RATIO = 200
_HARMLESS = 1 << 20  # bytes
# what h5py raises where a file is damaged
_DAMAGED = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)


@contextlib.contextmanager
def opened_h5(path: Path, what: str) -> Iterator[h5py.File]:
    """An HDF5 file for reading; ScrflowError where it is no HDF5, or where h5py finds a fault in it in the block."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except ScrflowError:
        raise
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ScrflowError(f"{path}: not an HDF5 file of {what}, or damaged ({reason}); make it again") from None


def held(group: h5py.Group, name: str, path: Path) -> h5py.Dataset | h5py.Group | None:
    """What the file itself holds under a name, checked as the module says; None where nothing is."""
    at = group
    for part in name.split("/"):
        link = at.get(part, getlink=True) if isinstance(at, h5py.Group) and part else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise ScrflowError(f"{path}: {name}: {part} is a link to {_target(link)}; do not use this file")
        at = at[part]
    if isinstance(at, h5py.Dataset):
        _check(at, name, path)
    return at


def array_of(group: h5py.Group, name: str, path: Path, dtype: DTypeLike) -> np.ndarray | None:
    """The array under a name as ``dtype``; None where there is none. ScrflowError where it holds no numbers."""
    data = held(group, name, path)
    if not isinstance(data, h5py.Dataset):
        return None
    if data.dtype.kind not in "biuf":
        raise ScrflowError(f"{path}: {name} is of type {data.dtype}, expected numbers; make it again")
    return np.asarray(data, dtype)


def check_whole(file: h5py.File, path: Path) -> None:
    """Check every name of an open file as ``held`` does, whatever is read of it later."""
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


def _check(data: h5py.Dataset, name: str, path: Path) -> None:
    if data.external or data.is_virtual:
        raise ScrflowError(f"{path}: {name} has its numbers in another file; do not use this file")
    if data.shape is None:
        raise ScrflowError(f"{path}: {name} is empty, without a shape; make it again")
    stored, declared = data.id.get_storage_size(), math.prod(data.shape) * data.dtype.itemsize
    if declared > max(_HARMLESS, _MAX_RATIO * stored):
        raise ScrflowError(
            f"{path}: {name} declares {declared / 1e6:.0f} MB and has {stored / 1e6:.3g} MB; do not use this file"
        )


def _target(link: h5py.SoftLink | h5py.ExternalLink | object) -> str:
    if isinstance(link, h5py.ExternalLink):
        return f"the file {link.filename!r}"
    return f"{link.path!r}" if isinstance(link, h5py.SoftLink) else "something else"
