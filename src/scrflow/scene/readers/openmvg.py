"""OpenMVG's ``sfm_data.json``: views, intrinsics and extrinsics (rotation world to camera, and the camera's centre)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pycolmap
from pydantic import Field

from scrflow.config import Source
from scrflow.core.errors import ScrflowError
from scrflow.scene.checks import checked_pose, checked_size
from scrflow.scene.lists import read_json_text
from scrflow.scene.readers import MODEL, Collection, Found
from scrflow.scene.readers.detection import files_like, json_of, root_of
from scrflow.scene.readers.posed import Posed, collect, rigid


class OpenMvgSource(Source):
    """OpenMVG: sfm_data.json with its views, intrinsics and extrinsics."""

    reader: Literal["openmvg"]
    sfm_data: str = Field("sfm_data.json", description="relative to root")

    def files(self, root: Path) -> list[Path]:
        return [root / self.sfm_data]


SOURCE = OpenMvgSource
_ID = 0x7FFFFFFF  # a class is named at its first use alone, where its number has the highest bit set
_UNPOSED = (1 << 32) - 1
_MODELS = {  # name -> key of the distortion, and COLMAP's model and parameters of f, cx, cy and it
    "pinhole": ("", lambda f, c, k: ("SIMPLE_PINHOLE", [f, *c])),
    "pinhole_radial_k1": ("disto_k1", lambda f, c, k: ("SIMPLE_RADIAL", [f, *c, *k])),
    "pinhole_radial_k3": ("disto_k3", lambda f, c, k: ("FULL_OPENCV", [f, f, *c, k[0], k[1], 0, 0, k[2], 0, 0, 0])),
    "pinhole_brown_t2": (
        "disto_t2",
        lambda f, c, k: ("FULL_OPENCV", [f, f, *c, k[0], k[1], k[3], k[4], k[2], 0, 0, 0]),
    ),
    "fisheye": ("fisheye", lambda f, c, k: ("OPENCV_FISHEYE", [f, f, *c, *k])),
}


def detect(path: Path) -> Found | None:
    for file in files_like(path, "*.json"):
        values = json_of(file)
        if isinstance(values, dict) and values.get("extrinsics") and "views" in values:
            try:
                names = [view["filename"] for view in map(_data, values["views"])]
            except (KeyError, TypeError):
                names = []
            root = root_of(path, file, names)
            source = {"reader": "openmvg", "sfm_data": file.relative_to(root).as_posix()}
            told = f"{file.name} with {len(values['extrinsics'])} poses"
            return Found("OpenMVG", root, source, told, "unit", MODEL)
    return None


def _data(item: dict[str, Any]) -> dict[str, Any]:
    return item["value"]["ptr_wrapper"]["data"]


def read(source: OpenMvgSource, root: Path, sfm_model: Path | None = None) -> Collection:
    """All views; those without a pose are left out."""
    path = root / source.sfm_data
    values = read_json_text(path)
    try:
        classes = {
            item["value"]["polymorphic_id"] & _ID: item["value"]["polymorphic_name"]
            for item in values["intrinsics"]
            if "polymorphic_name" in item["value"]
        }
        cameras = {
            item["key"]: _camera(classes[item["value"]["polymorphic_id"] & _ID], _data(item), path)
            for item in values["intrinsics"]
        }
        poses = {item["key"]: item["value"] for item in values["extrinsics"]}
        photos = []
        for view in map(_data, values["views"]):
            name = "/".join(part for part in (str(view.get("local_path", "")), view["filename"]) if part)
            pose, where = poses.get(view["id_pose"]), f"{path}: view {name}"
            if pose is not None:
                matrix = rigid(np.array(pose["rotation"], np.float64), np.array(pose["center"], np.float64))
                pose = checked_pose(matrix, where)
            if view["id_intrinsic"] == _UNPOSED:
                raise ScrflowError(f"{where} has no intrinsics; calibrate it")
            camera = cameras[view["id_intrinsic"]]
            photos.append(Posed(name, pose, lambda size, camera=camera: camera, where))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ScrflowError(
            f"{path}: not as OpenMVG writes it ({type(error).__name__}: {error}); write it again"
        ) from None
    return collect(path, root, photos, source.skip_missing)


def _camera(kind: str, data: dict[str, Any], path: Path) -> pycolmap.Camera:
    data = {**data.get("value0", {}), **data}
    if kind not in _MODELS:
        raise ScrflowError(f"{path}: camera {kind!r} is not supported; use one of {', '.join(_MODELS)}")
    key, of = _MODELS[kind]
    model, params = of(float(data["focal_length"]), data["principal_point"], data.get(key, ()))
    width, height = checked_size(data["width"], data["height"], str(path))
    return pycolmap.Camera(model=model, width=width, height=height, params=params)
