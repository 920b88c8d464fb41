"""A bad file: how it is made, which reader gets it, and what the user must read."""

import contextlib
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from untrusted_readers import READERS

from scrflow.core.errors import ScrflowError

MOST_BYTES = 2 << 30  # of address space beyond what the process has: crafted sizes are gigabytes to exabytes
LONGEST_LINE = 700

Make = Callable[[dict[str, Path], Path], Path]  # (reader -> a sound file of it, empty folder) -> the bad file


@dataclass(frozen=True)
class Bad:
    """``says`` is a pattern of the message."""

    kind: str
    reader: str
    make: Make
    says: str

    def __str__(self) -> str:
        return self.kind


def check_refused(case: Bad, sound: dict[str, Path], folder: Path) -> None:
    """The reader raises ScrflowError in one line that names the file, and allocates little."""
    folder = folder.resolve()
    path = case.make(sound, folder)
    text = ""
    with little_memory():
        try:
            READERS[case.reader](path)
        except ScrflowError as error:
            text = str(error)
    assert text, "the file is accepted"
    assert "\n" not in text and text.isprintable() and len(text) < LONGEST_LINE, text
    assert str(folder) in text, f"the file is not named: {text}"
    assert re.search(case.says, text), text


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Allocations beyond MOST_BYTES fail in the block."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as f:
        size = int(f.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MOST_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def changed(reader: str, name: str, change: Callable[[bytes], bytes | None]) -> Make:
    """The sound file of a reader with other bytes, or without the file (None); ``name`` is the file in a reader's
    folder, or empty."""

    def make(sound: dict[str, Path], folder: Path) -> Path:
        out = folder / sound[reader].name
        shutil.copytree(sound[reader], out) if sound[reader].is_dir() else shutil.copy(sound[reader], out)
        data = change((out / name).read_bytes())
        (out / name).unlink() if data is None else (out / name).write_bytes(data)
        return out

    return make


def replaced(reader: str, old: str, new: str, name: str = "") -> Make:
    """The sound file of a reader with a text replaced."""

    def change(data: bytes) -> bytes:
        assert old.encode() in data, old
        return data.replace(old.encode(), new.encode(), 1)

    return changed(reader, name, change)


def written(name: str, content: bytes | str) -> Make:
    """A file of these bytes."""

    def make(sound: dict[str, Path], folder: Path) -> Path:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return folder / name

    return make


def half(data: bytes) -> bytes:
    """The first half."""
    return data[: len(data) // 2]
