"""Which dataset form a path has: the readers' functions ``detect``, and videos."""

from __future__ import annotations

import os
from pathlib import Path

from scrflow.config import Source
from scrflow.core.errors import ScrflowError
from scrflow.scene.photo_files import list_photos
from scrflow.scene.readers import BARE, MODEL, Found, detect_forms, has
from scrflow.scene.readers.shared import first_lines, json_of, numbers_only, walk
from scrflow.scene.readers.tum import NEEDS_CAMERA
from scrflow.storage.listfile import has_suffix

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mts", ".m2ts", ".3gp", ".mpg", ".mpeg"})


def detect(path: Path) -> list[Found]:
    """All forms that fit ``path``, the most specific first; ScrflowError where none does."""
    path = Path(os.path.abspath(path))
    if not path.exists():
        raise ScrflowError(f"{path}: no such file or folder; correct the path")
    found = detect_forms(path)
    found = [f for f in (_bag(path),) if f] + found
    if not found and (video := _video(path)):
        found = [video]
    if found:
        return found
    if any(has_suffix(p.name) for p in walk(path)):
        list_photos(path)  # ScrflowError: a link to a photo leads nowhere
    suffixes = sorted({p.suffix.lower() for p in walk(path) if p.is_file() and p.suffix})
    what = f"no photos and no form known in it, only {', '.join(suffixes[:8])}" if suffixes else "an empty folder"
    what = "a file of no known form" if path.is_file() else what
    raise ScrflowError(f"{path}: {what}; give photos, a video, or a dataset of a form that docs/datasets.md lists")


_BINARY = frozenset({".bag", ".db3", ".mcap", ".nvm", ".sfm", ".log"})  # ROS bags, VisualSFM, Meshroom, Redwood
_KEYS = ("frames", "poses", "extrinsics", "shots", "trajectory", "cameras")  # of JSON files with poses
_GROUP = 3  # files of a folder with one suffix that are named one by one


def passed_over(path: Path, found: Found, source: Source) -> tuple[str, ...]:
    """A line for each file under ``path`` that looks like poses and that ``source`` does not read."""
    folder = Path(os.path.abspath(path))
    folder = folder if folder.is_dir() else folder.parent
    used = {os.path.realpath(p) for p in source.files(found.root)}
    groups: dict[str, list[tuple[Path, str]]] = {}
    for file in walk(folder):
        if file.is_file() and os.path.realpath(file) not in used and (what := _poses_in(file)):
            groups.setdefault(f"{file.parent.relative_to(folder) / '*'}{file.suffix}", []).append((file, what))
    others = [f.form for f in detect_forms(folder) if f.rank > BARE and f.form != found.form] if groups else []
    lines = []
    for pattern, files in groups.items():
        file, what = files[0]
        if detect_forms(file) or _bag(file):
            fix = "name the file to take it"
        elif _bag(file.parent):
            fix = "name its folder to take it"
        elif others:
            fix = f"if it is of form {' or '.join(others)}, --form takes it"
        else:
            fix = "no reader takes it: convert it to a form that docs/datasets.md lists"
        if what == _BY_TIME:
            fix = f"to use it, have rgb.txt with lines 'time file' (or photos named by their time), and {NEEDS_CAMERA}"
        names = [f.relative_to(folder).as_posix() for f, _ in files]
        names = names if len(files) <= _GROUP else [f"{pattern} ({len(files)} files)"]
        lines.append(f"Poses passed over: {', '.join(names)} ({what}); {fix}.")
    return tuple(lines)


_BY_TIME = "a trajectory by time"


def _poses_in(file: Path) -> str | None:
    """What poses a file seems to have, by its name, its keys or its first lines; None for any other file."""
    suffix, name = file.suffix.lower(), file.name.lower()
    if (
        suffix in _BINARY
        or name in ("images.bin", "images.txt", "poses_bounds.npy")
        or ("pose" in name and suffix == ".npy")
    ):
        return "a model or recording"
    if suffix == ".json" and not (file.with_suffix(".png").exists() or file.with_suffix(".jpg").exists()):
        values = json_of(file)
        values = values[0] if isinstance(values, list) and values else values
        keys = [key for key in _KEYS if isinstance(values, dict) and key in values]
        return f"JSON with {', '.join(keys)}" if keys else None
    if suffix == ".xml":
        return "XML with cameras" if any("<camera" in line for line in first_lines(file)) else None
    if suffix not in (".txt", ".csv", ".tum", ".kitti"):
        return None
    rows = [line.replace(",", " ").split() for line in first_lines(file)]
    if rows and not numbers_only(rows[0][:1], 1) and all(numbers_only(row[:1], 1) for row in rows[1:]):
        rows = rows[1:]  # after a header
    named = bool(rows) and not numbers_only(rows[0][:1], 1)
    rows = [row[named:] for row in rows]
    if not rows:
        return None
    if not named and all(numbers_only(row, 8) for row in rows):
        return _BY_TIME
    if len(rows) == 4 and all(numbers_only(row, 4) for row in rows) and "pose" in f"{file.parent.name}/{name}":
        return "a pose"
    return "lines of poses" if all(numbers_only(row, 7, 8, 9, 12, 16, 17) for row in rows) else None


def _bag(path: Path) -> Found | None:
    """A ROS 1 bag, or the folder of a rosbag2; ``root`` is the path."""
    recorded = has(path, "metadata.yaml") and (has(path, "*.db3*") or has(path, "*.mcap*"))
    if recorded or (path.is_file() and path.suffix.lower() == ".bag"):
        return Found("ROS bag", path, {"reader": "photos", "images": "images"}, path.name, "m", MODEL)
    return None


def _video(path: Path) -> Found | None:
    """A video, or the only one in a folder; ``root`` is its file."""
    if path.is_dir():
        videos = [p for p in sorted(path.iterdir()) if p.suffix.lower() in VIDEO_SUFFIXES]
        path = videos[0] if len(videos) == 1 else path
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        return Found("video", path, {"reader": "photos", "images": "images"}, path.name, "unit", BARE)
    return None
