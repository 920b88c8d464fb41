"""What the readers of pose files share: photos are found by the names that the file lists."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from scrflow.core.errors import ScrflowError
from scrflow.core.images import image_size
from scrflow.scene.checks import check_unique, some
from scrflow.scene.colmap_model import View
from scrflow.scene.photo_names import PhotoNames
from scrflow.scene.readers import Collection

log = logging.getLogger("scrflow")

OPENCV_FROM_OPENGL = np.array([1.0, -1.0, -1.0])  # of the camera's axes: x right, y down or up, z forward or backward


@dataclass(frozen=True, eq=False)
class Posed:
    """A photo as a pose file lists it."""

    listed: str
    cam_from_world: np.ndarray | None  # [3, 4]; None where the file says that it has no pose
    camera: Callable[[tuple[int, int]], pycolmap.Camera]  # from width and height of the photo's file
    where: str  # file and line or key, for errors


def collect(path: Path, folder: Path, photos: Iterable[Posed], skip_missing: bool, **more: Any) -> Collection:
    """The photos of a pose file ``path`` with names relative to ``folder``; ``more`` are fields of the Collection."""
    names = PhotoNames(folder)
    views, missing, left_out = [], [], {}
    for photo in photos:
        name = names.find(photo.listed, photo.where)
        if name is None:
            missing.append(photo.listed)
            continue
        if photo.cam_from_world is None:
            left_out[name] = f"without a pose in {path.name}"
        views.append(View(name, photo.camera(image_size(folder / name)), photo.cam_from_world))
    if missing:
        told = f"{len(missing)} of {len(missing) + len(views)} photos have no file under {folder}"
        told = f"{path}: {told} ({some(missing)})"
        if not skip_missing or not views:
            raise ScrflowError(f"{told}; put the images there or set source.skip_missing: true")
        log.warning("%s; they are left out", told)
    if not any(view.cam_from_world is not None for view in views):
        raise ScrflowError(f"{path}: no pose in it; correct the file")
    check_unique((view.name for view in views), str(path))
    return Collection(path, folder, tuple(views), left_out=left_out, absent=len(missing), **more)


def rigid(R: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """cam_from_world [3, 4] of a rotation world to camera and the camera's centre."""
    return np.column_stack([R, -R @ np.asarray(centre, np.float64)])
