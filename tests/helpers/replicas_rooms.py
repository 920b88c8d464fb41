"""7-Scenes and 12-Scenes in the published layouts, of demo photos (SYNTHETIC).

Written by matrices and text alone, in the datasets' conventions (world_from_cam; the depth camera of 7-Scenes; infinite
poses as Microsoft's C library prints them).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from scrflow.scene.colmap_model import read_model, views_of_model

REPO = Path(__file__).resolve().parents[2]
DEMO_FOCAL = 400.0  # of the demo's mapping photos, 512x384 px

# what ACE's setup applies, typed from the calibration's page with the digits that matter here (0.1 mm, 0.001 degrees)
COLOUR_FROM_DEPTH = np.array(
    [
        [0.99996518, 0.00267651, -0.00790410, -0.02555894],
        [-0.00274093, 0.99996303, -0.00815045, 0.00010110],
        [0.00788199, 0.00817183, 0.99993555, 0.00203183],
        [0, 0, 0, 1],
    ]
)


def demo_frames(count: int) -> list[tuple[Path, np.ndarray]]:
    """Photos of the demo scene that look at each other's surroundings, with cam_from_world [4, 4]."""
    views = [v for v in views_of_model(read_model(REPO / "demo/model")) if v.name.startswith("mapping/")][:count]
    return [(REPO / "demo/images" / v.name, np.vstack([v.cam_from_world, [0, 0, 0, 1]])) for v in views]


def matrix_text(matrix: np.ndarray) -> str:
    """As in the datasets: ``9.9998e-001 <tab>`` and so on, three digits of exponent."""
    lines = []
    for row in matrix:
        fields = (f"{v:.9e}" for v in row)
        lines.append("".join(f" {f[:-2]}0{f[-2:]}\t" for f in fields))
    return "\r\n".join(lines) + "\r\n"


def list_line(name: str, cam_from_world: np.ndarray, focal: float) -> str:
    x, y, z, w = Rotation.from_matrix(cam_from_world[:3, :3]).as_quat()
    q = " ".join(f"{v:.6g}" for v in (w, x, y, z))
    t = " ".join(f"{v:.6f}" for v in cam_from_world[:3, 3])
    return f"{name} {q} {t} {focal:g}\n"


def seven_replica(data: Path) -> dict[str, np.ndarray]:
    """chess of six frames in two sequences, demo photos at 640x480; name -> cam_from_world of the colour camera."""
    root = data / "7scenes/chess"
    (data / "7scenes/visloc_pseudo_gt_limitations/pgt/sfm/7scenes").mkdir(parents=True)
    poses, lines = {}, {"train": [], "test": []}
    for i, (photo, pose) in enumerate(demo_frames(8)):
        sequence, number = ("seq-01", i) if i < 5 else ("seq-03", i - 5)
        stem = root / sequence / f"frame-{number:06d}"
        stem.parent.mkdir(parents=True, exist_ok=True)
        Image.open(photo).resize((640, 480)).save(f"{stem}.color.png", compress_level=1)
        # world_from_depth = world_from_colour . colour_from_depth
        Path(f"{stem}.pose.txt").write_text(matrix_text(np.linalg.inv(pose) @ COLOUR_FROM_DEPTH))
        name = f"{sequence}/{stem.name}.color.png"
        poses[name] = pose[:3]
        lines["train" if i < 5 else "test"].append(list_line(name, pose, DEMO_FOCAL * 640 / 512))
    for part, text in lines.items():
        path = data / f"7scenes/visloc_pseudo_gt_limitations/pgt/sfm/7scenes/chess_{part}.txt"
        path.write_text("".join(reversed(text)))
    (root / "TrainSplit.txt").write_text("sequence1\r\n")
    (root / "TestSplit.txt").write_text("sequence3\r\n")
    return poses


INFO = """m_versionNumber = 4
m_sensorName = StructureSensor
m_colorWidth = 512
m_colorHeight = 384
m_depthWidth = 640
m_depthHeight = 480
m_depthShift = 1000
m_calibrationColorIntrinsic = 400 0 256.5 0 0 401 191.5 0 0 0 1 0 0 0 0 1
m_calibrationColorExtrinsic = 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1
m_calibrationDepthIntrinsic = 572 0 320 0 0 572 240 0 0 0 1 0 0 0 0 1
m_calibrationDepthExtrinsic = 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1
m_frames.size = 10
"""
LOST = ("data/frame-000001.color.jpg", "data/frame-000006.color.jpg")  # a query and a mapping frame


def twelve_replica(data: Path) -> dict[str, np.ndarray]:
    """apt1/kitchen of ten demo photos; the first three are the test sequence, two frames are lost."""
    root = data / "12scenes/apt1/kitchen"
    lists = data / "12scenes/apt1/visloc_pseudo_gt_limitations-637e4d4/pgt/sfm/12scenes"
    for folder in (root / "data", lists):
        folder.mkdir(parents=True)
    poses, lines = {}, {"test": [], "train": []}
    for i, (photo, pose) in enumerate(demo_frames(10)):
        name = f"data/frame-{i:06d}.color.jpg"
        Image.open(photo).convert("RGB").save(root / name)
        poses[name] = pose[:3]
        world_from_cam = matrix_text(np.linalg.inv(pose)).replace("\r", "")
        text = "-1.#INF -1.#INF -1.#INF -1.#INF\n" * 4 if name in LOST else world_from_cam
        (root / name.replace(".color.jpg", ".pose.txt")).write_text(text)
        if name not in LOST:
            lines["test" if i < 3 else "train"].append(list_line(name, pose, DEMO_FOCAL))
    for part, text in lines.items():
        (lists / f"apt1_kitchen_{part}.txt").write_text("".join(text))
    (root / "info.txt").write_text(INFO)
    text = "sequence0 [frames=3]  [start=0 ; end=2]\nsequence1 [frames=7]  [start=3 ; end=9]\n"
    (root / "split.txt").write_text(text)
    return poses
