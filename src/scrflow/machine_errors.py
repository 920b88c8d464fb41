"""Where the machine says no (a full disk, a quota, permissions, memory): a line, as it is no bug of the program."""

from __future__ import annotations

import errno
import os

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
_BY_TEXT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
WRITING = "while writing "  # of the note that an error bears where a library does not say which file it is of
_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "Unable to allocate")


def told_in_a_line(error: BaseException) -> str | None:
    """``where: what; the mend``; None for an error that is not the machine's."""
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)
    if number not in _MENDS:
        number = next((n for n in _BY_TEXT if os.strerror(n) in text), None)
    if number is not None:
        written = next(
            (n.removeprefix(WRITING) for n in getattr(error, "__notes__", ()) if n.startswith(WRITING)), None
        )
        where = getattr(error, "filename", None) or written or _first_line(text) or type(error).__name__
        where = os.fspath(where) if isinstance(where, str | os.PathLike) else str(where)
        said = "" if os.strerror(number) in where else f": {os.strerror(number)}"
        return f"{where}{said}; {_MENDS[number]}"
    if isinstance(error, MemoryError) or any(sign in text for sign in _MEMORY):
        return f"memory ran out ({_first_line(text) or 'no more is told'}); give the job more (mem_mb), or work on less"
    return None


def _first_line(text: str, most: int = 200) -> str:
    return text.splitlines()[0][:most] if text.strip() else ""
