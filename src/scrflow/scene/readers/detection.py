"""What the readers' functions ``detect`` share: they look at names and at the first lines of small files."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from scrflow.core.errors import ScrflowError
from scrflow.scene.lists import finite_numbers, read_json_text
from scrflow.scene.photo_names import PHOTO_FOLDERS, PhotoNames
from scrflow.scene.readers import Found
from scrflow.storage.listfile import has_suffix, open_text, read_lines, split_name

DEPTH = 3  # levels of folders that are searched
LOOKED_AT = 200  # lines of a file, names of a model
_LARGEST_TEXT = 64 << 20  # bytes


def walk(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Files and folders down to ``depth`` levels, sorted, without hidden ones."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:  # no stat for each photo
        found = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    for name, is_folder in found:
        yield folder / name
        if depth > 1 and is_folder:
            yield from walk(folder / name, depth - 1)


def has(folder: Path, *patterns: str) -> bool:
    """Whether each of the globs matches something in the folder."""
    return all(any(folder.glob(pattern)) for pattern in patterns)


def by_files(form: str, reader: str, *patterns: str) -> Callable[[Path], Found | None]:
    """``detect`` of a metric form whose source needs no keys, known by files and folders."""

    def detect(path: Path) -> Found | None:
        return Found(form, path, {"reader": reader}, ", ".join(patterns), "m") if has(path, *patterns) else None

    return detect


def files_like(path: Path, *patterns: str) -> list[Path]:
    """The path itself, if it is a file that a pattern matches, or such files under it, those at its top first."""
    if path.is_file():
        return [path] if any(path.match(pattern) for pattern in patterns) else []
    found = [p for p in walk(path) if any(p.match(pattern) for pattern in patterns) and p.is_file()]
    return sorted(found, key=lambda p: len(p.parts))


def first_rows(file: Path) -> list[tuple[str, list[str]]]:
    """(name, fields after it) of the first lines of a text file that are no comments."""
    return [split_name(line) for line in first_lines(file)]


def first_lines(file: Path) -> list[str]:
    """The first stripped lines of a text file that are neither empty nor comments; none if it is no text."""
    try:
        if file.stat().st_size > _LARGEST_TEXT:  # its beginning is enough
            with open_text(file) as text:
                lines = [line.strip() for line in islice(text, LOOKED_AT)]
                return [line for line in lines if line and not line.startswith("#")]
        return [line for _, line in read_lines(file)[:LOOKED_AT]]
    except (ScrflowError, OSError):
        return []


def json_of(file: Path) -> object:
    """The value of a JSON file; None where it cannot be read."""
    try:
        return read_json_text(file)
    except (ScrflowError, OSError):
        return None


def numbers_only(fields: list[str], *counts: int) -> bool:
    """Whether the fields are as many finite numbers as one of ``counts``."""
    return len(fields) in counts and finite_numbers(fields) is not None


def image_folder(names: list[str], near: list[Path], path: Path) -> Path:
    """The folder that most of the names are relative to; ``near`` goes before what is elsewhere under ``path``."""
    usual = [folder / name for folder in near for name in PHOTO_FOLDERS]
    folders = [f for f in dict.fromkeys([*usual, *near, path, *walk(path)]) if f.is_dir()]
    exact = {folder: sum(os.path.isfile(folder / name) for name in names) for folder in folders}
    best = max(folders, key=lambda folder: exact[folder])
    if exact[best] == len(names):
        return best
    # folders above the path are not indexed: they may hold other scenes, or a whole disk
    photos = {f: PhotoNames(f) for f in folders if f in usual or (f in near and f.is_relative_to(path))}
    found = {folder: sum(finds(p, name) for name in names) for folder, p in photos.items()}
    most = max(found, key=lambda folder: found[folder], default=best)
    return most if found.get(most, 0) > exact[best] else best


def finds(photos: PhotoNames, name: str) -> bool:
    """Whether a name is that of a photo, or of several."""
    try:
        return photos.find(name, "") is not None
    except ScrflowError:  # several fit
        return False


def model_and_images(path: Path, model: Path, names: list[str]) -> tuple[Path, dict[str, str]]:
    """The folder that has a model and its images, ``path`` or one above it, and the keys ``model`` and ``images``."""
    images = image_folder(names, [model.parent, model.parent.parent], path)
    inside = model.is_relative_to(path) and images.is_relative_to(path)
    root = path if inside else Path(os.path.commonpath([model.parent, images]))
    return root, {key: part.relative_to(root).as_posix() for key, part in (("model", model), ("images", images))}


def root_of(path: Path, file: Path, names: Iterable[object]) -> Path:
    """The folder that holds a pose file and the photos it names: ``path``, the file's own, or one above it."""
    names = photo_names(names)[:LOOKED_AT]
    exact = [Path(os.path.abspath(file.parent / name)) for name in names]
    exact = [p for p in exact if os.path.isfile(p)]  # Path.is_file raises for names that are too long
    if names and len(exact) == len(names):
        root = Path(os.path.commonpath([file.parent, *(p.parent for p in exact)]))
        return path if path.is_dir() and root.is_relative_to(path) else root
    folders = [path] if path.is_dir() else []
    for folder in dict.fromkeys([*folders, file.parent, file.parent.parent]):
        photos = PhotoNames(folder)
        if any(finds(photos, name) for name in names):
            return folder
    return folders[0] if folders else file.parent


def photo_names(values: Iterable[object]) -> list[str]:
    """The strings among values that name photos, with ``/`` between their parts."""
    return [posixpath.normpath(v.replace("\\", "/")) for v in values if isinstance(v, str) and v]


def is_photo(name: object) -> bool:
    return isinstance(name, str) and has_suffix(name)
