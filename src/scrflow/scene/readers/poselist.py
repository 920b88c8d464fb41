"""Lines ``name qw qx qy qz tx ty tz f``, cam_from_world: the form of the pseudo ground truth for 7-Scenes and 12-Scenes
(Brachmann et al., ICCV 2021)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from scrflow.config import Source
from scrflow.core.errors import ScrflowError
from scrflow.core.images import image_size
from scrflow.scene.colmap_model import View
from scrflow.scene.lists import centred_camera, pose_of_numbers, read_numbers
from scrflow.scene.readers import Collection


class PoseListSource(Source):
    """Lines ``name qw qx qy qz tx ty tz f`` (cam_from_world): the pseudo ground truth of 7-Scenes."""

    reader: Literal["poselist"]
    poses: str
    images: str = "."
    principal_point: tuple[float, float] | None = Field(None, description="px; the image centre when not given")

    def files(self, root: Path) -> list[Path]:
        return [root / self.poses]


SOURCE = PoseListSource

_FORM = "qw qx qy qz tx ty tz f"


def read(source: PoseListSource, root: Path, sfm_model: Path | None = None) -> Collection:
    """All lines of the list whose image is there: published lists cover whole scenes, splits may ask for less."""
    path = root / source.poses
    listed = read_pose_list(path)
    if not listed:
        raise ScrflowError(f"{path}: no pose in it; give it lines 'name {_FORM}'")
    image_root = root / source.images
    images: list[View] = []
    for name, (cam_from_world, focal) in listed.items():
        if not os.path.lexists(image_root / name):
            continue
        try:
            size = image_size(image_root / name)
        except ScrflowError:
            size = (1, 1)  # a damaged image is named when the images in use are decoded
        camera = centred_camera(focal, size)
        if source.principal_point is not None:
            camera.principal_point_x, camera.principal_point_y = source.principal_point
        images.append(View(name, camera, cam_from_world))
    if not images:
        raise ScrflowError(f"{path}: none of the images that it lists is under {image_root}; correct key source.images")
    return Collection(path, image_root, tuple(images))


def read_pose_list(path: Path) -> dict[str, tuple[np.ndarray, float]]:
    """name -> (cam_from_world [3, 4], focal length in px); ScrflowError for a damaged or a double line."""
    rows = read_numbers(path, _FORM)
    return {name: (pose_of_numbers(values, where), float(values[7])) for name, (where, values) in rows.items()}
