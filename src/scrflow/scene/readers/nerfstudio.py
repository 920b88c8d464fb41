"""nerfstudio, instant-ngp and Blender: ``transforms.json``, or one file a split (``transforms_train.json`` and so on).

Poses there are camera-to-world with OpenGL axes (x right, y up, z backward). Intrinsics come from COLMAP unchanged, as
does the principal point's origin. ``applied_transform`` and ``applied_scale`` are no part of a pose.
"""

import logging
import math
import posixpath
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pycolmap
from pydantic import Field

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import invert_pose
from scrflow.scene.checks import checked_pose, checked_size
from scrflow.scene.lists import PhotoNames, colmap_camera, read_json_text
from scrflow.scene.readers import MODEL, Collection, Found, Reader
from scrflow.scene.readers.shared import (
    OPENCV_FROM_OPENGL,
    Posed,
    collect,
    files_like,
    json_of,
    photo_names,
    root_of,
)

log = logging.getLogger("scrflow")

SPLITS = ("train", "test", "val")


class NerfstudioSource(Reader):
    """nerfstudio / instant-ngp / Blender ``transforms.json``: camera-to-world, OpenGL axes."""

    reader: Literal["nerfstudio"]
    transforms: str = Field("transforms.json", description="{split} in it stands for train, test and val, a file each")

    def paths(self, root: Path) -> dict[str, Path]:
        """The file a split, or the only file."""
        return {split: root / self.transforms.replace("{split}", split) for split in SPLITS}

    def files(self, root: Path) -> list[Path]:
        return list(dict.fromkeys(self.paths(root).values()))

    @classmethod
    def detect(cls, path: Path) -> Found | None:
        found = []
        for file in files_like(path, "*.json"):
            values = json_of(file)
            frames = values.get("frames") if isinstance(values, dict) else None
            if isinstance(frames, list) and any(isinstance(f, dict) and "transform_matrix" in f for f in frames):
                found.append((file, [f["file_path"] for f in frames if isinstance(f, dict) and "file_path" in f]))
            elif file == path / "transforms.json":
                found.append((file, []))  # its fault is the reader's to tell
        if not found:
            return None
        file, listed = next((f for f in found if f[0].name == "transforms.json"), found[0])
        root = root_of(path, file, photo_names(listed))
        transforms = file.relative_to(root).as_posix()
        others = list(dict.fromkeys(f.name for f, _ in found if f.name != file.name))
        if path.is_dir() and file.name in (split_files := {f"transforms_{split}.json" for split in SPLITS}):
            transforms = transforms.removesuffix(file.name) + "transforms_{split}.json"
            others = [name for name in others if name not in split_files]
            listed = [
                name for f, frames in found if f.parent == file.parent and f.name in split_files for name in frames
            ]
        also = f" (also {', '.join(others)}: name the file to take it)" if others else ""
        source = {"reader": "nerfstudio", "transforms": transforms}
        return Found("nerfstudio", root, source, f"{transforms} with {len(listed)} frames{also}", "unit", MODEL)

    def read(self, root: Path) -> Collection:
        """All frames. Names are relative to the folder of the json file where all photos are under it, else to root.

        The split is that of the files or of the keys ``train_filenames`` and so on; without ``test``, ``val`` are
        queries.
        """
        paths = self.paths(root)
        by_file = len(set(paths.values())) > 1
        if by_file:
            paths = {split: path for split, path in paths.items() if path.is_file()} or {"train": paths["train"]}
        photos: list[Posed] = []
        lists: dict[str, list[str]] = {}
        path = next(iter(paths.values()))
        for split, file in paths.items() if by_file else [("", path)]:
            values = read_json_text(file)
            frames = values.get("frames") if isinstance(values, dict) else None
            if not isinstance(frames, list) or not frames:
                raise ScrflowError(f"{file}: no list 'frames' in it; add it, or write the file again")
            photos += [_posed(values, frame, f"{file}: frame {number}") for number, frame in enumerate(frames)]
            if by_file:
                lists[split] = [str(frame["file_path"]) for frame in frames]
            else:
                keys = {split: values.get(f"{split}_filenames") for split in SPLITS}
                lists = {split: photo_names(names) for split, names in keys.items() if isinstance(names, list)}
        folder = path.parent
        here = PhotoNames(folder)
        if not any(here.find(photo.listed, photo.where) for photo in photos):
            folder = root
        found = collect(path, folder, photos, self.skip_missing)
        return replace(found, split=_split(lists, found, path))


_PINHOLE = ("PINHOLE", "SIMPLE_PINHOLE")
_PERSPECTIVE = (*_PINHOLE, "OPENCV", "FULL_OPENCV", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
_FISHEYE = ("OPENCV_FISHEYE", "FISHEYE")
_LARGEST = 1e12  # of an intrinsic


def _split(
    lists: dict[str, list[str]], found: Collection, path: Path
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """(mapping, queries) as the lists state them; None where they leave no query or nothing to map."""
    names, photos = [image.name for image in found.images], PhotoNames(found.image_root)
    of = {s: {photos.find(name, path) for name in listed} & set(names) for s, listed in lists.items()}
    asked = "test" if of.get("test") else "val"
    queries = of.get(asked, set())
    mapping = (of["train"] if of.get("train") else set(names)) - queries
    if any(of) and not any(of.values()):
        log.warning("%s: its lists of %s name no photo of its frames, so they are passed over", path, ", ".join(of))
    unused = len(names) - len(mapping) - len(queries)
    if unused and mapping and queries:
        log.info("%s: %d images are neither of train nor of %s; they are left out", path, unused, asked)
    if not queries or not mapping:
        return None
    return tuple(n for n in names if n in mapping), tuple(n for n in names if n in queries)


def _posed(values: dict[str, Any], frame: Any, where: str) -> Posed:
    if not isinstance(frame, dict) or "file_path" not in frame or "transform_matrix" not in frame:
        raise ScrflowError(f"{where} lacks file_path or transform_matrix; add it, or remove the frame")
    name = posixpath.normpath(str(frame["file_path"]).replace("\\", "/"))
    where = f"{where.rpartition(' ')[0]} {name}"
    try:
        matrix = np.array(frame["transform_matrix"], np.float64)
    except (ValueError, TypeError):
        raise ScrflowError(f"{where}: transform_matrix is not a 4x4 of numbers; correct it") from None
    world_from_cam = checked_pose(matrix, where)
    world_from_cam[:, :3] *= OPENCV_FROM_OPENGL  # flips the y and z axes of the camera, columns of the matrix
    both = {**values, **frame}
    return Posed(name, invert_pose(world_from_cam), lambda size: _camera(both, size, where), where)


def _camera(values: dict[str, Any], size: tuple[int, int], where: str) -> pycolmap.Camera:
    """The camera of one frame; ``values`` are the file's with the frame's own on top."""

    def number(key: str, default: float | None = None) -> float:
        value = values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
            shown = value if isinstance(value, float) else repr(value)[:40]
            raise ScrflowError(f"{where}: intrinsic {key} is {shown}, expected a number; correct it")
        return float(value)

    if "w" in values and "h" in values:
        size = checked_size(number("w"), number("h"), where)
    width, height = size
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
        return colmap_camera("OPENCV_FISHEYE", size, [*pinhole, k1, k2, k3, k4])
    if kind not in _PERSPECTIVE:
        known = ", ".join((*_PERSPECTIVE, *_FISHEYE))
        raise ScrflowError(f"{where}: camera_model {kind!r} is not supported; use one of {known}")
    if kind in _PINHOLE or not any((k1, k2, k3, k4, p1, p2)):  # nerfstudio reads no distortion for pinholes
        return colmap_camera("PINHOLE", size, pinhole)
    if k4:
        raise ScrflowError(f"{where}: k4 of a perspective camera has no COLMAP model; calibrate with k1, k2, k3")
    if k3:
        return colmap_camera("FULL_OPENCV", size, [*pinhole, k1, k2, p1, p2, k3, 0, 0, 0])
    return colmap_camera("OPENCV", size, [*pinhole, k1, k2, p1, p2])
