"""Bundler: ``bundle.out`` and the list of its photos (``list.txt``).

A camera is ``f k1 k2``, a rotation and a translation, world to camera with OpenGL axes, 15 numbers on 5 lines; the
distortion is COLMAP's RADIAL about the image's centre. f = 0: no pose. 3D points are not read.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap
from pydantic import Field

from scrflow.config import Source
from scrflow.core.errors import ScrflowError
from scrflow.scene.checks import checked_pose
from scrflow.scene.lists import finite_numbers
from scrflow.scene.readers import EXPORT, Collection, Found
from scrflow.scene.readers.detection import files_like, root_of
from scrflow.scene.readers.posed import OPENCV_FROM_OPENGL, Posed, collect
from scrflow.storage.listfile import has_suffix, open_text, read_lines, read_text, split_name


class BundlerSource(Source):
    """Bundler: bundle.out and the list of its photos."""

    reader: Literal["bundler"]
    bundle: str = Field("bundle.out", description="relative to root")
    photos: str = Field("list.txt", description="photos in the order of the cameras, relative to root")

    def files(self, root: Path) -> list[Path]:
        return [root / self.bundle, root / self.photos]


SOURCE = BundlerSource
_MARK = "# Bundle file"


def detect(path: Path) -> Found | None:
    for file in files_like(path, "*.out"):
        with open_text(file) as text:
            if not text.readline().startswith(_MARK):
                continue
        lists = [*(file.parent / name for name in (f"{file.name}.list.txt", "list.txt", "../list.txt"))]
        listed = next((p.resolve() for p in lists if p.is_file()), None)
        if listed is None:
            continue
        root = root_of(path, file, _names(listed))
        root = root if listed.is_relative_to(root.resolve()) else listed.parent
        source = {"reader": "bundler", "bundle": file.relative_to(root).as_posix()}
        source["photos"] = listed.relative_to(root.resolve()).as_posix()
        return Found("Bundler", root, source, f"{file.name} and {listed.name}", "unit", EXPORT)
    return None


def _names(path: Path) -> list[str]:
    return [split_name(line)[0] for _, line in read_lines(path)]


def read(source: BundlerSource, root: Path, sfm_model: Path | None = None) -> Collection:
    """The photos of the list; those without a pose are left out."""
    path, names = root / source.bundle, _names(root / source.photos)
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    if not lines[:1] or not lines[0].startswith(_MARK) or not all(map(has_suffix, names)):
        raise ScrflowError(f"{path}: expected '{_MARK} v0.3' and a list of photos beside it; write it again")
    head = finite_numbers((lines[1] if len(lines) > 1 else "").split())
    if head is None or len(head) != 2 or head[0] != len(names):
        raise ScrflowError(
            f"{path}: line 2: expected the number of cameras ({len(names)} photos are listed) and of points"
        )
    fields = [field for line in islice(lines, 2, 2 + 5 * len(names)) for field in line.split()]
    values = finite_numbers(fields)
    if values is None or len(values) != 15 * len(names):
        raise ScrflowError(f"{path}: expected 15 finite numbers for each of {len(names)} cameras; write it again")
    photos = []
    for name, (f, k1, k2, *rest) in zip(names, values.reshape(-1, 15), strict=True):
        where, pose = f"{path}: camera of {name}", None
        if f > 0:
            turn, shift = np.reshape(rest[:9], (3, 3)), np.array(rest[9:])
            pose = checked_pose(OPENCV_FROM_OPENGL[:, None] * np.column_stack([turn, shift]), where)
        photos.append(Posed(name, pose, _camera_of(f, k1, k2), where))
    return collect(path, root, photos, source.skip_missing)


def _camera_of(f: float, k1: float, k2: float):
    def camera(size: tuple[int, int]) -> pycolmap.Camera:
        if k1 == 0 and k2 == 0:
            model, params = "SIMPLE_PINHOLE", [f, size[0] / 2, size[1] / 2]
        else:
            model, params = "RADIAL", [f, size[0] / 2, size[1] / 2, k1, k2]
        return pycolmap.Camera(model=model, width=size[0], height=size[1], params=params)

    return camera
