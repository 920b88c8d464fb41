"""Arrays out of NumPy archives, which may say of themselves what is not so.

An archive of a few bytes can declare terabytes, and an array of objects is a pickle, which runs what is in it. So every
header is held against the bytes that the archive has for it before an array is made, and pickles are never read.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from scrflow.core.errors import ScrflowError
from scrflow.storage.artifact import read_stamp

_MAX_RATIO = 200  # unpacked over packed; a graph of 10 000 images is 3 times smaller packed
_HARMLESS = 64 << 20
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_DAMAGED = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    SyntaxError,
    OverflowError,
    RecursionError,
    NotImplementedError,
    RuntimeError,  # an encrypted member
    zipfile.BadZipFile,
    zlib.error,
)


def read_arrays(path: Path, kind: str) -> dict[str, np.ndarray]:
    """All arrays of an artifact but its stamp. ScrflowError for one of another kind, and where the arrays are not what
    their headers and the archive say."""
    read_stamp(path, kind)
    try:
        _check(path)
        with np.load(path, allow_pickle=False) as z:
            return {name: z[name] for name in z.files if name != "scrflow"}
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ScrflowError(f"{path}: damaged archive of arrays ({reason}); delete it and run again") from None


def _check(path: Path) -> None:
    """ValueError for members that lie."""
    with zipfile.ZipFile(path) as z:
        members = z.infolist()
        size = sum(info.file_size for info in members)
        if size > max(_HARMLESS, _MAX_RATIO * path.stat().st_size):
            raise ValueError(f"unpacks to {size / 1e6:.0f} MB, {_MAX_RATIO} times its size and more")
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
                declared, there = math.prod(shape) * dtype.itemsize, info.file_size - f.tell()
                if min(shape, default=0) < 0 or declared != there:
                    raise ValueError(f"{info.filename} declares {declared} bytes, {there} are there")
