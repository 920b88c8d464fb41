"""The checksum of an artifact: the SHA-256 of the file's own bytes, stored in the file.

A stamp says how a file was made; the checksum says that it has not changed since. It is stored where each format has
room for it, and counted as 64 zeros: in HDF5's user block, in the metadata of safetensors, in the comment of a zip
archive (npz), and at the end of the stamp in JSON.
"""

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path

from scrflow.core.errors import ScrflowError

DIGITS = 64
EMPTY = "0" * DIGITS  # written first, then replaced by ``write_checksum``
KEY = "content"  # of the checksum in JSON and in safetensors' metadata
COMMENT = b"content sha256 "
_HDF5 = b"scrflow artifact; content sha256 "
_LEAST_BLOCK, _MOST_BLOCK = 1 << 9, 1 << 20  # bytes of HDF5's user block: a power of two
_CHUNK = 1 << 20
_MAX_HEADER = 100_000_000  # bytes; safetensors' own limit
_TAIL = 1 << 12  # bytes at the end of JSON that hold the end of the stamp


def user_block(stamp: str) -> bytes:
    """The user block of an HDF5 artifact: a line for the checksum (still empty) and one for the stamp. ValueError for a
    stamp of a megabyte."""
    lines = _HDF5 + EMPTY.encode() + b"\n" + stamp.encode() + b"\n"
    size = max(_LEAST_BLOCK, 1 << (len(lines) - 1).bit_length())
    if size > _MOST_BLOCK:
        raise ValueError(f"a stamp of {len(stamp)} characters")
    return lines.ljust(size, b"\0")


def stamp_in_user_block(path: Path) -> str | None:
    """The stamp of an HDF5 artifact; None if there is none."""
    with open(path, "rb") as f:
        first, second = f.readline(len(_HDF5) + DIGITS + 1), f.readline(_MOST_BLOCK)
    return second[:-1].decode() if _after(_HDF5, first) is not None and second.endswith(b"\n") else None


def write_checksum(path: Path) -> None:
    """Write the checksum of a complete file into the place left for it. ValueError if there is none."""
    place = _place(path)
    if place is None:
        raise ValueError(f"{path}: no place for a checksum")
    digest = _digest(path, place)
    with open(path, "r+b") as f:
        f.seek(place)
        f.write(digest.encode())


def verify_checksum(path: Path) -> None:
    """ScrflowError if the file changed since it was written; computed once a process for an unchanged file."""
    fault = checksum_fault(path)
    if fault:
        raise ScrflowError(f"{path}: {fault}; delete {what_to_delete(path)} and run again")


def checksum_fault(path: Path) -> str | None:
    """Why the file cannot be trusted; None if it is what was written."""
    found = os.stat(path)
    return _fault(str(path), found.st_ino, found.st_size, found.st_mtime_ns)


def what_to_delete(path: Path) -> str:
    """What to delete so that a damaged file is made again: the file itself ("it"), or the target of a link, because
    Snakemake's cache between workflows would link the same damaged file again."""
    return os.path.realpath(path) if os.path.islink(path) else "it"


@lru_cache(maxsize=1024)
def _fault(path: str, *_identity: int) -> str | None:
    place = _place(Path(path))
    if place is None:
        return "damaged, or written by an older scrflow: it has no checksum of its content"
    with open(path, "rb") as f:
        f.seek(place)
        stored = f.read(DIGITS).decode("ascii", "replace")
    if stored != _digest(Path(path), place):
        return "damaged: its content is not what was written (SHA-256 differs)"
    return None


def _digest(path: Path, place: int) -> str:
    """SHA-256 of the file, with zeros in the place of the checksum."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while f.tell() < place and (chunk := f.read(min(_CHUNK, place - f.tell()))):
            digest.update(chunk)
        digest.update(EMPTY.encode())
        f.seek(place + DIGITS)
        while chunk := f.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _place(path: Path) -> int | None:
    """Offset of the 64 digits; None if there are none."""
    with open(path, "rb") as f:
        size = os.fstat(f.fileno()).st_size
        if path.suffix == ".h5":
            return _after(_HDF5, f.read(_LEAST_BLOCK))
        if path.suffix == ".safetensors":
            begin, mark = 8, b'"%s":"' % KEY.encode()
            data = f.read(min(int.from_bytes(f.read(8), "little"), size, _MAX_HEADER))
            at = data.find(mark)
        elif path.suffix == ".npz":
            begin, mark, at = f.seek(max(0, size - len(COMMENT) - DIGITS)), COMMENT, 0
            data = f.read()
        else:
            begin, mark = f.seek(max(0, size - _TAIL)), b'"%s": "' % KEY.encode()
            data = f.read()
            at = data.rfind(mark)
    found = _after(mark, data[at:]) if at >= 0 else None
    return None if found is None else begin + at + found


def _after(mark: bytes, data: bytes) -> int | None:
    """Where the digits begin in data that begins with a mark and a checksum."""
    return len(mark) if re.match(re.escape(mark) + rb"[0-9a-f]{%d}" % DIGITS, data) else None
