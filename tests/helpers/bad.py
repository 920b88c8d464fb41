"""A bad file: how it is made, what reads it, and what a user is to be told."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from confined import Confined

# measured: 110 MB for the demo's whole map, under 40 for all bad files; what a lie could cost is gigabytes
MOST_MEGABYTES = 250
LONGEST_LINE = 700

Make = Callable[[dict[str, Path], Path], Path]  # (reader -> a sound file of it, empty folder) -> the bad file


@dataclass(frozen=True)
class Bad:
    """``told`` is a pattern of the message."""

    kind: str
    reader: str
    make: Make
    told: str


def message(case: Bad, confined: Confined, sound: dict[str, Path], folder: Path) -> str:
    """What the user is told of it; AssertionError where that is anything but one line, in little time and memory."""
    folder = folder.resolve()
    path = case.make(sound, folder)
    found = confined.run(case.reader, path)
    assert found.kind == "told", f"{case.kind}: {found}"
    text = found.message
    assert "\n" not in text and text.isprintable() and len(text) < LONGEST_LINE, text
    assert str(folder) in text, f"the file is not named: {text}"
    assert re.search(case.told, text), text
    assert found.megabytes < MOST_MEGABYTES and found.seconds < 5, found
    return text


def changed(reader: str, name: str, change: Callable[[bytes], bytes]) -> Make:
    """The sound file of a reader with other bytes; ``name`` is the file in a reader's folder, or empty."""

    def make(sound: dict[str, Path], folder: Path) -> Path:
        source = sound[reader]
        if source.is_dir():
            out = folder / source.name
            shutil.copytree(source, out)
            (out / name).write_bytes(change((out / name).read_bytes()))
        else:
            out = folder / source.name
            out.write_bytes(change(source.read_bytes()))
        return out

    return make


def written(name: str, content: bytes | str) -> Make:
    """A file of these bytes."""

    def make(sound: dict[str, Path], folder: Path) -> Path:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return folder / name

    return make
