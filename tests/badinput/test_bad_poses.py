"""Intrinsics that cannot be right: refused in one line that says where, and the earlier scene stays.

Faults of poses, and of single lines in each dataset format, are in tests/scene/test_broken_datasets.py.
"""

import logging

import photo_kinds as kinds
import pycolmap
import pytest
from small_datasets import check_refused

from scrflow.config import Split
from scrflow.core.errors import ScrflowError
from scrflow.localize.query import camera_of
from scrflow.scene.checks import check_intrinsics, lost_share

CAMERAS = {
    "zero focal length": ("PINHOLE", [0, 130, 80, 60], r"focal length \[0\.0, 130\.0\] px, expected a positive number"),
    "focal length in mm": ("PINHOLE", [4.2, 2.3, 80, 60], "160x120 looks like millimetres"),
    "focal length too long": ("SIMPLE_PINHOLE", [130e6, 80, 60], "shows under half a degree"),
    "focal lengths that differ": ("PINHOLE", [130, 390, 80, 60], "differ by more than 2 times"),
    "parameters of another model": ("PINHOLE", [130, 80, 60, 0.01], r"principal point 60, 0\.01 is at the edge"),
    "distortion": ("SIMPLE_RADIAL", [130, 80, 60, -0.9], r"distortion cannot be inverted over \d\d% of the image"),
    "unknown model": ("PINHOL", [130, 130, 80, 60], "no COLMAP camera model 'PINHOL'"),
}


@pytest.mark.parametrize("fault", CAMERAS)
def test_bad_cameras(tmp_path, fault):
    """As the camera of a query in a list, and as that of ``scrflow localize``; of a mapping image: tests/scene."""
    model, params, message = CAMERAS[fault]
    camera = " ".join([model if " " in model else f"{model} 160 120", *map(repr, params)])
    root = kinds.dataset(tmp_path / "data")
    (root / "queries.txt").write_text(f"5.jpg {camera}\n")
    stage = kinds.STAGE.model_copy(update={"split": Split(queries={"all": "queries.txt"})})
    check_refused(stage, root, tmp_path / "scene", message)
    with pytest.raises(ScrflowError, match=r"--camera: .*" + message):
        camera_of(camera, "--camera")


@pytest.mark.parametrize(
    "model, size, params, lost",
    [
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
