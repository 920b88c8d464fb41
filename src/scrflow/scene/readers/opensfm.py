"""OpenSfM's and OpenDroneMap's ``reconstruction.json``: shots, each with a rotation vector and a translation.

Poses are world to camera. Focal lengths and principal points are shares of the longer side, from the image's centre.
The largest of several reconstructions is taken.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pycolmap
from pydantic import Field
from scipy.spatial.transform import Rotation

from scrflow.config import Source
from scrflow.core.errors import ScrflowError
from scrflow.scene.checks import checked_pose, checked_size
from scrflow.scene.lists import read_json_text
from scrflow.scene.readers import MODEL, Collection, Found
from scrflow.scene.readers.detection import files_like, json_of, root_of
from scrflow.scene.readers.posed import Posed, collect


class OpenSfmSource(Source):
    """OpenSfM: reconstruction.json."""

    reader: Literal["opensfm"]
    reconstruction: str = Field("reconstruction.json", description="relative to root")

    def files(self, root: Path) -> list[Path]:
        return [root / self.reconstruction]


SOURCE = OpenSfmSource
log = logging.getLogger("scrflow")


def detect(path: Path) -> Found | None:
    for file in files_like(path, "*.json"):
        values = json_of(file)
        if (
            isinstance(values, list)
            and values
            and isinstance(values[0], dict)
            and isinstance(values[0].get("shots"), dict)
        ):
            root = root_of(path, file, values[0]["shots"])
            source = {"reader": "opensfm", "reconstruction": file.relative_to(root).as_posix()}
            return Found("OpenSfM", root, source, f"{file.name} with {len(values[0]['shots'])} shots", "unit", MODEL)
    return None


def read(source: OpenSfmSource, root: Path, sfm_model: Path | None = None) -> Collection:
    """All shots of the largest reconstruction."""
    path = root / source.reconstruction
    values = read_json_text(path)
    try:
        largest = max(values, key=lambda part: len(part["shots"]))
        if len(values) > 1:
            log.warning(
                "%s: the largest of %d reconstructions is taken; poses of the others have another frame",
                path,
                len(values),
            )
        cameras = {name: _camera(camera, f"{path}: camera {name}") for name, camera in largest["cameras"].items()}
        photos = []
        for name, shot in largest["shots"].items():
            turn = Rotation.from_rotvec(np.array(shot["rotation"], np.float64)).as_matrix()
            where = f"{path}: shot {name}"
            pose = checked_pose(np.column_stack([turn, np.array(shot["translation"], np.float64)]), where)
            camera = cameras[shot["camera"]]
            photos.append(Posed(name, pose, lambda size, camera=camera: camera, where))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ScrflowError(
            f"{path}: not as OpenSfM writes it ({type(error).__name__}: {error}); write it again"
        ) from None
    return collect(path, root, photos, source.skip_missing)


def _camera(values: dict[str, Any], where: str) -> pycolmap.Camera:
    width, height = checked_size(values["width"], values["height"], where)
    longer, kind = max(width, height), values["projection_type"]
    focal = [longer * values.get(key, values.get("focal", values.get("focal_x"))) for key in ("focal_x", "focal_y")]
    centre = [width / 2 + longer * values.get("c_x", 0), height / 2 + longer * values.get("c_y", 0)]
    k1, k2, k3, k4, p1, p2 = (values.get(key, 0) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if kind in ("perspective", "simple_radial", "radial"):
        model, params = "OPENCV", [*focal, *centre, k1, k2, 0, 0]
    elif kind == "brown":
        model, params = "FULL_OPENCV", [*focal, *centre, k1, k2, p1, p2, k3, 0, 0, 0]
    elif kind in ("fisheye", "fisheye_opencv"):
        model, params = "OPENCV_FISHEYE", [*focal, *centre, k1, k2, k3, k4]
    else:
        raise ScrflowError(f"{where}: projection_type {kind!r} is not supported; use perspective, brown or fisheye")
    return pycolmap.Camera(model=model, width=width, height=height, params=params)
