"""A training scene of Map-free, and a Wayspots scene in the layout of DSAC*, of demo photos (SYNTHETIC)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from scrflow.scene.colmap_model import View, read_model, views_of_model

REPO = Path(__file__).resolve().parents[2]
DEMO = [v for v in views_of_model(read_model(REPO / "demo/model")) if v.camera.model.name == "PINHOLE"]
SEQUENCES = {"seq0": DEMO[0:60:10], "seq1": DEMO[5:60:10]}


def pose_line(view: View) -> str:
    x, y, z, w = Rotation.from_matrix(view.cam_from_world[:, :3]).as_quat().tolist()
    return " ".join(f"{v:.16f}" for v in (w, x, y, z, *view.cam_from_world[:, 3]))


def write_mapfree(scene: Path, sequences: dict[str, list[View]]) -> None:
    """Frames with gaps, intrinsics and poses of all sequences in one list each, as in s00000."""
    intrinsics, poses = ["# frame fx fy cx cy w h"], ["# frame qw qx qy qz tx ty tz"]
    for sequence, views in sequences.items():
        (scene / sequence).mkdir(parents=True)
        for i, view in enumerate(views):
            name = f"{sequence}/frame_{2 * i:05d}.jpg"
            fx, fy, cx, cy = view.camera.params
            intrinsics.append(f"{name} {fx:.4f} {fy:.4f} {cx:.4f} {cy:.4f} {view.camera.width} {view.camera.height}")
            poses.append(f"{name} {pose_line(view)}")
            shutil.copy(REPO / "demo/images" / view.name, scene / name)
    (scene / "intrinsics.txt").write_text("\n".join(intrinsics) + "\n")
    (scene / "poses.txt").write_text("\n".join(poses) + "\n")
    np.savez(scene / "overlaps.npz", idxs=np.zeros((0, 4), np.uint16), overlaps=np.zeros(0))


def write_wayspots(root: Path, place: str, sequences: dict[str, list[View]]) -> None:
    """Two scans as ``train`` and ``test``: files named alike in rgb, poses (world_from_cam) and calibration."""
    for split, views in zip(("train", "test"), sequences.values(), strict=True):
        folder = root / f"wayspots_{place}" / split
        for kind in ("rgb", "poses", "calibration"):
            (folder / kind).mkdir(parents=True)
        for i, view in enumerate(views):
            R, t = view.cam_from_world[:, :3], view.cam_from_world[:, 3]
            world_from_cam = np.vstack([np.column_stack([R.T, -R.T @ t]), [0, 0, 0, 1]])
            shutil.copy(REPO / "demo/images" / view.name, folder / f"rgb/frame_{i:05d}.jpg")
            np.savetxt(folder / f"poses/frame_{i:05d}.txt", world_from_cam)
            np.savetxt(folder / f"calibration/frame_{i:05d}.txt", view.camera.calibration_matrix())
