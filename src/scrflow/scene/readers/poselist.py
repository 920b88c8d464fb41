"""Lines ``name qw qx qy qz tx ty tz f``, cam_from_world: the form of the pseudo ground truth for 7-Scenes and 12-Scenes
(Brachmann et al., ICCV 2021), and with a confidence at their end that of ACE Zero's pose files (ECCV 2024)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from scrflow.core.errors import ScrflowError
from scrflow.core.images import image_size
from scrflow.scene.colmap_model import View
from scrflow.scene.lists import PhotoNames, centred_camera, pose_of_numbers, read_numbers
from scrflow.scene.readers import LINES, Collection, Found, Reader
from scrflow.scene.readers.shared import files_like, first_rows, image_folder, numbers_only, photo_names
from scrflow.storage.listfile import has_suffix, read_lines, split_name

log = logging.getLogger("scrflow")


class PoseListSource(Reader):
    """Lines ``name qw qx qy qz tx ty tz f`` (cam_from_world), as of 7-Scenes' SfM poses; ACE Zero adds a confidence."""

    file_keys = ("poses",)
    reader: Literal["poselist"]
    poses: str
    images: str = "."
    principal_point: tuple[float, float] | None = Field(None, description="px; the image centre when not given")
    min_confidence: float = Field(1000, description="ACE Zero: lines with a lower confidence count as no pose")

    @classmethod
    def detect(cls, path: Path) -> Found | None:
        lists = []
        for file in files_like(path, "*.txt"):
            if path.is_dir() and file.parent != path and lists:
                break
            rows = first_rows(file)
            if rows and all(has_suffix(name) and numbers_only(numbers, 8, 9) for name, numbers in rows):
                lists.append((file, photo_names(name for name, _ in rows), len(rows[0][1]) == 9))
        if not lists:
            return None
        file, names, confident = lists[0]
        root = path if path.is_dir() else file.parent
        images = image_folder(names, [file.parent, root], root)
        source = {"reader": "poselist", "poses": file.relative_to(root).as_posix()}
        source["images"] = images.relative_to(root).as_posix()
        others = f" (also {', '.join(f.name for f, *_ in lists[1:])}: name the file to take it)" if lists[1:] else ""
        form = "ACE Zero" if confident else "pose list"
        told = f"{file.name}: lines name {_FORM}{' confidence' if confident else ''}{others}"
        return Found(form, root, source, told, "unit", LINES)

    def read(self, root: Path) -> Collection:
        """All lines of the list whose image is there: published lists cover whole scenes, splits may ask for less."""
        path = root / self.poses
        listed = read_pose_list(path, self.min_confidence)
        if not listed:
            raise ScrflowError(f"{path}: no pose in it; give it lines 'name {_FORM}'")
        image_root = root / self.images
        photos = PhotoNames(image_root)
        images: dict[str, View] = {}
        absent = 0
        for line_name, (cam_from_world, focal) in listed.items():
            name = photos.find(line_name, path)
            if name is None:
                absent += 1
                continue
            if name in images:
                raise ScrflowError(f"{path}: {name} is listed twice, also as {line_name}; remove one line")
            try:
                size = image_size(image_root / name)
            except ScrflowError:
                size = (1, 1)  # a damaged image is named when the images in use are decoded
            camera = centred_camera(focal, size)
            if self.principal_point is not None:
                camera.principal_point_x, camera.principal_point_y = self.principal_point
            images[name] = View(name, camera, cam_from_world)
        if not images:
            raise ScrflowError(
                f"{path}: none of the images that it lists is under {image_root}; correct key source.images"
            )
        unsure = f"confidence under {self.min_confidence:g} in {path.name}"
        left_out = {name: unsure for name, view in images.items() if view.cam_from_world is None}
        return Collection(path, image_root, tuple(images.values()), left_out=left_out, absent=absent)


_FORM = "qw qx qy qz tx ty tz f"


def read_pose_list(path: Path, min_confidence: float = 0) -> dict[str, tuple[np.ndarray | None, float]]:
    """name -> (cam_from_world [3, 4], or None for one of less confidence; focal length in px). ScrflowError for a
    damaged or a double line."""
    first = next((split_name(line)[1] for _, line in read_lines(path)), [])
    form = f"{_FORM} confidence" if len(first) == 9 else _FORM
    out: dict[str, tuple[np.ndarray | None, float]] = {}
    for name, (where, values) in read_numbers(path, form).items():
        sure = len(values) == 8 or values[8] >= min_confidence
        out[name] = pose_of_numbers(values, where) if sure else None, float(values[7])
    return out
