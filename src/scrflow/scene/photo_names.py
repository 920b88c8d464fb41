"""Which photo a list means: names as other systems, folders and machines write them."""

from __future__ import annotations

import logging
import os
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path

import pycolmap

from scrflow.core.errors import ScrflowError
from scrflow.scene.lists import read_query_list
from scrflow.storage.listfile import has_suffix

log = logging.getLogger("scrflow")
PHOTO_FOLDERS = ("images", "input", "rgb", "color", "photos", "frames")  # usual names of a scene's folder of photos
_MOST = 500_000  # files of a folder that are indexed
_PREFERRED = (".png", ".jpg", ".jpeg")  # of photos that differ by their suffix alone


class PhotoNames:
    """Photos that a list can name: those under a folder, or some names relative to one.

    A name is taken as it is if such a photo exists. Otherwise backslashes, upper case, Unicode forms, the suffix and
    ``..`` are ignored, and a photo fits if its path ends with the listed one or the listed one ends with it (a usual
    first folder of the photo, such as ``images/``, may be missing there).
    """

    def __init__(self, photos: Path | Iterable[str]) -> None:
        self._folder = photos if isinstance(photos, Path) else None
        self._names = frozenset() if isinstance(photos, Path) else frozenset(photos)
        self._by_stem: dict[str, list[str]] | None = None

    def find(self, listed: str, where: object) -> str | None:
        """The photo's name relative to the folder; None where there is none. ScrflowError, beginning with ``where``,
        for a name that fits several photos."""
        name = posixpath.normpath(listed.strip().replace("\\", "/"))
        if self._folder is not None and name.startswith("/"):
            name = name.removeprefix(f"{self._folder.as_posix().rstrip('/')}/")
        for exact in dict.fromkeys((posixpath.normpath(listed), name)):
            if self.has(exact):
                return exact
        mine = _key(name)
        best: tuple = ()
        found: list[str] = []
        for photo in self._index().get(mine[-1], ()):
            other = _key(photo)
            agree = _common_end(mine, other)
            usual = agree == len(other) - 1 and other[0] in PHOTO_FOLDERS
            if agree not in (len(mine), len(other)) and not usual:
                continue
            suffix = posixpath.splitext(photo)[1].lower()
            same = posixpath.splitext(name)[1].lower() == suffix
            pictures = other[0] in PHOTO_FOLDERS  # rather than masks or depth maps of the same names
            rank = (agree, same, pictures, photo.endswith(name), suffix in _PREFERRED, -len(suffix))
            if rank[:3] > best[:3] or not found:
                best, found = rank, [photo]
            elif rank[:3] == best[:3]:
                if posixpath.dirname(photo) != posixpath.dirname(found[0]):
                    found.append(photo)
                elif rank > best:
                    best, found[0] = rank, photo
        if len(found) > 1:
            raise ScrflowError(f"{where}: {listed} fits several photos ({', '.join(found[:3])}); name the folder too")
        return found[0] if found else None

    def has(self, name: str) -> bool:
        """Whether a photo has exactly this name."""
        if self._folder is None:
            return name in self._names
        if name.startswith("/") or ".." in name.split("/") or not name.isprintable():
            return False
        path = self._folder / name
        return os.path.lexists(path) and (has_suffix(name) or not path.is_dir())

    def _index(self) -> dict[str, list[str]]:
        if self._by_stem is None:
            self._by_stem = {}
            for name in sorted(self._names if self._folder is None else photos_under(self._folder)):
                self._by_stem.setdefault(_key(name)[-1], []).append(name)
        return self._by_stem


def read_photo_list(path: Path, names: PhotoNames, skip_missing: bool = False) -> dict[str, pycolmap.Camera | None]:
    """The photos of a list file with the cameras that it gives (``lists.read_query_list``); names without
    a photo are kept as listed, or with ``skip_missing`` left out with a warning."""
    out: dict[str, pycolmap.Camera | None] = {}
    for listed, camera in read_query_list(path).items():
        name = names.find(listed, path) or listed
        if name in out:
            raise ScrflowError(f"{path}: {name} is listed twice, also as {listed}; remove one line")
        out[name] = camera
    gone = [name for name in out if skip_missing and not names.has(name)]
    if gone:
        log.warning("%s: %d of %d photos have no file; they are left out", path, len(gone), len(out))
    return {name: camera for name, camera in out.items() if name not in gone}


def _common_end(a: list[str], b: list[str]) -> int:
    """How many parts are equal, from the end."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(reversed(a), reversed(b), strict=False)))


def _key(name: str) -> list[str]:
    """The parts of a path for comparison: without drive, ``..``, case and the photo's suffix."""
    parts = [p for p in unicodedata.normalize("NFC", name).lower().split("/") if p not in ("", ".", "..")]
    if len(parts) > 1 and parts[0].endswith(":"):
        parts = parts[1:]
    last = parts[-1] if parts else ""
    while has_suffix(last):  # scrflow upright makes a.HEIC.jpg of a.HEIC
        last = last.rpartition(".")[0]
    return [*parts[:-1], last]


def photos_under(folder: Path) -> Iterator[str]:
    """Names of the photos under a folder; links to folders are followed, hidden folders are not."""
    seen: set[str] = set()
    count = 0
    for at, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(at)
        if real in seen or count > _MOST:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        count += len(files)
        for file in files:
            if has_suffix(file) and not file.startswith("."):
                yield Path(os.path.relpath(os.path.join(at, file), folder)).as_posix()
