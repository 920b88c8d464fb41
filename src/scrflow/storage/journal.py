"""The results of a long job on disk as they come, so that a killed job continues where it was.

One JSON object a line, which ends with the CRC-32 of the rest of the line. The first line holds the key of the job
(its recipe and inputs): a journal with another key is started anew. A damaged line and all after it are dropped.
"""

import json
import zlib
from pathlib import Path
from typing import Any, Self, TextIO

from scrflow.core.progress import log

_KEY = "journal of"
_CRC, _END = ', "crc": "', '"}\n'


class Journal:
    """``with Journal(path, key) as journal``: ``done`` has the earlier records by name, ``add`` appends one."""

    def __init__(self, path: Path, key: str):
        self.path, self._key = path, key
        self.done: dict[str, dict[str, Any]] = {}
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        length = self._read() if self.path.exists() else 0
        if self.done:
            log.info("%s: continuing after %d that are done", self.path, len(self.done))
        self._file = open(self.path, "a", encoding="utf-8")
        self._file.truncate(length)
        if length == 0:
            self._write({_KEY: self._key})
        return self

    def _read(self) -> int:
        """Fill ``done``; the length in bytes of the sound lines, 0 for another job's journal."""
        length = 0
        with open(self.path, "rb") as file:
            for line in file:
                try:
                    record = _record(line)
                    if length == 0 and record != {_KEY: self._key}:
                        return 0
                    if length:
                        self.done[record["name"]] = record
                except (ValueError, KeyError, TypeError):
                    break
                length += len(line)
        return length

    def add(self, name: str, record: dict[str, Any]) -> None:
        """Append a record; the operating system has it when this returns."""
        self._write({"name": name, **record})

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(line_of(line))
        self._file.flush()

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def remove(self) -> None:
        """Call when the job is done and its results are written."""
        self.path.unlink()


def line_of(record: dict[str, Any]) -> str:
    """The line of a record."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)[:-1]
    return f"{text}{_CRC}{zlib.crc32(text.encode()):08x}{_END}"


def _record(line: bytes) -> dict[str, Any]:
    """ValueError for a line that is damaged or cut off."""
    text, mark, crc = line.rpartition(_CRC.encode())
    if not mark or crc != b"%08x" % zlib.crc32(text) + _END.encode():
        raise ValueError("damaged line")
    return json.loads(text + b"}")
