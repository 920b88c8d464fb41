"""nerfstudio / instant-ngp ``transforms.json``.

Poses there are camera-to-world with OpenGL axes (x right, y up, z backward). Intrinsics come from COLMAP unchanged, as
does the principal point's origin. ``applied_transform`` and ``applied_scale`` are no part of a pose.
"""

from __future__ import annotations

import logging
import math
import posixpath
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pycolmap
from pydantic import Field

from scrflow.config import Source
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import invert_pose
from scrflow.core.images import image_size
from scrflow.scene.checks import check_name, checked_pose, checked_size, some
from scrflow.scene.colmap_model import View
from scrflow.scene.lists import read_json_text
from scrflow.scene.readers import Collection


class NerfstudioSource(Source):
    """nerfstudio / instant-ngp ``transforms.json``: camera-to-world, OpenGL axes."""

    reader: Literal["nerfstudio"]
    transforms: str = "transforms.json"
    skip_missing: bool = Field(False, description="leave out listed frames whose image file is absent (fox lists 17)")

    def files(self, root: Path) -> list[Path]:
        return [root / self.transforms]


SOURCE = NerfstudioSource
log = logging.getLogger("scrflow")
_PINHOLE = ("PINHOLE", "SIMPLE_PINHOLE")
_PERSPECTIVE = (*_PINHOLE, "OPENCV", "FULL_OPENCV", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
_FISHEYE = ("OPENCV_FISHEYE", "FISHEYE")
_LARGEST = 1e12  # of an intrinsic
_OPENCV_FROM_OPENGL = np.array([1.0, -1.0, -1.0])


def read(source: NerfstudioSource, root: Path, sfm_model: Path | None = None) -> Collection:
    """All frames; names are the frames' ``file_path``, relative to the folder of the json file."""
    path = root / source.transforms
    values = read_json_text(path)
    frames = values.get("frames") if isinstance(values, dict) else None
    if not isinstance(frames, list) or not frames:
        raise ScrflowError(f"{path}: no list 'frames' in it; add it, or write the file again")

    images, missing = [], []
    for number, frame in enumerate(frames):
        if not isinstance(frame, dict) or "file_path" not in frame or "transform_matrix" not in frame:
            raise ScrflowError(
                f"{path}: frame {number} lacks file_path or transform_matrix; add it, or remove the frame"
            )
        name = posixpath.normpath(str(frame["file_path"]).replace("\\", "/"))
        check_name(name, f"{path}: frame {number}")
        # Blender-style lists omit the suffix
        name = next((n for s in ("", ".png", ".jpg", ".jpeg", ".JPG") if (path.parent / (n := name + s)).is_file()), "")
        if not name:
            missing.append(str(frame["file_path"]))
            continue
        where = f"{path}: frame {name}"
        try:
            matrix = np.array(frame["transform_matrix"], np.float64)
        except (ValueError, TypeError):
            raise ScrflowError(f"{where}: transform_matrix is not a 4x4 of numbers; correct it") from None
        world_from_cam = checked_pose(matrix, where)
        world_from_cam[:, :3] *= _OPENCV_FROM_OPENGL  # flips the y and z axes of the camera, columns of the matrix
        camera = _camera({**values, **frame}, path.parent / name, where)
        images.append(View(name, camera, invert_pose(world_from_cam)))
    if missing:
        told = f"{len(missing)} of {len(frames)} frames have no image ({some(missing)})"
        if not source.skip_missing:
            raise ScrflowError(f"{path}: {told}; put the images there or set source.skip_missing: true")
        log.warning("%s: %s; they are left out", path, told)
    return Collection(path, path.parent, tuple(images))


def _camera(values: dict[str, Any], image: Path, where: str) -> pycolmap.Camera:
    """The camera of one frame; ``values`` are the file's with the frame's own on top."""

    def number(key: str, default: float | None = None) -> float:
        value = values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
            shown = value if isinstance(value, float) else repr(value)[:40]
            raise ScrflowError(f"{where}: intrinsic {key} is {shown}, expected a number; correct it")
        return float(value)

    if "w" in values and "h" in values:
        width, height = checked_size(number("w"), number("h"), where)
    else:
        width, height = image_size(image)
    if "fl_x" in values:
        fx = number("fl_x")
    elif "camera_angle_x" in values:
        angle = number("camera_angle_x")
        if not 0 < angle < math.pi:
            raise ScrflowError(f"{where}: camera_angle_x is {angle:g}, expected radians between 0 and pi; correct it")
        fx = 0.5 * width / math.tan(0.5 * angle)
    else:
        raise ScrflowError(f"{where}: no focal length; add fl_x or camera_angle_x")
    pinhole = [fx, number("fl_y", fx), number("cx", width / 2), number("cy", height / 2)]
    k1, k2, k3, k4, p1, p2 = (number(key, 0.0) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))

    kind = str(values.get("camera_model", "OPENCV_FISHEYE" if values.get("is_fisheye") else "OPENCV")).upper()
    if kind in _FISHEYE:
        if p1 or p2:
            raise ScrflowError(f"{where}: a fisheye camera with p1, p2 has no COLMAP model; calibrate without them")
        model, params = "OPENCV_FISHEYE", [*pinhole, k1, k2, k3, k4]
    elif kind not in _PERSPECTIVE:
        known = ", ".join((*_PERSPECTIVE, *_FISHEYE))
        raise ScrflowError(f"{where}: camera_model {kind!r} is not supported; use one of {known}")
    elif kind in _PINHOLE or not any((k1, k2, k3, k4, p1, p2)):  # nerfstudio reads no distortion for pinholes
        model, params = "PINHOLE", pinhole
    elif k4:
        raise ScrflowError(f"{where}: k4 of a perspective camera has no COLMAP model; calibrate with k1, k2, k3")
    elif k3:
        model, params = "FULL_OPENCV", [*pinhole, k1, k2, p1, p2, k3, 0, 0, 0]
    else:
        model, params = "OPENCV", [*pinhole, k1, k2, p1, p2]
    return pycolmap.Camera(model=model, width=width, height=height, params=params)
