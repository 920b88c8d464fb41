"""Which dataset form a path has: a table of detectors, one function a form, each giving evidence.

A new form is one function and its line in ``FORMS``. A detector looks at names of files and folders and at the first
lines of small files; reading, and all errors of what is read, are the reader's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from scrflow.core.errors import ScrflowError
from scrflow.scene.colmap_model import read_model
from scrflow.scene.photo_files import list_photos
from scrflow.storage.listfile import has_suffix, split_name

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mts", ".m2ts", ".3gp", ".mpg", ".mpeg"})
_DEPTH = 3  # folders below the path that are looked through
_MODEL_FILES = ("cameras", "images", "points3D")
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
        raise ScrflowError(f"{path}: no such file or folder")
    found = [f for f in (detector(path) for detector in FORMS.values()) if f is not None]
    if not found:
        raise ScrflowError(
            f"{path}: {_what_is_in(path)}; expected one of: {', '.join(FORMS)} (README, section on your own photos)"
        )
    return found


def _what_is_in(path: Path) -> str:
    if path.is_file():
        return "a file of no known form"
    suffixes = sorted({p.suffix.lower() for p in _walk(path) if p.is_file() and p.suffix})
    return f"no photos and no form known in it, only {', '.join(suffixes[:8])}" if suffixes else "an empty folder"


def _walk(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Files and folders down to ``depth`` levels, sorted, without hidden ones."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.startswith("."):
            yield path
            if depth > 1 and path.is_dir():
                yield from _walk(path, depth - 1)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


# ----------------------------------------------------------------------------------------- folders known by their files


def _kapture(path: Path) -> Found | None:
    def is_kapture(folder: Path) -> bool:
        return (folder / "sensors/sensors.txt").is_file() and (folder / "sensors/records_camera.txt").is_file()

    if is_kapture(path):
        source = {"reader": "kapture", "mapping": ".", "queries": {}}
        return Found("kapture", path, source, "sensors/sensors.txt", "m")
    if not path.is_dir() or not is_kapture(path / "mapping"):
        return None
    others = [p.name for p in sorted(path.iterdir()) if p.name != "mapping" and is_kapture(p)]
    queries = {"all": others[0]} if len(others) == 1 else {name: name for name in others}
    source = {"reader": "kapture", "mapping": "mapping", "queries": queries}
    return Found("kapture", path, source, f"kapture folders mapping, {', '.join(others) or 'and no other'}", "m")


def _sevenscenes(path: Path) -> Found | None:
    if not all((path / f"{part}Split.txt").is_file() for part in ("Train", "Test")):
        return None
    if not any(path.glob("seq-*/*.pose.txt")):
        return None
    from scrflow.config import SevenScenesSource

    lists = SevenScenesSource(reader="sevenscenes", folder=path.name, poses="sfm").pose_lists(path)
    poses = "sfm" if all(p.is_file() for p in lists) else "dslam"
    source = {"reader": "sevenscenes", "folder": path.name, "poses": poses}
    return Found("7-Scenes", path, source, "TrainSplit.txt, TestSplit.txt, seq-*/*.pose.txt", "m")


def _twelvescenes(path: Path) -> Found | None:
    if not ((path / "info.txt").is_file() and (path / "split.txt").is_file() and any(path.glob("data/*.pose.txt"))):
        return None
    folder = f"{path.parent.name}/{path.name}"
    source = {"reader": "twelvescenes", "folder": folder, "poses": "dslam"}
    return Found("12-Scenes", path.parent, source, "info.txt, split.txt, data/*.pose.txt", "m")


def _dsac(path: Path) -> Found | None:
    kinds = ("rgb", "poses", "calibration")
    if not all((path / split / kind).is_dir() for split in ("train", "test") for kind in kinds):
        return None
    return Found("DSAC*", path, {"reader": "dsac"}, "train/ and test/ with rgb/, poses/, calibration/", "m")


def _mapfree(path: Path) -> Found | None:
    if not all((path / name).exists() for name in ("intrinsics.txt", "poses.txt", "seq0", "seq1")):
        return None
    return Found("Map-free", path, {"reader": "mapfree"}, "intrinsics.txt, poses.txt, seq0/, seq1/", "m")


def _cambridge(path: Path) -> Found | None:
    names = ("dataset_train.txt", "dataset_test.txt", "reconstruction.nvm")
    if not all((path / name).is_file() for name in names):
        return None
    return Found("Cambridge Landmarks", path, {"reader": "cambridge"}, ", ".join(names), "m")


def _nerfstudio(path: Path) -> Found | None:
    file = path if path.suffix == ".json" else path / "transforms.json"
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        values = None
    if path.is_file() and not (isinstance(values, dict) and "frames" in values):
        return None  # some other json file
    frames = len(values["frames"]) if isinstance(values, dict) and isinstance(values.get("frames"), list) else 0
    source = {"reader": "nerfstudio", "transforms": file.name}
    return Found("nerfstudio", file.parent, source, f"{file.name} with {frames} frames", "unit")


# ---------------------------------------------------------------------------------------------- models and their images


def _colmap(path: Path) -> Found | None:
    if not path.is_dir():
        return None
    models = [folder for folder in (path, *(p for p in _walk(path) if p.is_dir())) if _is_model(folder)]
    if not models:
        return None
    model = max(models, key=lambda m: max(p.stat().st_size for p in m.glob("images.*")))
    names = [image.name for image in islice(read_model(model).images.values(), _NAMES)]
    images = _image_folder(names, [model.parent, model.parent.parent], path)
    root = _common(path, model, images)
    source = {"reader": "colmap", "model": _relative(model, root), "images": _relative(images, root)}
    others = f"; the largest of {len(models)} models" if len(models) > 1 else ""
    return Found("COLMAP", root, source, f"model in {_relative(model, root)}{others}", "unit")


def _is_model(folder: Path) -> bool:
    return any(all((folder / f"{name}{end}").is_file() for name in _MODEL_FILES) for end in (".bin", ".txt"))


def _nvm(path: Path) -> Found | None:
    files = [path] if path.suffix == ".nvm" else [p for p in _walk(path) if p.suffix == ".nvm"]
    if not files or not files[0].is_file():
        return None
    model = max(files, key=lambda p: p.stat().st_size)
    with open(model, encoding="utf-8", errors="replace") as lines:
        rows = [line.strip().rsplit(None, 10) for line in islice(lines, _NAMES)]
    names = [row[0].replace('"', " ") for row in rows[1:] if len(row) == 11]
    images = _image_folder(names, [model.parent, model.parent.parent], path if path.is_dir() else path.parent)
    root = _common(path if path.is_dir() else path.parent, model, images)
    source = {"reader": "nvm", "model": _relative(model, root), "images": _relative(images, root)}
    return Found("NVM", root, source, f"{model.name}", "unit")


def _poselist(path: Path) -> Found | None:
    files = [path] if path.is_file() and path.suffix == ".txt" else sorted(path.glob("*.txt")) if path.is_dir() else []
    lists = [file for file in files if _is_pose_list(file)]
    if not lists:
        return None
    file = lists[0]
    images = _image_folder([name for name, _ in _rows(file)], [file.parent], file.parent)
    source = {"reader": "poselist", "poses": file.name, "images": _relative(images, file.parent)}
    others = f" (also {', '.join(f.name for f in lists[1:])}: name the file to take it)" if lists[1:] else ""
    return Found("pose list", file.parent, source, f"{file.name}: lines name qw qx qy qz tx ty tz f{others}", "unit")


def _is_pose_list(file: Path) -> bool:
    rows = _rows(file)
    return bool(rows) and all(len(numbers) == 8 and has_suffix(name) for name, numbers in rows)


def _rows(file: Path) -> list[tuple[str, list[str]]]:
    """Name and further fields of the first lines that are neither empty nor comments."""
    with open(file, encoding="utf-8", errors="replace") as lines:
        stripped = [line.strip() for line in islice(lines, _NAMES)]
    return [split_name(line) for line in stripped if line and not line.startswith("#")]


def _image_folder(names: list[str], near: list[Path], path: Path) -> Path:
    """The folder that most of the names are relative to; ``near`` goes before what is elsewhere under ``path``."""
    usual = [folder / name for folder in near for name in ("images", "input", "rgb")]
    elsewhere = [p for p in _walk(path) if p.is_dir()] if path.is_dir() else []
    folders = [f for f in dict.fromkeys([*usual, *near, path, *elsewhere]) if f.is_dir()]
    return max(folders, key=lambda folder: sum((folder / name).is_file() for name in names))


def _common(path: Path, model: Path, images: Path) -> Path:
    """``path`` where both lie in it, else the folder above that has both."""
    both = (model.is_relative_to(path), images.is_relative_to(path))
    return path if all(both) else Path(os.path.commonpath([model.parent, images]))


# ---------------------------------------------------------------------------------------------------- photos and videos


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


# the most specific first: what has poses is a folder of photos too
FORMS: dict[str, Detector] = {
    "kapture": _kapture,
    "7-Scenes": _sevenscenes,
    "12-Scenes": _twelvescenes,
    "DSAC*": _dsac,
    "Map-free": _mapfree,
    "Cambridge Landmarks": _cambridge,
    "COLMAP": _colmap,
    "nerfstudio": _nerfstudio,
    "NVM": _nvm,
    "pose list": _poselist,
    "video": _video,
    "photos": _photos,
}
