"""Where the machine says no (a full disk, a quota, permissions, memory): a line, as it is no bug of the program."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# number -> the mend. Libraries in C tell the text of the error alone, and their own exception types
_MENDS = {
    errno.ENOSPC: "make room and run again",
    errno.EDQUOT: "make room within the quota and run again",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "mend the permissions and run again",
    errno.EPERM: "mend the permissions and run again",
    errno.EIO: "the disk or the network file system fails: look at it, and run again",
    errno.ESTALE: "the network file system lost the file: run again",
    errno.EMFILE: "raise the limit of open files (ulimit -n) and run again",
    errno.ENFILE: "too many files are open on this machine: close some and run again",
    errno.ENOMEM: "give the job more memory (mem_mb) and run again",
    errno.EFBIG: "the file system holds no file so large: choose another",
    errno.ENAMETOOLONG: "shorten the name",
}
_BY_TEXT = {os.strerror(n): n for n in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)} | {
    "database or disk is full": errno.ENOSPC  # SQLite
}
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
WRITING = "while writing "  # of the note that an error bears where a library does not say which file it is of
_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "Unable to allocate")
# a library gives the room back of what it could not write, which for COLMAP is at most an image's features
_NO_ROOM = 1 << 24


def no_room(path: Path) -> OSError | None:
    """The error of a full disk, about the file ``path``, if there is next to no room beside it."""
    if shutil.disk_usage(Path(path).parent).free >= _NO_ROOM:
        return None
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))


@contextlib.contextmanager
def full_disk_told(path: Path) -> Iterator[None]:
    """For a block in which COLMAP works on a database for, or at, ``path``. Where the disk is full it says "No
    registered database factory succeeded": OSError (no space) then."""
    try:
        yield
    except RuntimeError as error:
        full = no_room(path) if "database" in str(error) else None
        if full is None:
            raise
        raise full from error


def told_in_a_line(error: BaseException) -> str | None:
    """``where: what; the mend``; None for an error that is not the machine's."""
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)
    if number not in _MENDS:
        number = next((n for sign, n in _BY_TEXT.items() if sign in text), None)
    if number is not None:
        notes = [n.removeprefix(WRITING) for n in getattr(error, "__notes__", ()) if n.startswith(WRITING)]
        written = notes[-1] if notes else None  # the outermost: the others have passing names
        name = getattr(error, "filename", None)
        known = written or name if number in _OF_WRITING else name or written
        where = known or _first_line(text) or type(error).__name__
        where = os.fspath(where) if isinstance(where, str | os.PathLike) else str(where)
        said = "" if os.strerror(number) in where else f": {os.strerror(number)}"
        return f"{where}{said}; {_MENDS[number]}"
    if isinstance(error, MemoryError) or any(sign in text for sign in _MEMORY):
        return f"memory ran out ({_first_line(text) or 'no more is told'}); give the job more (mem_mb), or work on less"
    return None


def _first_line(text: str, most: int = 200) -> str:
    return text.splitlines()[0][:most] if text.strip() else ""
