"""A floor of the Hyundai Department Store in kapture's form, of demo photos (SYNTHETIC)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from scrflow.scene.colmap_model import View, read_model, views_of_model

REPO = Path(__file__).resolve().parents[2]
DEMO = {view.name: view for view in views_of_model(read_model(REPO / "demo/model"))}
MAPPING = [f"mapping/{i:03d}.jpg" for i in range(0, 120, 12)]
VALIDATION = ["day/000.jpg", "day/007.jpg"]
TEST = ["night/003.jpg"]
FOLDER = "HyundaiDepartmentStore/1F/release"
# two cameras of the rig, as sensor_from_rig; a phone is on no rig
RIG = {
    "40027089": (Rotation.from_euler("xyz", [4, 88, -2], degrees=True), np.array([0.1, -0.3, 0.7])),
    "40029628": (Rotation.from_euler("xyz", [-7, -31, 178], degrees=True), np.array([0.0, 1.2, -0.4])),
}


def opencv(view: View) -> str:
    """``w, h, fx, fy, cx, cy, k1, k2, p1, p2`` of the demo's pinhole and simple radial cameras: the same lens."""
    p = view.camera.params.tolist()
    values = [*p, 0.0, 0, 0, 0] if view.camera.model.name == "PINHOLE" else [p[0], *p, 0, 0, 0]
    return ", ".join(map(str, (view.camera.width, view.camera.height, *values)))


def seven(rotation: Rotation, translation: np.ndarray) -> str:
    x, y, z, w = rotation.as_quat().tolist()
    return ", ".join(map(str, (w, x, y, z, *translation.tolist())))


def pose_of(view: View) -> str:
    return seven(Rotation.from_matrix(view.cam_from_world[:, :3]), view.cam_from_world[:, 3])


def rig_pose(view: View, sensor: str) -> str:
    """rig_from_world of a rig whose ``sensor`` sees the view: x_rig = R_s^T (R x + t - t_s)."""
    rotation, translation = RIG[sensor]
    R, t = Rotation.from_matrix(view.cam_from_world[:, :3]), view.cam_from_world[:, 3]
    return seven(rotation.inv() * R, rotation.inv().apply(t - translation))


def table(path: Path, header: str, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["# kapture format: 1.1", header, *lines]) + "\n", encoding="utf-8")


def write_kapture(folder: Path, names: list[str], rig: bool = False, poses: bool = True) -> None:
    """A kapture folder as kapture writes it: padded ids, lidar beside the cameras, no trajectories for a test set."""
    sensors, trajectories, records = [], [], []
    for i, name in enumerate(names):
        device = sorted(RIG)[i % 2] if rig else "S9phone"
        if i < (2 if rig else 1):
            sensors.append(f"{device}, basler, camera, OPENCV, {opencv(DEMO[name])}")
        # the rig stands elsewhere for the other camera's image, so that each has a time of its own
        time = 1566545000 + i // 2 + 1000 * (i % 2) if rig else 1566545000 + i
        path = f"{device}_{time}.jpg"
        records.append(f"{time}, {device}, {path}")
        trajectories.append(
            f"{time}, rig_1F, {rig_pose(DEMO[name], device)}" if rig else f"{time}, {device}, " + pose_of(DEMO[name])
        )
        image = folder / "sensors/records_data" / path
        image.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / "demo/images" / name, image)
    where = folder / "sensors"
    table(
        where / "sensors.txt", "# sensor_device_id, name, sensor_type, [sensor_params]+", [*sensors, "lidar0, , lidar"]
    )
    table(where / "records_camera.txt", "# timestamp, device_id, image_path", records)
    table(where / "records_lidar.txt", "# timestamp, device_id, point_cloud_path", ["1566545000, lidar0, pcs/0.pcd"])
    if rig:
        lines = [f"rig_1F, {name}, {seven(*pose)}" for name, pose in RIG.items()]
        table(where / "rigs.txt", "# rig_device_id, sensor_device_id, qw, qx, qy, qz, tx, ty, tz", lines)
    if poses:
        header = "# timestamp, device_id, qw, qx, qy, qz, tx, ty, tz"
        table(
            where / "trajectories.txt",
            header,
            [*trajectories, "1566545000,  lidar0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0"],
        )


def write_hyundai(root: Path) -> None:
    """Mapping images by a rig of two cameras, validation images by a phone, and a test set without poses."""
    write_kapture(root / FOLDER / "mapping", MAPPING, rig=True)
    write_kapture(root / FOLDER / "validation", VALIDATION)
    write_kapture(root / FOLDER / "test", TEST, poses=False)
