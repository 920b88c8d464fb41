"""Errors that the user can fix, and the one line that is printed for each of them."""

import contextlib
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

_LONGEST = 2000  # characters; a name in a crafted file may be longer
_HEAD, _TAIL = 1400, 500

# C libraries raise their own exception types, which hold only the system's text: so errors are known by text too
_FIXES = {
    errno.ENOSPC: "make room and run again",
    errno.EDQUOT: "make room within the quota and run again",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "fix the permissions and run again",
    errno.EPERM: "fix the permissions and run again",
    errno.EIO: "the disk or the network file system fails: check it and run again",
    errno.ESTALE: "the network file system lost the file: run again",
    errno.EMFILE: "raise the limit of open files (ulimit -n) and run again",
    errno.ENFILE: "too many files are open on this machine: close some and run again",
    errno.ENOMEM: "give the job more memory (mem_mb) and run again",
    errno.EFBIG: "the file system cannot hold a file of this size: choose another",
    errno.ENAMETOOLONG: "shorten the name",
}
_BY_TEXT = {os.strerror(n): n for n in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)} | {
    "database or disk is full": errno.ENOSPC  # SQLite
}
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "Unable to allocate")
WRITING = "while writing "  # begins the note that names the file being written (storage.artifact.writing)
_FULL = 1 << 24  # bytes; COLMAP frees the space of what it could not write, at most one image's features


class ScrflowError(Exception):
    """A mistake in input, config or files that the user can fix, printed as one line: the file or key, what was
    expected, and what to do. Every other exception is a bug and keeps its traceback. Characters that are not printable
    are shown as their codes, so that text quoted from a file cannot command a terminal."""

    def __init__(self, message: str = "") -> None:
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(message))
        super().__init__(text if len(text) <= _LONGEST else f"{text[:_HEAD]} ... {text[-_TAIL:]}")


def error_line(error: BaseException) -> str | None:
    """The line that the user sees instead of a traceback: the message of a ScrflowError, or ``where: what; the fix`` of
    an error of the machine (disk, quota, permissions, memory), or of a package that is not installed. None
    for any other error, which is a bug."""
    if isinstance(error, ScrflowError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return _missing_package(error.name or "")
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)
    if number not in _FIXES:
        number = next((n for sign, n in _BY_TEXT.items() if sign in text), None)
    if number is not None:
        notes = [n.removeprefix(WRITING) for n in getattr(error, "__notes__", ()) if n.startswith(WRITING)]
        written = notes[-1] if notes else None  # the outermost: the others have temporary names
        name = getattr(error, "filename", None)
        known = written or name if number in _OF_WRITING else name or written
        where = known or _first_line(text) or type(error).__name__
        where = os.fspath(where) if isinstance(where, str | os.PathLike) else str(where)
        what = "" if os.strerror(number) in where else f": {os.strerror(number)}"
        return f"{where}{what}; {_FIXES[number]}"
    if isinstance(error, MemoryError) or any(sign in text for sign in _MEMORY):
        return f"memory ran out ({_first_line(text) or 'no details'}); give the job more (mem_mb), or reduce the work"
    return None


def _missing_package(module: str) -> str | None:
    """The pip command for a module that pyproject.toml names: a light installation has not all of them, and some come
    with an extra. None for any other module."""
    import importlib.metadata

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        installed = importlib.metadata.distribution("scrflow")
        package = module.partition(".")[0].replace("_", "-")
        for need, _, marker in (need.partition(";") for need in installed.requires or ()):
            if package and need.startswith(package):
                extra = marker.partition("extra ==")[2].strip(" '\"")
                source = json.loads(installed.read_text("direct_url.json") or "{}").get("url")  # where pip had it from
                what = "scrflow" + (f"[{extra}]" if extra else "") + (f" @ {source}" if source else "")
                return f"{package} is not installed; pip install '{what}'"
    return None


@contextlib.contextmanager
def exit_on_error(status: int = 1) -> Iterator[None]:
    """Print the ``error_line`` of what the block raises and end the process with ``status``; let a bug pass."""
    try:
        yield
    except Exception as error:
        line = error_line(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(status)


@contextlib.contextmanager
def damage_reported(path: Path, otherwise: str, fix: str = "delete it and run again") -> Iterator[None]:
    """ScrflowError for whatever a library raises when it reads a damaged file; errors of the machine pass.
    ``otherwise`` is what the file may be instead, such as "not an HDF5 file"."""
    try:
        yield
    except Exception as error:
        if error_line(error) is not None:
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ScrflowError(f"{path}: damaged, or {otherwise} ({reason}); {fix}") from None


def _first_line(text: str, most: int = 200) -> str:
    return text.splitlines()[0][:most] if text.strip() else ""


def full_disk_error(path: Path) -> OSError | None:
    """The error of a full disk at ``path``; None if the disk has room. For libraries that hide the cause."""
    if shutil.disk_usage(Path(path).parent).free >= _FULL:
        return None
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))


@contextlib.contextmanager
def full_disk_reported(path: Path) -> Iterator[None]:
    """For a block in which COLMAP works on a database for, or at, ``path``: on a full disk COLMAP only says "No
    registered database factory succeeded", so raise the OSError of a full disk then."""
    try:
        yield
    except RuntimeError as error:
        full = full_disk_error(path) if "database" in str(error) else None
        if full is None:
            raise
        raise full from error
