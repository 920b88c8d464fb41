"""Record3D's export: ``metadata.json`` and ``rgb/0.jpg``, ``rgb/1.jpg`` and so on; or an unpacked ``.r3d`` with
``metadata`` and ``rgbd/0.jpg``.

``poses`` are ``qx qy qz qw x y z``, camera-to-world in metres with OpenGL axes; ``K`` is a 3x3 matrix by columns, and
``perFrameIntrinsicCoeffs``, where there, are ``fx fy cx cy`` of each photo.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap
from pydantic import Field
from scipy.spatial.transform import Rotation

from scrflow.config import Source
from scrflow.core.errors import ScrflowError
from scrflow.scene.checks import checked_quaternion
from scrflow.scene.lists import read_json_text
from scrflow.scene.readers import MODEL, Collection, Found
from scrflow.scene.readers.detection import files_like, json_of
from scrflow.scene.readers.posed import OPENCV_FROM_OPENGL, Posed, collect, rigid


class Record3dSource(Source):
    """Record3D's export: metadata.json and a folder rgb."""

    reader: Literal["record3d"]
    metadata: str = Field("metadata.json", description="relative to root")

    def files(self, root: Path) -> list[Path]:
        return [root / self.metadata]


SOURCE = Record3dSource


def detect(path: Path) -> Found | None:
    for file in files_like(path, "metadata.json", "metadata"):
        values = json_of(file)
        if isinstance(values, dict) and "poses" in values and "K" in values:
            root = path if path.is_dir() else file.parent
            source = {"reader": "record3d", "metadata": file.relative_to(root).as_posix()}
            return Found("Record3D", root, source, f"{file.name} with {len(values['poses'])} poses", "m", MODEL)
    return None


def read(source: Record3dSource, root: Path, sfm_model: Path | None = None) -> Collection:
    """All photos; the one that is called i has the i-th pose."""
    path = root / source.metadata
    values = read_json_text(path)
    try:
        poses = np.array(values["poses"], np.float64)
        K = np.array(values["K"], np.float64).reshape(3, 3)
        K = K if K[0, 2] or K[1, 2] else K.T
        each = values.get("perFrameIntrinsicCoeffs") or [[K[0, 0], K[1, 1], K[0, 2], K[1, 2]]] * len(poses)
        intrinsics = np.array(each, np.float64)
    except (KeyError, TypeError, ValueError):
        raise ScrflowError(f"{path}: expected lists 'poses' of 7 numbers and 'K' of 9; export the scan again") from None
    if poses.ndim != 2 or poses.shape[1] != 7 or intrinsics.shape != (len(poses), 4) or not np.isfinite(poses).all():
        raise ScrflowError(f"{path}: expected poses of 7 finite numbers, and as many intrinsics; export the scan again")
    photos = []
    for i, (x, y, z, w, *centre) in enumerate(poses):
        where = f"{path}: pose {i}"
        q = checked_quaternion(np.array([x, y, z, w]), where)
        cam_from_world = rigid((Rotation.from_quat(q).as_matrix() * OPENCV_FROM_OPENGL).T, np.array(centre))
        photos.append(Posed(str(i), cam_from_world, _camera_of(intrinsics[i]), where))
    folder = next(
        (path.parent / name for name in ("rgb", "rgbd") if (path.parent / name).is_dir()), path.parent / "rgb"
    )
    return collect(path, folder, photos, source.skip_missing)


def _camera_of(params: np.ndarray):
    return lambda size: pycolmap.Camera(model="PINHOLE", width=size[0], height=size[1], params=params)
