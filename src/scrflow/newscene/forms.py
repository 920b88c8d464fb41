"""Which dataset form a path has: a table of detectors, one function a form, each giving evidence.

A detector looks at names and at the first lines of small files; reading, and its errors, are the reader's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from scrflow.core.errors import ScrflowError
from scrflow.scene.colmap_model import read_model
from scrflow.scene.lists import read_json_text
from scrflow.scene.photo_files import list_photos
from scrflow.scene.readers.sevenscenes import SevenScenesSource
from scrflow.storage.listfile import has_suffix, split_name

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mts", ".m2ts", ".3gp", ".mpg", ".mpeg"})
_DEPTH = 3  # folders below the path that are looked through
_NAMES = 200  # image names of a model that are looked up to find its image folder


@dataclass(frozen=True)
class Found:
    """A form that fits: ``root`` of the scene (of a video: its file), and ``source`` as in the scene's config."""

    form: str
    root: Path
    source: dict[str, Any]
    evidence: str
    unit: str  # m where the form is metric by definition, else unit


Detector = Callable[[Path], Found | None]


def detect(path: Path) -> list[Found]:
    """All forms that fit ``path``, the most specific first; ScrflowError where none does."""
    path = Path(os.path.abspath(path))
    if not path.exists():
        raise ScrflowError(f"{path}: no such file or folder; correct the path")
    found = [f for f in (detector(path) for detector in FORMS.values()) if f is not None]
    if found:
        return found
    suffixes = sorted({p.suffix.lower() for p in _walk(path) if p.is_file() and p.suffix})
    what = f"no photos and no form known in it, only {', '.join(suffixes[:8])}" if suffixes else "an empty folder"
    what = "a file of no known form" if path.is_file() else what
    raise ScrflowError(f"{path}: {what}; expected one of: {', '.join(FORMS)} (README, section on your own photos)")


def _walk(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Files and folders down to ``depth`` levels, sorted, without hidden ones."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.startswith("."):
            yield path
            if depth > 1 and path.is_dir():
                yield from _walk(path, depth - 1)


def _has(folder: Path, *patterns: str) -> bool:
    return all(any(folder.glob(pattern)) for pattern in patterns)


def _by_files(form: str, reader: str, *patterns: str) -> Detector:
    """A metric form whose source needs no keys, known by files and folders."""

    def detector(path: Path) -> Found | None:
        return Found(form, path, {"reader": reader}, ", ".join(patterns), "m") if _has(path, *patterns) else None

    return detector


def _kapture(path: Path) -> Found | None:
    files = ("sensors/sensors.txt", "sensors/records_camera.txt")
    if _has(path, *files):
        return Found("kapture", path, {"reader": "kapture", "mapping": ".", "queries": {}}, files[0], "m")
    if not _has(path / "mapping", *files):
        return None
    others = [p.name for p in sorted(path.iterdir()) if p.name != "mapping" and _has(p, *files)]
    queries = {"all": others[0]} if len(others) == 1 else {name: name for name in others}
    source = {"reader": "kapture", "mapping": "mapping", "queries": queries}
    return Found("kapture", path, source, f"kapture folders mapping, {', '.join(others) or 'and no other'}", "m")


def _sevenscenes(path: Path) -> Found | None:
    files = ("TrainSplit.txt", "TestSplit.txt", "seq-*/*.pose.txt")
    if not _has(path, *files):
        return None
    lists = SevenScenesSource(reader="sevenscenes", folder=path.name, poses="sfm").pose_lists(path)
    poses = "sfm" if all(p.is_file() for p in lists) else "dslam"
    source = {"reader": "sevenscenes", "folder": path.name, "poses": poses}
    return Found("7-Scenes", path, source, ", ".join(files), "m")


def _twelvescenes(path: Path) -> Found | None:
    files = ("info.txt", "split.txt", "data/*.pose.txt")
    source = {"reader": "twelvescenes", "folder": f"{path.parent.name}/{path.name}", "poses": "dslam"}
    return Found("12-Scenes", path.parent, source, ", ".join(files), "m") if _has(path, *files) else None


def _nerfstudio(path: Path) -> Found | None:
    file = path if path.suffix == ".json" else path / "transforms.json"
    if not file.is_file():
        return None
    try:
        frames = read_json_text(file)["frames"]
    except (ScrflowError, LookupError, TypeError):
        frames = None
    if path.is_file() and frames is None:
        return None  # some other json file
    source = {"reader": "nerfstudio", "transforms": file.name}
    count = len(frames) if isinstance(frames, list) else 0
    return Found("nerfstudio", file.parent, source, f"{file.name} with {count} frames", "unit")


def _colmap(path: Path) -> Found | None:
    def is_model(folder: Path) -> bool:
        return any(_has(folder, *(f"{n}{end}" for n in ("cameras", "images", "points3D"))) for end in (".bin", ".txt"))

    models = [folder for folder in (path, *_walk(path)) if folder.is_dir() and is_model(folder)]
    if not models:
        return None
    model = max(models, key=lambda m: max(p.stat().st_size for p in m.glob("images.*")))
    names = [image.name for image in islice(read_model(model).images.values(), _NAMES)]
    others = f"; the largest of {len(models)} models" if len(models) > 1 else ""
    found = _with_images("COLMAP", "colmap", path, model, names)
    return Found("COLMAP", found.root, found.source, f"model in {found.source['model']}{others}", "unit")


def _nvm(path: Path) -> Found | None:
    files = [path] if path.suffix == ".nvm" else [p for p in _walk(path) if p.suffix == ".nvm"]
    if not files or not files[0].is_file():
        return None
    model = max(files, key=lambda p: p.stat().st_size)
    rows = [line.rsplit(None, 10) for line in _first_lines(model)]
    names = [row[0].replace('"', " ") for row in rows[1:] if len(row) == 11]
    return _with_images("NVM", "nvm", path if path.is_dir() else path.parent, model, names)


def _with_images(form: str, reader: str, path: Path, model: Path, names: list[str]) -> Found:
    """A model and the folder that its image names are relative to; the root is ``path``, or above it what has both."""
    images = _image_folder(names, [model.parent, model.parent.parent], path)
    inside = model.is_relative_to(path) and images.is_relative_to(path)
    root = path if inside else Path(os.path.commonpath([model.parent, images]))
    keys = {key: part.relative_to(root).as_posix() for key, part in (("model", model), ("images", images))}
    return Found(form, root, {"reader": reader, **keys}, model.name, "unit")


def _poselist(path: Path) -> Found | None:
    files = [path] if path.is_file() and path.suffix == ".txt" else sorted(path.glob("*.txt")) if path.is_dir() else []
    lists = []
    for file in files:
        rows = [split_name(line) for line in _first_lines(file) if line and not line.startswith("#")]
        if rows and all(len(numbers) == 8 and has_suffix(name) for name, numbers in rows):
            lists.append((file, [name for name, _ in rows]))
    if not lists:
        return None
    file, names = lists[0]
    images = _image_folder(names, [file.parent], file.parent)
    source = {"reader": "poselist", "poses": file.name, "images": images.relative_to(file.parent).as_posix()}
    others = f" (also {', '.join(f.name for f, _ in lists[1:])}: name the file to take it)" if lists[1:] else ""
    return Found("pose list", file.parent, source, f"{file.name}: lines name qw qx qy qz tx ty tz f{others}", "unit")


def _first_lines(file: Path) -> list[str]:
    with open(file, encoding="utf-8", errors="replace") as lines:
        return [line.strip() for line in islice(lines, _NAMES)]


def _image_folder(names: list[str], near: list[Path], path: Path) -> Path:
    """The folder that most of the names are relative to; ``near`` goes before what is elsewhere under ``path``."""
    usual = [folder / name for folder in near for name in ("images", "input", "rgb")]
    folders = [f for f in dict.fromkeys([*usual, *near, path, *_walk(path)]) if f.is_dir()]
    return max(folders, key=lambda folder: sum((folder / name).is_file() for name in names))


def _video(path: Path) -> Found | None:
    if path.is_dir() and not _photos(path):
        videos = [p for p in sorted(path.iterdir()) if p.suffix.lower() in VIDEO_SUFFIXES]
        path = videos[0] if len(videos) == 1 else path
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        return Found("video", path, {"reader": "photos", "images": "images"}, path.name, "unit")
    return None


def _photos(path: Path) -> Found | None:
    try:
        names = list_photos(path)
    except ScrflowError:
        return None
    below = {name.partition("/")[0] for name in names}
    folder = below.pop() if len(below) == 1 else "."
    source = {"reader": "photos", "images": folder if (path / folder).is_dir() else "."}
    return Found("photos", path, source, f"{len(names)} photos, no poses", "unit")


_DSAC_FOLDERS = tuple(f"{split}/{kind}" for split in ("train", "test") for kind in ("rgb", "poses", "calibration"))

# the most specific first: what has poses is a folder of photos too
FORMS: dict[str, Detector] = {
    "kapture": _kapture,
    "7-Scenes": _sevenscenes,
    "12-Scenes": _twelvescenes,
    "DSAC*": _by_files("DSAC*", "dsac", *_DSAC_FOLDERS),
    "Map-free": _by_files("Map-free", "mapfree", "intrinsics.txt", "poses.txt", "seq0", "seq1"),
    "Cambridge Landmarks": _by_files(
        "Cambridge Landmarks", "cambridge", "dataset_train.txt", "dataset_test.txt", "reconstruction.nvm"
    ),
    "COLMAP": _colmap,
    "nerfstudio": _nerfstudio,
    "NVM": _nvm,
    "pose list": _poselist,
    "video": _video,
    "photos": _photos,
}
