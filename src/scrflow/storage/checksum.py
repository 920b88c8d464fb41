"""The seal of an artifact: the SHA-256 of the file's own bytes, kept in the file, so that one that changed is refused.

Stamps say how a file was made; the seal says that it still is what was written, wherever it has been since. It lies
where each form has room for it, and is counted as 64 zeros: in the user block that HDF5 leaves to others, in the
metadata of safetensors, in the comment of a zip archive (npz), and at the end of the stamp in JSON.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path

from scrflow.core.errors import ScrflowError

DIGITS = 64
EMPTY = "0" * DIGITS  # what is written first, and replaced by ``seal``
KEY = "content"  # of the seal, in JSON and in safetensors' metadata
COMMENT = b"content sha256 "
_HDF5 = b"scrflow artifact; content sha256 "
_LEAST_BLOCK, _MOST_BLOCK = 1 << 9, 1 << 20  # bytes that HDF5 leaves to others before its own: a power of two
_CHUNK = 1 << 20
_MAX_HEADER = 100_000_000  # bytes; safetensors' own limit
_TAIL = 1 << 12  # bytes at the end of JSON that hold the end of the stamp
_HEX = re.compile(rb"[0-9a-f]{%d}" % DIGITS)


def user_block(stamp: str) -> bytes:
    """The user block of an HDF5 artifact, not sealed yet: a line for the seal and one for the stamp, which is so read
    without HDF5. ValueError for a stamp of a megabyte."""
    lines = _HDF5 + EMPTY.encode() + b"\n" + stamp.encode() + b"\n"
    size = max(_LEAST_BLOCK, 1 << (len(lines) - 1).bit_length())
    if size > _MOST_BLOCK:
        raise ValueError(f"a stamp of {len(stamp)} characters")
    return lines.ljust(size, b"\0")


def stamp_in_user_block(path: Path) -> str | None:
    """The stamp of an HDF5 artifact; None where there is none."""
    with open(path, "rb") as f:
        first, second = f.readline(len(_HDF5) + DIGITS + 1), f.readline(_MOST_BLOCK)
    return second[:-1].decode() if _is_seal(first, _HDF5, 0) and second.endswith(b"\n") else None


def seal(path: Path) -> None:
    """Write the digest of a whole file into the place that was left for it. ValueError where there is none."""
    place = _place(path)
    if place is None:
        raise ValueError(f"{path}: no place for a seal")
    digest = _digest(path, place)
    with open(path, "r+b") as f:
        f.seek(place)
        f.write(digest.encode())


def check_seal(path: Path) -> None:
    """ScrflowError where the file is not what was written; once a process for a file that does not change."""
    reason = what_is_broken(path)
    if reason:
        raise ScrflowError(f"{path}: {reason}; delete {what_to_delete(path)} and run again")


def what_is_broken(path: Path) -> str | None:
    """Why the file is not to be believed; None where it is what was written."""
    found = os.stat(path)
    return _broken(str(path), found.st_ino, found.st_size, found.st_mtime_ns)


def what_to_delete(path: Path) -> str:
    """So that a damaged file is made anew: itself ("it"), or what it is a link to. Snakemake's cache between workflows
    leaves links in the results, and would give the same damaged file again."""
    return os.path.realpath(path) if os.path.islink(path) else "it"


@lru_cache(maxsize=1024)
def _broken(path: str, *_identity: int) -> str | None:
    place = _place(Path(path))
    if place is None:
        return "damaged, or written by a scrflow of before: it has no digest of its content"
    with open(path, "rb") as f:
        f.seek(place)
        sealed = f.read(DIGITS).decode("ascii", "replace")
    if sealed != _digest(Path(path), place):
        return "damaged: its content is not what was written (SHA-256 differs)"
    return None


def _digest(path: Path, place: int) -> str:
    """SHA-256 of the file, with zeros at the seal's place."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        left = place
        while left:
            chunk = f.read(min(left, _CHUNK))
            if not chunk:
                break
            digest.update(chunk)
            left -= len(chunk)
        digest.update(EMPTY.encode())
        f.seek(place + DIGITS)
        while chunk := f.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _place(path: Path) -> int | None:
    """Offset of the 64 digits; None where there are none."""
    with open(path, "rb") as f:
        size = os.fstat(f.fileno()).st_size
        if path.suffix == ".h5":
            return len(_HDF5) if _is_seal(f.read(_LEAST_BLOCK), _HDF5, 0) else None
        if path.suffix == ".npz":
            begin = max(0, size - len(COMMENT) - DIGITS)
            f.seek(begin)
            return begin + len(COMMENT) if _is_seal(f.read(), COMMENT, 0) else None
        if path.suffix == ".safetensors":
            length = int.from_bytes(f.read(8), "little")
            header, begin, mark = f.read(min(length, size, _MAX_HEADER)), 8, b'"%s":"' % KEY.encode()
            at = header.find(mark)
        else:
            begin, mark = max(0, size - _TAIL), b'"%s": "' % KEY.encode()
            f.seek(begin)
            header = f.read()
            at = header.rfind(mark)
    return begin + at + len(mark) if at >= 0 and _is_seal(header, mark, at) else None


def _is_seal(data: bytes, mark: bytes, at: int) -> bool:
    return data[at : at + len(mark)] == mark and _HEX.match(data, at + len(mark)) is not None
