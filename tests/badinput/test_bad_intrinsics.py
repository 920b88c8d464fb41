"""Intrinsics that no photo has, in the scene stage and with ``scrflow localize --camera``.

A camera of another size than its photo, zero and negative focal lengths in pose lists: tests/scene/test_build.py;
unknown models and wrong counts of numbers of a query: tests/localize/test_batch.py.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import photo_kinds as kinds
import pycolmap
import pytest

from scrflow.config import NerfstudioSource
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import invert_pose
from scrflow.localize.query import camera_of
from scrflow.scene.build import build_scene
from scrflow.scene.checks import check_intrinsics, lost_share

FAULTS = {
    "zero focal length": ("PINHOLE", [0, 130, 80, 60], r"focal length \[0\.0, 130\.0\] px, expected a positive number"),
    "negative focal length": (
        "PINHOLE",
        [-130, 130, 80, 60],
        r"focal length \[-130\.0, 130\.0\] px, expected a positive",
    ),
    "focal length NaN": ("PINHOLE", [math.nan, 130, 80, 60], r"camera has a parameter that is not finite"),
    "focal length in mm": (
        "PINHOLE",
        [4.2, 4.2, 80, 60],
        r"focal length 4\.2 4\.2 px for an image of 160x120 looks like millimetres; in px it is mm / width",
    ),
    "focal length as a share of the width": (
        "SIMPLE_PINHOLE",
        [0.8, 80, 60],
        r"focal length 0\.8 px for an image of 160x120 looks like a share of the width; in px it would be 128",
    ),
    "focal length far too long": (
        "SIMPLE_PINHOLE",
        [130e6, 80, 60],
        r"shows under half a degree; correct the intrinsics",
    ),
    "focal lengths that differ": (
        "PINHOLE",
        [130, 390, 80, 60],
        r"differ by more than 2 times; correct the intrinsics",
    ),
    "principal point outside": (
        "PINHOLE",
        [130, 130, 200, 60],
        r"principal point 200, 60 px lies outside the image of 160x120; correct the intrinsics \(PINHOLE takes fx, fy",
    ),
    "principal point as a share": (
        "PINHOLE",
        [130, 130, 0.5, 0.5],
        r"principal point 0\.5, 0\.5 is at the edge of 160x120",
    ),
    "parameters of another model": (
        "PINHOLE",
        [130, 80, 60, 0.01],
        r"principal point 60, 0\.01 is at the edge of 160x120",
    ),
    "distortion that cannot be inverted": (
        "SIMPLE_RADIAL",
        [130, 80, 60, -0.9],
        r"distortion cannot be inverted over \d\d% of the image \(SIMPLE_RADIAL \[130\.0, 80\.0, 60\.0, -0\.9\]\)",
    ),
    "distortion that folds": (
        "FULL_OPENCV",
        [72.4, 72.4, 80, 60, 4.26, 0.54, -0.16, -0.4, -3.09, -0.18, 0.45, 0.51],
        r"distortion cannot be inverted over \d\d% of the image",
    ),
    "unknown model": ("PINHOL", [130, 130, 80, 60], r"no COLMAP camera model 'PINHOL'"),
    "too few parameters": ("PINHOLE", [130, 80, 60], r"PINHOLE takes parameters fx, fy, cx, cy, found 3 numbers"),
    "size zero": ("PINHOLE 0 120", [130, 130, 80, 60], r"camera has size 0x120 px, expected"),
}


def line(model: str, params: list[float]) -> str:
    return " ".join([model if " " in model else f"{model} 160 120", *map(repr, params)])


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_cameras_are_refused_and_the_scene_of_before_stays(tmp_path, fault):
    """As the camera of a query in a list, and as that of ``localize``."""
    model, params, message = FAULTS[fault]
    root = kinds.dataset(tmp_path / "data")
    (root / "queries.txt").write_text(f"5.jpg {kinds.LINE}\n")
    split = kinds.STAGE.split.model_copy(update={"every": None, "queries": {"all": "queries.txt"}})
    stage = kinds.STAGE.model_copy(update={"split": split})
    build_scene(stage, root, tmp_path / "scene")
    before = (tmp_path / "scene/scene.json").read_bytes()
    (root / "queries.txt").write_text(f"5.jpg {line(model, params)}\n")
    with pytest.raises(ScrflowError, match=message) as caught:
        build_scene(stage, root, tmp_path / "scene")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "scene/scene.json").read_bytes() == before
    with pytest.raises(ScrflowError, match=r"--camera: .*" + message) as caught:
        camera_of(line(model, params), "--camera")
    assert "\n" not in str(caught.value)


def transforms(root: Path, **values: float) -> None:
    frames = [
        {
            "file_path": f"images/{i}.jpg",
            "transform_matrix": np.vstack([invert_pose(kinds.pose_of(i)), [0, 0, 0, 1]]).tolist(),
        }
        for i in range(6)
    ]
    (root / "transforms.json").write_text(json.dumps({**values, "frames": frames}))


@pytest.mark.parametrize(
    "values, message",
    [
        ({"fl_x": 0.8}, "looks like a share of the width; in px it would be 128"),
        ({"fl_x": 28.0, "w": 160, "h": 120, "fl_y": 14.0}, "looks like millimetres"),
        ({"fl_x": 130, "cx": 0.5, "cy": 0.5}, "is at the edge of 160x120 px"),
        ({"fl_x": 130, "k1": -0.9}, "distortion cannot be inverted over"),
        ({"fl_x": 130, "w": 320, "h": 240}, r"1\.jpg: image is 160x120 px, its camera is 320x240"),
        ({"camera_angle_x": 0.0}, "camera_angle_x is 0, expected radians"),
    ],
)
def test_mapping_cameras(tmp_path, values, message):
    root = kinds.dataset(tmp_path / "data")
    transforms(root, **values)
    stage = kinds.STAGE.model_copy(update={"source": NerfstudioSource(reader="nerfstudio")})
    with pytest.raises(ScrflowError, match=message) as caught:
        build_scene(stage, root, tmp_path / "scene")
    assert "\n" not in str(caught.value) and not (tmp_path / "scene").exists()


@pytest.mark.parametrize(
    "model, size, params, lost",
    [
        ("SIMPLE_PINHOLE", (640, 480), [525, 320, 240], 0.0),
        ("OPENCV", (1080, 1920), [1375.5, 1374.5, 554.6, 965.3, 0.058, -0.081, -0.00098, 0.00016], 0.0),  # fox
        ("SIMPLE_RADIAL", (512, 384), [432, 254.5, 193.5, -0.05], 0.0),  # the demo's
        ("OPENCV_FISHEYE", (640, 480), [250, 250, 320, 240, 0, 0, 0, 0], 0.02),  # 92 degrees off axis in the corners
        ("SIMPLE_PINHOLE", (8000, 1000), [900, 4000, 500], 0.0),  # a panorama, 155 degrees
        ("PINHOLE", (640, 480), [11000, 11000, 320, 240], 0.0),  # a telephoto lens
    ],
)
def test_real_cameras_pass(model, size, params, lost, caplog):
    camera = pycolmap.Camera(model=model, width=size[0], height=size[1], params=params)
    with caplog.at_level(logging.WARNING, "scrflow"):
        check_intrinsics(camera, "here")
    assert lost_share(camera) <= lost
    assert ("cannot be inverted" in caplog.text) == (lost_share(camera) > 0)
