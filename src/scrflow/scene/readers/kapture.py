"""kapture 1.x, the text files of the ``sensors`` folder (github.com/naver/kapture, kapture_format.adoc).

Poses of ``trajectories.txt`` are device_from_world, those of ``rigs.txt`` sensor_from_rig, quaternions w x y z; cameras
have COLMAP's models and pixels. Only cameras are read.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap
from pydantic import Field

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import compose
from scrflow.scene.colmap_model import View
from scrflow.scene.lists import PhotoNames, camera_of_fields, finite_numbers, pose_of_numbers, read_table
from scrflow.scene.readers import Collection, Found, Reader, has
from scrflow.storage.listfile import read_text


class KaptureSource(Reader):
    """kapture 1.x: one folder for the mapping images, one a condition of the queries; in each ``sensors/``."""

    reader: Literal["kapture"]
    mapping: str = Field("mapping", description="kapture folder of the mapping images, relative to root")
    queries: dict[str, str] = Field(
        {"all": "query"},
        description="condition -> kapture folder; empty where mapping and queries share one and split has lists",
    )
    sensors: tuple[str, ...] | None = Field(None, description="ids of the cameras to take; all when not given")

    def files(self, root: Path) -> list[Path]:
        names = ("sensors", "rigs", "trajectories", "records_camera")
        folders = dict.fromkeys((self.mapping, *self.queries.values()))
        return [root / folder / "sensors" / f"{name}.txt" for folder in folders for name in names]

    @classmethod
    def detect(cls, path: Path) -> Found | None:
        files = ("sensors/sensors.txt", "sensors/records_camera.txt")
        if has(path, *files):
            return Found("kapture", path, {"reader": "kapture", "mapping": ".", "queries": {}}, files[0], "m")
        if not has(path / "mapping", *files):
            return None
        others = [p.name for p in sorted(path.iterdir()) if p.name != "mapping" and has(p, *files)]
        queries = {"all": others[0]} if len(others) == 1 else {name: name for name in others}
        source = {"reader": "kapture", "mapping": "mapping", "queries": queries}
        return Found("kapture", path, source, f"kapture folders mapping, {', '.join(others) or 'and no other'}", "m")

    def read(self, root: Path) -> Collection:
        """The images of all folders; names are relative to the folder that is common to their ``records_data``.

        Mapping images without a pose are left out; a query without one has no reference.
        """
        folders = [root / folder / "sensors" for folder in (self.mapping, *self.queries.values())]
        image_root = Path(os.path.commonpath([folder / "records_data" for folder in folders]))
        mapping, *queries = (_read_images(folder, self.sensors, image_root) for folder in folders)
        if not any(image.cam_from_world is not None for image in mapping):
            raise ScrflowError(
                f"{folders[0] / 'trajectories.txt'}: no pose of a mapping image; correct it or key source.mapping"
            )
        conditions = {i.name: c for c, images in zip(self.queries, queries, strict=True) for i in images}
        return Collection(
            where=folders[0],
            image_root=image_root,
            images=tuple(image for images in (mapping, *queries) for image in images),
            split=(tuple(i.name for i in mapping), tuple(conditions)) if queries else None,
            conditions=conditions,
            left_out={i.name: "without a pose in trajectories.txt" for i in mapping if i.cam_from_world is None},
        )


_VERSION = re.compile(r"#\s*kapture format\s*:\s*1\.\d+")
_LONGEST_TIMESTAMP = 40  # digits

Device = tuple[int, str]  # timestamp, id of a sensor or rig


def _read_images(sensors: Path, only: tuple[str, ...] | None, image_root: Path) -> list[View]:
    """The images of a folder ``sensors``, their names relative to ``image_root``."""
    if not sensors.is_dir():
        raise ScrflowError(f"{sensors}: no such folder; correct keys source.mapping, source.queries")
    listed = sensors / "sensors.txt"
    cameras = _read_cameras(listed)
    unknown = [name for name in only or () if name not in cameras]
    if unknown:
        raise ScrflowError(f"{listed}: no camera {unknown[0]!r} (key source.sensors); there are {', '.join(cameras)}")
    poses = _read_poses(sensors / "trajectories.txt")
    rigs = _read_rigs(sensors / "rigs.txt", cameras)

    path, records = sensors / "records_camera.txt", (sensors / "records_data").relative_to(image_root)
    photos = PhotoNames(image_root)
    images: dict[Device, View] = {}
    for where, (timestamp, name, file) in read_table(path, "timestamp, device_id, image_path"):
        device = (_timestamp(timestamp, where), name)
        if name not in cameras:
            raise ScrflowError(f"{where}: sensors.txt has no camera {name!r}; add it there or remove the line")
        if only is not None and name not in only:
            continue
        if device in images:
            raise ScrflowError(f"{where}: another image of {name!r} at {device[0]}; remove one line")
        camera = cameras[name]
        if camera is None:
            raise ScrflowError(
                f"{listed}: camera {name!r} has no intrinsics (UNKNOWN_CAMERA); calibrate it, or set source.sensors"
            )
        listed = (records / file.replace("\\", "/")).as_posix()
        images[device] = View(photos.find(listed, where) or listed, camera, _pose_of(device, poses, rigs, where))
    if not images:
        raise ScrflowError(f"{path}: no images in it; correct keys source.mapping, source.queries or source.sensors")
    return list(images.values())


def _pose_of(
    device: Device,
    poses: Mapping[Device, np.ndarray | None],
    rigs: Mapping[str, list[tuple[str, np.ndarray | None]]],
    where: str,
    trail: tuple[str, ...] = (),
) -> np.ndarray | None:
    """cam_from_world [3, 4] of a device at a time: its own, or that of a rig that it is on (rigs may be on rigs)."""
    timestamp, name = device
    if name in trail:
        raise ScrflowError(f"{where}: rigs.txt runs in a circle: {' -> '.join((*trail, name))}; remove one line of it")
    own = poses.get(device)
    if own is not None:
        return own
    for rig, sensor_from_rig in rigs.get(name, ()):
        rig_from_world = _pose_of((timestamp, rig), poses, rigs, where, (*trail, name))
        if rig_from_world is not None and sensor_from_rig is not None:
            return compose(sensor_from_rig, rig_from_world)
    return None


def _read_cameras(path: Path) -> dict[str, pycolmap.Camera | None]:
    """Cameras by id, None where the intrinsics are unknown; sensors of other kinds are skipped."""
    cameras: dict[str, pycolmap.Camera | None] = {}
    table = list(read_table(path, "sensor_id, name, sensor_type, parameters...", 3))
    first = read_text(path).partition("\n")[0].strip() or "nothing"
    if not _VERSION.match(first):  # only the version in sensors.txt counts
        raise ScrflowError(f"{path}: line 1: expected '# kapture format: 1.x', found {first!r}; convert it")
    for where, (name, _, kind, *params) in table:
        if kind != "camera":
            continue
        if name in cameras:
            raise ScrflowError(f"{where}: sensor {name!r} is listed twice; remove one line")
        cameras[name] = None if params[:1] == ["UNKNOWN_CAMERA"] else camera_of_fields(params, where)
    if not cameras:
        raise ScrflowError(f"{path}: no sensor of type 'camera'; expected 'sensor_id, name, camera, MODEL, w, h...'")
    return cameras


def _read_poses(path: Path) -> dict[Device, np.ndarray | None]:
    """device_from_world [3, 4]; None where a position or a rotation is left empty. Nothing without a file."""
    poses: dict[Device, np.ndarray | None] = {}
    form = "timestamp, device_id, qw, qx, qy, qz, tx, ty, tz"
    for where, (timestamp, name, *pose) in read_table(path, form) if path.is_file() else ():
        device = (_timestamp(timestamp, where), name)
        if device in poses:
            raise ScrflowError(f"{where}: a second pose of {name!r} at {device[0]}; remove one line")
        poses[device] = _pose(pose, where)
    return poses


def _read_rigs(path: Path, cameras: Mapping[str, object]) -> dict[str, list[tuple[str, np.ndarray | None]]]:
    """sensor -> rigs that it is on, each with sensor_from_rig [3, 4]."""
    rigs: dict[str, list[tuple[str, np.ndarray | None]]] = {}
    form = "rig_id, sensor_id, qw, qx, qy, qz, tx, ty, tz"
    for where, (rig, sensor, *pose) in read_table(path, form) if path.is_file() else ():
        if rig in cameras:
            raise ScrflowError(f"{where}: {rig!r} is both a rig and a sensor of sensors.txt; rename the rig")
        rigs.setdefault(sensor, []).append((rig, _pose(pose, where)))
    return rigs


def _pose(fields: list[str], where: str) -> np.ndarray | None:
    """[3, 4] of qw qx qy qz tx ty tz; None where the rotation or the position is empty."""
    if not any(fields[:4]) or not any(fields[4:]):
        return None
    values = finite_numbers(fields)
    if values is None:
        raise ScrflowError(f"{where}: {', '.join(fields)} is not a pose of seven finite numbers; correct the line")
    return pose_of_numbers(values, where)


def _timestamp(field: str, where: str) -> int:
    if not field.isdecimal() or len(field) > _LONGEST_TIMESTAMP:
        raise ScrflowError(f"{where}: timestamp {field[:40]!r} is not a whole number; correct the line")
    return int(field)  # 0001 and 1 are the same
