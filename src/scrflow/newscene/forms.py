"""Which dataset form a path has: the readers' functions ``detect``, and videos."""

from __future__ import annotations

import os
from pathlib import Path

from scrflow.core.errors import ScrflowError
from scrflow.scene.readers import BARE, Found, detect_forms
from scrflow.scene.readers.detection import walk

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mts", ".m2ts", ".3gp", ".mpg", ".mpeg"})


def detect(path: Path) -> list[Found]:
    """All forms that fit ``path``, the most specific first; ScrflowError where none does."""
    path = Path(os.path.abspath(path))
    if not path.exists():
        raise ScrflowError(f"{path}: no such file or folder; correct the path")
    found = detect_forms(path)
    if not found and (video := _video(path)):
        found = [video]
    if found:
        return found
    suffixes = sorted({p.suffix.lower() for p in walk(path) if p.is_file() and p.suffix})
    what = f"no photos and no form known in it, only {', '.join(suffixes[:8])}" if suffixes else "an empty folder"
    what = "a file of no known form" if path.is_file() else what
    raise ScrflowError(f"{path}: {what}; give photos, a video, or a dataset of a form that docs/datasets.md lists")


def _video(path: Path) -> Found | None:
    """A video, or the only one in a folder; ``root`` is its file."""
    if path.is_dir():
        videos = [p for p in sorted(path.iterdir()) if p.suffix.lower() in VIDEO_SUFFIXES]
        path = videos[0] if len(videos) == 1 else path
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        return Found("video", path, {"reader": "photos", "images": "images"}, path.name, "unit", BARE)
    return None
