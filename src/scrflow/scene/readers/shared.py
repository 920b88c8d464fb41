"""What readers share: a look at names and at the first lines of small files, and pose files whose photos are found by
the names that they list."""

import logging
import os
import posixpath
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pycolmap

from scrflow.core.errors import ScrflowError
from scrflow.core.images import image_size
from scrflow.scene.checks import check_unique, some
from scrflow.scene.colmap_model import View
from scrflow.scene.lists import PHOTO_FOLDERS, PhotoNames, finite_numbers, read_json_text
from scrflow.scene.readers import MODEL, Collection, Found, Reader
from scrflow.storage.listfile import open_text, read_lines, split_name

log = logging.getLogger("scrflow")
DEPTH = 3  # levels of folders that are searched
LOOKED_AT = 200  # lines of a file, names of a model
_LARGEST_TEXT = 64 << 20  # bytes
OPENCV_FROM_OPENGL = np.array([1.0, -1.0, -1.0])  # of the camera's axes: x right, y down or up, z forward or backward


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


@dataclass(frozen=True, eq=False)
class Posed:
    """A photo as a pose file lists it."""

    listed: str
    cam_from_world: np.ndarray | None  # [3, 4]; None where the file says that it has no pose
    camera: pycolmap.Camera | Callable[[tuple[int, int]], pycolmap.Camera]  # or by width and height of the photo's file
    where: str  # file and line or key, for errors


def collect(path: Path, folder: Path, photos: Iterable[Posed], skip_missing: bool) -> Collection:
    """The photos of a pose file ``path`` with names relative to ``folder``."""
    names = PhotoNames(folder)
    views, missing, left_out = [], [], {}
    for photo in photos:
        name = names.find(photo.listed, photo.where)
        if name is None:
            missing.append(photo.listed)
            continue
        if photo.cam_from_world is None:
            left_out[name] = f"without a pose in {path.name}"
        known = isinstance(photo.camera, pycolmap.Camera)
        camera = photo.camera if known else photo.camera(image_size(folder / name))
        views.append(View(name, camera, photo.cam_from_world))
    if missing:
        told = f"{len(missing)} of {len(missing) + len(views)} photos have no file under {folder}"
        told = f"{path}: {told} ({some(missing)})"
        if not skip_missing or not views:
            raise ScrflowError(f"{told}; put the images there or set source.skip_missing: true")
        log.warning("%s; they are left out", told)
    if not any(view.cam_from_world is not None for view in views):
        raise ScrflowError(f"{path}: no pose in it; correct the file")
    check_unique((view.name for view in views), str(path))
    return Collection(path, folder, tuple(views), left_out=left_out, absent=len(missing))


def rigid(R: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """cam_from_world [3, 4] of a rotation world to camera and the camera's centre."""
    return np.column_stack([R, -R @ np.asarray(centre, np.float64)])


class PoseFile(Reader):
    """A form with the poses of its photos in one file, which the first of ``file_keys`` names."""

    patterns: ClassVar[tuple[str, ...]]  # of the file's name
    unit: ClassVar[str] = "unit"
    lists: ClassVar[str]  # what the file has one of for each photo

    @classmethod
    def listed(cls, file: Path) -> Iterable[object] | None:
        """What a file lists, names where it has them; None if it is of another form. For ``detect``: a form with a
        ``detect`` of its own (Bundler) needs none."""
        return None

    @abstractmethod
    def posed(self, path: Path, root: Path) -> Iterable[Posed]:
        """The photos that the file lists; any error of a wrong key, type or value if the form's program has not
        written it."""

    def photo_folder(self, path: Path, root: Path) -> Path:
        """The folder that names are relative to."""
        return root

    @classmethod
    def detect(cls, path: Path) -> Found | None:
        for file in files_like(path, *cls.patterns):
            listed = cls.listed(file)
            if listed is not None:
                root = root_of(path, file, listed)
                source: dict[str, Any] = {
                    "reader": cls.reader_name(),
                    cls.file_keys[0]: file.relative_to(root).as_posix(),
                }
                return Found(
                    cls.form, root, source, f"{file.name} with {len(list(listed))} {cls.lists}", cls.unit, MODEL
                )
        return None

    def read(self, root: Path) -> Collection:
        """All photos of the file; those without a pose are left out."""
        path = root / getattr(self, self.file_keys[0])
        try:
            photos = list(self.posed(path, root))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            told = f"{type(error).__name__}: {error}"
            raise ScrflowError(f"{path}: not as {self.form} writes it ({told}); write it again") from None
        return collect(path, self.photo_folder(path, root), photos, self.skip_missing)
