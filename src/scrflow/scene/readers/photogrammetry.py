"""Files of photogrammetry programs: Bundler, OpenMVG, OpenSfM (OpenDroneMap) and RealityCapture (RealityScan)."""

import csv
import logging
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pycolmap
from pydantic import Field
from scipy.spatial.transform import Rotation

from scrflow.core.errors import ScrflowError
from scrflow.scene.checks import checked_pose, checked_size
from scrflow.scene.lists import colmap_camera, finite_numbers, read_json_text
from scrflow.scene.readers import EXPORT, Found
from scrflow.scene.readers.shared import OPENCV_FROM_OPENGL, Posed, PoseFile, files_like, json_of, rigid, root_of
from scrflow.storage.listfile import has_suffix, open_text, read_lines, read_text, split_name

log = logging.getLogger("scrflow")


class BundlerSource(PoseFile):
    """Bundler: bundle.out and the list of its photos."""

    # A camera is f k1 k2, a rotation and a translation, world to camera with OpenGL axes, 15 numbers on 5 lines; the
    # distortion is COLMAP's RADIAL about the image's centre. f = 0: no pose. 3D points are not read.
    form = "Bundler"
    file_keys = ("bundle", "photos")
    reader: Literal["bundler"]
    bundle: str = Field("bundle.out", description="relative to root")
    photos: str = Field("list.txt", description="photos in the order of the cameras, relative to root")

    @classmethod
    def detect(cls, path: Path) -> Found | None:
        for file in files_like(path, "*.out"):
            with open_text(file) as text:
                if not text.readline().startswith(_MARK):
                    continue
            lists = [*(file.parent / name for name in (f"{file.name}.list.txt", "list.txt", "../list.txt"))]
            photos = next((p.resolve() for p in lists if p.is_file()), None)
            if photos is None:
                continue
            root = root_of(path, file, _photos_of(photos))
            root = root if photos.is_relative_to(root.resolve()) else photos.parent
            source = {"reader": "bundler", "bundle": file.relative_to(root).as_posix()}
            source["photos"] = photos.relative_to(root.resolve()).as_posix()
            return Found(cls.form, root, source, f"{file.name} and {photos.name}", "unit", EXPORT)
        return None

    def posed(self, path: Path, root: Path) -> Iterator[Posed]:
        names = _photos_of(root / self.photos)
        lines = [line for line in read_text(path).split("\n") if line.strip()]
        if not lines[:1] or not lines[0].startswith(_MARK) or not all(map(has_suffix, names)):
            raise ScrflowError(f"{path}: expected '{_MARK} v0.3' and a list of photos beside it; write it again")
        head = finite_numbers((lines[1] if len(lines) > 1 else "").split())
        if head is None or len(head) != 2 or head[0] != len(names):
            raise ScrflowError(
                f"{path}: line 2: expected the number of cameras ({len(names)} photos are listed) and of points"
            )
        fields = [field for line in islice(lines, 2, 2 + 5 * len(names)) for field in line.split()]
        values = finite_numbers(fields)
        if values is None or len(values) != 15 * len(names):
            raise ScrflowError(f"{path}: expected 15 finite numbers for each of {len(names)} cameras; write it again")
        for name, (f, k1, k2, *rest) in zip(names, values.reshape(-1, 15), strict=True):
            where, pose = f"{path}: camera of {name}", None
            if f > 0:
                turn, shift = np.reshape(rest[:9], (3, 3)), np.array(rest[9:])
                pose = checked_pose(OPENCV_FROM_OPENGL[:, None] * np.column_stack([turn, shift]), where)
            yield Posed(name, pose, partial(_radial, f, k1, k2), where)


_MARK = "# Bundle file"


def _photos_of(path: Path) -> list[str]:
    return [split_name(line)[0] for _, line in read_lines(path)]


def _radial(f: float, k1: float, k2: float, size: tuple[int, int]) -> pycolmap.Camera:
    centred = [f, size[0] / 2, size[1] / 2]
    if k1 == 0 and k2 == 0:
        return colmap_camera("SIMPLE_PINHOLE", size, centred)
    return colmap_camera("RADIAL", size, [*centred, k1, k2])


class OpenMvgSource(PoseFile):
    """OpenMVG: sfm_data.json with its views, intrinsics and extrinsics."""

    # extrinsics are a rotation world to camera and the camera's centre
    form, lists, patterns = "OpenMVG", "views", ("*.json",)
    file_keys = ("sfm_data",)
    reader: Literal["openmvg"]
    sfm_data: str = Field("sfm_data.json", description="relative to root")

    @classmethod
    def listed(cls, file: Path) -> list[str] | None:
        values = json_of(file)
        if not isinstance(values, dict) or not values.get("extrinsics") or "views" not in values:
            return None
        try:
            return [view["filename"] for view in map(_data, values["views"])]
        except (KeyError, TypeError):
            return []

    def posed(self, path: Path, root: Path) -> Iterator[Posed]:
        values = read_json_text(path)
        classes = {
            item["value"]["polymorphic_id"] & _ID: item["value"]["polymorphic_name"]
            for item in values["intrinsics"]
            if "polymorphic_name" in item["value"]
        }
        cameras = {
            item["key"]: _openmvg_camera(classes[item["value"]["polymorphic_id"] & _ID], _data(item), path)
            for item in values["intrinsics"]
        }
        poses = {item["key"]: item["value"] for item in values["extrinsics"]}
        for view in map(_data, values["views"]):
            name = "/".join(part for part in (str(view.get("local_path", "")), view["filename"]) if part)
            pose, where = poses.get(view["id_pose"]), f"{path}: view {name}"
            if pose is not None:
                matrix = rigid(np.array(pose["rotation"], np.float64), np.array(pose["center"], np.float64))
                pose = checked_pose(matrix, where)
            if view["id_intrinsic"] == _NO_INTRINSICS:
                raise ScrflowError(f"{where} has no intrinsics; calibrate it")
            yield Posed(name, pose, cameras[view["id_intrinsic"]], where)


_ID = 0x7FFFFFFF  # a class is named at its first use alone, where its number has the highest bit set
_NO_INTRINSICS = (1 << 32) - 1
_OPENMVG = {  # name -> key of the distortion, and COLMAP's model and parameters of f, cx, cy and it
    "pinhole": ("", lambda f, c, k: ("SIMPLE_PINHOLE", [f, *c])),
    "pinhole_radial_k1": ("disto_k1", lambda f, c, k: ("SIMPLE_RADIAL", [f, *c, *k])),
    "pinhole_radial_k3": ("disto_k3", lambda f, c, k: ("FULL_OPENCV", [f, f, *c, k[0], k[1], 0, 0, k[2], 0, 0, 0])),
    "pinhole_brown_t2": (
        "disto_t2",
        lambda f, c, k: ("FULL_OPENCV", [f, f, *c, k[0], k[1], k[3], k[4], k[2], 0, 0, 0]),
    ),
    "fisheye": ("fisheye", lambda f, c, k: ("OPENCV_FISHEYE", [f, f, *c, *k])),
}


def _data(item: dict[str, Any]) -> dict[str, Any]:
    return item["value"]["ptr_wrapper"]["data"]


def _openmvg_camera(kind: str, data: dict[str, Any], path: Path) -> pycolmap.Camera:
    data = {**data.get("value0", {}), **data}
    if kind not in _OPENMVG:
        raise ScrflowError(f"{path}: camera {kind!r} is not supported; use one of {', '.join(_OPENMVG)}")
    key, of = _OPENMVG[kind]
    model, params = of(float(data["focal_length"]), data["principal_point"], data.get(key, ()))
    return colmap_camera(model, checked_size(data["width"], data["height"], str(path)), params)


class OpenSfmSource(PoseFile):
    """OpenSfM: reconstruction.json."""

    # A shot has a rotation vector and a translation, world to camera. Focal lengths and principal points are shares of
    # the longer side, from the image's centre.
    form, lists, patterns = "OpenSfM", "shots", ("*.json",)
    file_keys = ("reconstruction",)
    reader: Literal["opensfm"]
    reconstruction: str = Field("reconstruction.json", description="relative to root")

    @classmethod
    def listed(cls, file: Path) -> dict[str, Any] | None:
        values = json_of(file)
        first = values[0] if isinstance(values, list) and values else None
        shots = first.get("shots") if isinstance(first, dict) else None
        return shots if isinstance(shots, dict) else None

    def posed(self, path: Path, root: Path) -> Iterator[Posed]:
        values = read_json_text(path)
        largest = max(values, key=lambda part: len(part["shots"]))
        if len(values) > 1:
            told = "%s: the largest of %d reconstructions is taken; poses of the others have another frame"
            log.warning(told, path, len(values))
        cameras = {name: _opensfm_camera(c, f"{path}: camera {name}") for name, c in largest["cameras"].items()}
        for name, shot in largest["shots"].items():
            turn = Rotation.from_rotvec(np.array(shot["rotation"], np.float64)).as_matrix()
            where = f"{path}: shot {name}"
            pose = checked_pose(np.column_stack([turn, np.array(shot["translation"], np.float64)]), where)
            yield Posed(name, pose, cameras[shot["camera"]], where)


def _opensfm_camera(values: dict[str, Any], where: str) -> pycolmap.Camera:
    width, height = checked_size(values["width"], values["height"], where)
    longer, kind = max(width, height), values["projection_type"]
    focal = [longer * values.get(key, values.get("focal", values.get("focal_x"))) for key in ("focal_x", "focal_y")]
    pinhole = [*focal, width / 2 + longer * values.get("c_x", 0), height / 2 + longer * values.get("c_y", 0)]
    k1, k2, k3, k4, p1, p2 = (values.get(key, 0) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if kind in ("perspective", "simple_radial", "radial"):
        return colmap_camera("OPENCV", (width, height), [*pinhole, k1, k2, 0, 0])
    if kind == "brown":
        return colmap_camera("FULL_OPENCV", (width, height), [*pinhole, k1, k2, p1, p2, k3, 0, 0, 0])
    if kind in ("fisheye", "fisheye_opencv"):
        return colmap_camera("OPENCV_FISHEYE", (width, height), [*pinhole, k1, k2, k3, k4])
    raise ScrflowError(f"{where}: projection_type {kind!r} is not supported; use perspective, brown or fisheye")


class RealityCaptureSource(PoseFile):
    """RealityCapture: CSV of internal and external camera parameters."""

    # Camera centre, angles in degrees, focal length in mm of a 36 mm wide film, principal point from the image's centre
    # as a share of its longer side, Brown's distortion. world_from_cam with OpenGL axes is Rz(-heading) Rx(pitch)
    # Ry(roll).
    form, lists, patterns = "RealityCapture", "cameras", ("*.csv",)
    file_keys = ("csv",)
    reader: Literal["realitycapture"]
    csv: str = Field(description="the file, relative to root")

    @classmethod
    def listed(cls, file: Path) -> list[str] | None:
        try:
            return [row["name"] for _, row in _rows(file)]
        except ScrflowError:
            return None

    def posed(self, path: Path, root: Path) -> Iterator[Posed]:
        for number, row in _rows(path):
            name = row.pop("name")
            where = f"{path}: line {number}: {name}"
            values = finite_numbers([field or "0" for field in row.values()])
            if values is None:
                raise ScrflowError(f"{where}: expected finite numbers after the name; correct the line")
            n = dict(zip(row, values, strict=True))
            turn = Rotation.from_euler("ZXY", [-n["heading"], n["pitch"], n["roll"]], degrees=True).as_matrix()
            pose = rigid((turn * OPENCV_FROM_OPENGL).T, np.array([n["x"], n["y"], n["alt"]]))
            yield Posed(name, pose, partial(_brown, n, where), where)


_NEEDED = ("x", "y", "alt", "heading", "pitch", "roll", "f")
_FILM_MM = 36.0


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, field by column) of the file's lines."""
    lines = read_text(path).split("\n")
    columns = [c.strip().lower() for c in lines[0].lstrip("#").split(",")]
    if columns[0] != "name" or not set(_NEEDED) <= set(columns):
        raise ScrflowError(
            f"{path}: line 1: expected '#name,x,y,alt,heading,pitch,roll,f,px,py,k1,...' (internal/external camera "
            "parameters); export it again"
        )
    for number, fields in enumerate(csv.reader(lines[1:]), start=2):
        if any(field.strip() for field in fields):
            if len(fields) != len(columns):
                raise ScrflowError(f"{path}: line {number}: {len(fields)} fields, expected {len(columns)}; correct it")
            yield number, dict(zip(columns, (f.strip() for f in fields), strict=True))


def _brown(n: dict[str, float], where: str, size: tuple[int, int]) -> pycolmap.Camera:
    longer = max(size)
    k1, k2, k3, k4, t1, t2 = (n.get(key, 0) for key in ("k1", "k2", "k3", "k4", "t1", "t2"))
    if k4:
        raise ScrflowError(f"{where}: k4 has no COLMAP model; align again with Brown's model of three coefficients")
    pinhole = [n["f"] * longer / _FILM_MM] * 2
    pinhole += [n.get("px", 0) * longer + size[0] / 2, n.get("py", 0) * longer + size[1] / 2]
    if not any((k1, k2, k3, t1, t2)):
        return colmap_camera("PINHOLE", size, pinhole)
    return colmap_camera("FULL_OPENCV", size, [*pinhole, k1, k2, t1, t2, k3, 0, 0, 0])
