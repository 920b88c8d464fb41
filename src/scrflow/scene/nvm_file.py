"""VisualSFM's N-View Match files (NVM_V3): cameras, 3D points and their measurements, as the file has them.

A camera is ``name focal qw qx qy qz cx cy cz radial 0``: rotation world to camera, camera centre. A point is
``x y z r g b n`` and n times ``image feature x y``. What radial and x y mean is in ``scrflow.scene.readers.nvm``.
A file may go on with further models and a section about PLY files; the first model counts.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scrflow.core.errors import ScrflowError
from scrflow.scene.checks.validate import check_unique

log = logging.getLogger("scrflow")

_BLOCK = 1 << 24  # bytes of text parsed at a time: Aachen's file has hundreds of MB
_LONGEST_COUNT = 18  # digits
_HEAD = 7  # numbers of a point before its measurements


@dataclass(frozen=True, eq=False)
class NvmModel:
    """N cameras; P points with M measurements, those of a point one after the other."""

    names: tuple[str, ...]  # [N]
    focal: np.ndarray  # [N] px
    quaternion: np.ndarray  # [N, 4] w x y z, world to camera, as written (not normalised)
    centre: np.ndarray  # [N, 3] in the world
    radial: np.ndarray  # [N]
    xyz: np.ndarray  # [P, 3]
    rgb: np.ndarray  # [P, 3] uint8
    point: np.ndarray  # [M] int64, index into xyz
    image: np.ndarray  # [M] int64, index into names
    xy: np.ndarray  # [M, 2] float64, as written


def read_nvm(path: Path, points: bool = True) -> NvmModel:
    """The first model of the file, without its points where ``points`` is False. ScrflowError names a damaged line."""
    path = Path(path)
    try:
        with open(path, "rb") as f:
            lines = _Lines(f, path)
            header = lines.next("the header NVM_V3").split()
            if header != [b"NVM_V3"]:
                raise ScrflowError(
                    f"{path}: begins with {header[0][:30].decode('latin-1')!r} and {len(header) - 1} more fields, "
                    "expected 'NVM_V3' alone (no fixed calibration); save the model again by VisualSFM"
                )
            count = lines.count("cameras")
            rows = [_camera(lines.next(f"camera {i + 1} of {count}"), lines.where()) for i in range(count)]
            names = tuple(name for name, _ in rows)
            check_unique(names, str(path))
            values = np.array([row for _, row in rows], np.float64).reshape(count, 10)
            xyz, rgb, point, image, xy = _points(lines, lines.count("points"), count) if points else _no_points()
            if points:
                _tell_of_more(lines)
    except OSError as error:
        raise ScrflowError(f"{path}: NVM model cannot be read ({error.strerror}); mend the path in source") from None
    return NvmModel(names, values[:, 0], values[:, 1:5], values[:, 5:8], values[:, 8], xyz, rgb, point, image, xy)


class _Lines:
    """Lines that are not empty, with their numbers."""

    def __init__(self, file: BinaryIO, path: Path):
        self.file, self.path, self.number = file, path, 0

    def where(self) -> str:
        return f"{self.path}: line {self.number}"

    def read(self) -> bytes | None:
        for line in self.file:
            self.number += 1
            if line.strip():
                return line
        return None

    def next(self, what: str) -> bytes:
        line = self.read()
        if line is None:
            raise ScrflowError(f"{self.path}: ends before {what}; copy the file again")
        return line

    def count(self, what: str) -> int:
        line = self.next(f"the number of {what}").strip()
        if not line.isdigit() or len(line) > _LONGEST_COUNT:
            raise ScrflowError(
                f"{self.where()}: {line[:40].decode('latin-1')!r}, expected the number of {what}; copy the file again"
            )
        return int(line)


def _camera(line: bytes, where: str) -> tuple[str, list[float]]:
    # VisualSFM parts the name by a tab and writes blanks of a name as quotation marks
    fields = line.decode("utf-8", "replace").rsplit(None, 10)
    try:
        values = [float(v) for v in fields[1:]]
    except ValueError:
        values = []
    if len(values) != 10 or not np.isfinite(values).all():
        raise ScrflowError(
            f"{where}: expected a camera 'name focal qw qx qy qz cx cy cz radial 0' with finite numbers; "
            "copy the file again"
        )
    return fields[0].strip().replace('"', " ").replace("\\", "/"), values


def _no_points() -> tuple[np.ndarray, ...]:
    none = np.zeros(0, np.int64)
    return np.zeros((0, 3)), np.zeros((0, 3), np.uint8), none, none, np.zeros((0, 2))


def _points(lines: _Lines, count: int, cameras: int) -> tuple[np.ndarray, ...]:
    """(xyz, rgb, point, image, xy) of ``count`` points."""
    parts, done = [_no_points()], 0
    for begin, block in _blocks(lines.file) if count else ():
        values, starts, used = _numbers(block, count - done, lines)
        n = values[starts + _HEAD - 1].astype(np.int64)
        point = np.repeat(np.arange(len(n)), n)
        first = starts[point] + _HEAD + 4 * (np.arange(len(point)) - (np.cumsum(n) - n)[point])
        image = values[first].astype(np.int64)
        if len(image) and (image.min() < 0 or image.max() >= cameras):
            raise ScrflowError(
                f"{lines.path}: points {done + 1} to {done + len(n)} name image {image.max()} of {cameras}; "
                "copy the file again"
            )
        rgb = np.clip(values[starts[:, None] + (3, 4, 5)], 0, 255).astype(np.uint8)
        parts.append((values[starts[:, None] + (0, 1, 2)], rgb, point + done, image, values[first[:, None] + (2, 3)]))
        done += len(n)
        if done == count:
            lines.file.seek(begin + used)  # what follows is read line by line
            break
    if done < count:
        raise ScrflowError(f"{lines.path}: ends after {done} of {count} points; copy the file again")
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _blocks(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The rest of the file in pieces of whole lines, each with its place in the file."""
    begin, rest = file.tell(), b""
    while data := file.read(_BLOCK):
        rest += data
        cut = rest.rfind(b"\n") + 1
        if cut:
            yield begin, rest[:cut]
            begin, rest = begin + cut, rest[cut:]
    if rest:
        yield begin, rest + b"\n"


def _numbers(block: bytes, wanted: int, lines: _Lines) -> tuple[np.ndarray, np.ndarray, int]:
    """(all numbers, index of the first of each point [k], bytes read) of at most ``wanted`` points.

    The numbers of each line are counted on the bytes, so that lines and records are held against each other.
    """
    text = np.frombuffer(block, np.uint8)
    blank = text <= 32
    begins = ~blank
    begins[1:] &= blank[:-1]
    ends = np.flatnonzero(text == 10)
    counts = np.diff(np.cumsum(begins, dtype=np.int64)[ends], prepend=0)  # numbers of each line
    full = np.flatnonzero(counts)[:wanted]
    used = int(ends[full[-1]]) + 1 if len(full) == wanted else len(block)
    first_line = lines.number + 1
    lines.number += int(np.searchsorted(ends, used))
    counts = counts[full]
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            values = np.fromstring(block[:used], sep=" ")
        except (ValueError, DeprecationWarning):
            values = np.empty(0)
    starts = np.cumsum(counts) - counts
    if len(values) != counts.sum():
        good = np.array([_all_numbers(line) for line in block[:used].splitlines() if line.strip()], bool)
        raise _bad_point(lines.path, first_line + int(full[np.flatnonzero(~good)[0]]) if not good.all() else first_line)
    right = counts > _HEAD
    n = np.zeros(len(counts))
    n[right] = values[starts[right] + _HEAD - 1]
    wrong = ~right | (counts != _HEAD + 4 * n)
    if wrong.any():
        raise _bad_point(lines.path, first_line + int(full[np.flatnonzero(wrong)[0]]))
    if not np.isfinite(values).all():
        bad = int(np.searchsorted(starts, np.flatnonzero(~np.isfinite(values))[0], side="right")) - 1
        raise _bad_point(lines.path, first_line + int(full[bad]))
    return values, starts, used


def _all_numbers(line: bytes) -> bool:
    try:
        [float(v) for v in line.split()]
    except ValueError:
        return False
    return True


def _bad_point(path: Path, number: int) -> ScrflowError:
    return ScrflowError(
        f"{path}: line {number}: expected a point 'x y z r g b n' and n times 'image feature x y', finite numbers; "
        "copy the file again"
    )


def _tell_of_more(lines: _Lines) -> None:
    line = (lines.read() or b"0").strip()
    if line.isdigit() and int(line):
        log.warning("%s: a further model of %s cameras follows; the first is taken", lines.path, line.decode())
