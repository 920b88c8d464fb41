"""Lines ``name qw qx qy qz tx ty tz f``, cam_from_world: the form of the pseudo ground truth for 7-Scenes and 12-Scenes
(Brachmann et al., ICCV 2021)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pycolmap

from scrflow.config import PoseListSource
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import rotation_from_quaternion
from scrflow.core.images import image_size
from scrflow.scene.checks.validate import checked_quaternion
from scrflow.scene.readers.base import Collection, SourceImage
from scrflow.storage.listfile import read_lines, split_name


def read(source: PoseListSource, root: Path, sfm_model: Path | None = None) -> Collection:
    """All lines of the list. A line of an image that is not there stays out unless a split list asks for it
    (published lists cover whole scenes), so its absence is found when the split is made."""
    path = root / source.poses
    listed = read_pose_list(path)
    if not listed:
        raise ScrflowError(f"{path}: no pose in it; expected lines 'name qw qx qy qz tx ty tz f'")
    image_root = root / source.images
    images: dict[str, SourceImage] = {}
    for name, (cam_from_world, focal) in listed.items():
        size = _image_size(image_root / name)
        if size is None:
            continue
        cx, cy = source.principal_point or (size[0] / 2, size[1] / 2)
        camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=size[0], height=size[1], params=[focal, cx, cy])
        images[name] = SourceImage(name, camera, cam_from_world)
    if not images:
        raise ScrflowError(f"{path}: none of the images that it lists is under {image_root}; mend key source.images")
    return Collection(path, image_root, tuple(images.values()))


def read_pose_list(path: Path) -> dict[str, tuple[np.ndarray, float]]:
    """name -> (cam_from_world [3, 4], focal length in px) of the list's lines; ScrflowError for a damaged or a double
    line."""
    out: dict[str, tuple[np.ndarray, float]] = {}
    for number, line in read_lines(path):
        name, fields = split_name(line)
        where = f"{path}: line {number}: {name}"
        try:
            values = np.array([float(f) for f in fields])
        except ValueError:
            values = np.empty(0)
        if values.shape != (8,):
            raise ScrflowError(f"{where}: expected 'name qw qx qy qz tx ty tz f'")
        if not np.isfinite(values).all():
            raise ScrflowError(f"{where}: pose has a number that is not finite; remove the line")
        if name in out:
            raise ScrflowError(f"{where}: listed twice; remove one line")
        rotation = rotation_from_quaternion(checked_quaternion(values[:4], where))
        out[name] = np.column_stack([rotation, values[4:7]]), float(values[7])
    return out


def _image_size(path: Path) -> tuple[int, int] | None:
    """Width and height from the file's header, None without a file; a damaged one passes as (1, 1) and is named when
    the images in use are decoded."""
    if not os.path.lexists(path):
        return None
    try:
        return image_size(path)
    except ScrflowError:
        return (1, 1)
