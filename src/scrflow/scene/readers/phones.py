"""Exports of apps that scan with a phone: Record3D, Polycam, 3D Scanner App and others on ARKit.

Poses are camera-to-world in metres with OpenGL axes.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pycolmap
from pydantic import Field
from scipy.spatial.transform import Rotation

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import invert_pose
from scrflow.scene.checks import checked_pose, checked_quaternion, checked_size
from scrflow.scene.lists import PhotoNames, colmap_camera, read_json_text
from scrflow.scene.readers import MODEL, Collection, Found, Reader
from scrflow.scene.readers.shared import OPENCV_FROM_OPENGL, Posed, PoseFile, collect, json_of, rigid, walk


class ArkitSource(Reader):
    """A JSON file a photo (Polycam's raw export, 3D Scanner App, ARKit): camera-to-world, OpenGL axes, metres."""

    # Polycam: t_00 to t_23, fx fy cx cy width height; corrected cameras go with corrected images. Others: a 4x4 matrix
    # and a 3x3 matrix of intrinsics, flat or nested, by rows or, as Swift has them, by columns.
    reader: Literal["arkit"]
    cameras: str = Field(".", description="folder of the JSON files, relative to root")
    images: str = Field(".", description="folder of the photos, which are named like them, relative to root")

    def files(self, root: Path) -> list[Path]:
        return sorted((root / self.cameras).glob("*.json"))

    @classmethod
    def detect(cls, path: Path) -> Found | None:
        for folder in (path, *(p for p in walk(path) if p.is_dir())) if path.is_dir() else ():
            files = sorted(folder.glob("*.json"))
            if not any(isinstance(v := json_of(file), dict) and _matrix(v) is not None for file in files[:_LOOKED_AT]):
                continue
            corrected = folder.with_name("corrected_cameras")
            if folder.name == "cameras" and corrected.is_dir() and folder.with_name("corrected_images").is_dir():
                folder = corrected
            images = folder.with_name(folder.name.replace("cameras", "images")) if "cameras" in folder.name else folder
            names = PhotoNames(images)
            posed = [file for file in files if names.find(file.stem, file)]
            if not posed:
                continue
            source = {"reader": "arkit", "cameras": folder.relative_to(path).as_posix()}
            source["images"] = images.relative_to(path).as_posix()
            form = "Polycam" if folder.parent.name == "keyframes" else "ARKit"
            return Found(form, path, source, f"{len(posed)} photos with a JSON file of each", "m", MODEL)
        return None

    def read(self, root: Path) -> Collection:
        """The photos whose JSON file has a pose; other JSON files (info.json) are passed by."""
        folder, images = root / self.cameras, root / self.images
        files = self.files(root)
        if not files:
            raise ScrflowError(f"{folder}: no JSON files in it; correct key source.cameras")
        names, photos, absent = PhotoNames(images), [], 0
        for file in files:
            values, where = read_json_text(file), str(file)
            matrix = _matrix(values) if isinstance(values, dict) else None
            if matrix is None:
                continue
            if names.find(file.stem, file) is None:  # 3D Scanner App keeps poses of more frames
                absent += 1
                continue
            world_from_cam = checked_pose(matrix, where)
            world_from_cam[:, :3] *= OPENCV_FROM_OPENGL
            photos.append(Posed(file.stem, invert_pose(world_from_cam), partial(_scaled, values, where), where))
        if not photos:
            raise ScrflowError(f"{folder}: no JSON file has a pose and a photo under {images}; correct keys of source")
        return replace(collect(folder, images, photos, self.skip_missing), absent=absent)


_POLYCAM = [[f"t_{row}{column}" for column in range(4)] for row in range(3)]
_POSES = ("cameraPoseARFrame", "transform", "cameraTransform", "camera_transform", "transform_matrix", "pose", "c2w")
_INTRINSICS = ("intrinsics", "cameraIntrinsics", "camera_intrinsics", "K")
_LOOKED_AT = 3  # JSON files of a folder


def _matrix(values: dict[str, Any]) -> np.ndarray | None:
    """world_from_cam [4, 4], with OpenGL axes; None where there is none."""
    try:
        if all(key in values for row in _POLYCAM for key in row):
            return np.array([*([values[key] for key in row] for row in _POLYCAM), [0, 0, 0, 1]], np.float64)
        found = next((values[key] for key in _POSES if key in values), None)
        matrix = np.array(found, np.float64).reshape(4, 4)
    except (ValueError, TypeError):
        return None
    by_columns = not matrix[:3, 3].any() and matrix[3, :3].any()
    return matrix.T if by_columns else matrix


def _scaled(values: dict[str, Any], where: str, size: tuple[int, int]) -> pycolmap.Camera:
    """The camera of a photo of any size: intrinsics are scaled from the size that they are told for."""
    try:
        if "fx" in values:
            fx, fy, cx, cy = (float(values[key]) for key in ("fx", "fy", "cx", "cy"))
        else:
            K = np.array(next(values[key] for key in _INTRINSICS if key in values), np.float64).reshape(3, 3)
            K = K.T if K[2, 0] or K[2, 1] else K
            fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
        told = (float(values.get("width", size[0])), float(values.get("height", size[1])))
    except (ValueError, TypeError, KeyError, StopIteration):
        raise ScrflowError(f"{where}: no intrinsics (fx fy cx cy, or a 3x3 matrix); add them") from None
    width, height = checked_size(*told, where)
    if abs(size[0] * height - size[1] * width) > max(width, height):
        raise ScrflowError(
            f"{where}: its camera is {width}x{height}, the photo {size[0]}x{size[1]}; take the photos of the export"
        )
    sx, sy = size[0] / width, size[1] / height
    return colmap_camera("PINHOLE", size, [fx * sx, fy * sy, cx * sx, cy * sy])


class Record3dSource(PoseFile):
    """Record3D's export: metadata.json and a folder rgb."""

    # rgb/0.jpg, rgb/1.jpg and so on; or an unpacked .r3d with the file metadata and rgbd/0.jpg. Poses are qx qy qz qw
    # x y z; K is a 3x3 matrix by columns, and perFrameIntrinsicCoeffs, where there, are fx fy cx cy of each photo.
    form, lists, patterns, unit = "Record3D", "poses", ("metadata.json", "metadata"), "m"
    file_keys = ("metadata",)
    reader: Literal["record3d"]
    metadata: str = Field("metadata.json", description="relative to root")

    @classmethod
    def listed(cls, file: Path) -> list[Any] | None:
        values = json_of(file)
        found = values.get("poses") if isinstance(values, dict) and "K" in values else None
        return found if isinstance(found, list) else None

    def posed(self, path: Path, root: Path) -> Iterator[Posed]:
        """The photo that is called i has the i-th pose."""
        values = read_json_text(path)
        poses = np.array(values["poses"], np.float64)
        K = np.array(values["K"], np.float64).reshape(3, 3)
        K = K if K[0, 2] or K[1, 2] else K.T
        each = values.get("perFrameIntrinsicCoeffs") or [[K[0, 0], K[1, 1], K[0, 2], K[1, 2]]] * len(poses)
        intrinsics = np.array(each, np.float64)
        if (
            poses.ndim != 2
            or poses.shape[1] != 7
            or intrinsics.shape != (len(poses), 4)
            or not np.isfinite(poses).all()
        ):
            raise ValueError("expected poses of 7 finite numbers, and as many intrinsics")
        for i, (x, y, z, w, *centre) in enumerate(poses):
            where = f"{path}: pose {i}"
            q = checked_quaternion(np.array([x, y, z, w]), where)
            cam_from_world = rigid((Rotation.from_quat(q).as_matrix() * OPENCV_FROM_OPENGL).T, np.array(centre))
            yield Posed(str(i), cam_from_world, partial(colmap_camera, "PINHOLE", params=intrinsics[i]), where)

    def photo_folder(self, path: Path, root: Path) -> Path:
        folders = [path.parent / name for name in ("rgb", "rgbd")]
        return next((folder for folder in folders if folder.is_dir()), folders[0])
