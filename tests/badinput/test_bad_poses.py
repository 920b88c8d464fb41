"""Poses and intrinsics that cannot be right: refused in one line that says where, and the earlier scene stays.

Faults of single lines in each dataset format are in tests/scene.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import photo_kinds as kinds
import pycolmap
import pytest

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import invert_pose
from scrflow.localize.query import camera_of
from scrflow.scene.build import build_scene
from scrflow.scene.checks import check_intrinsics, lost_share
from scrflow.scene.readers.nerfstudio import NerfstudioSource

COUNT = 6
NERFSTUDIO = kinds.STAGE.model_copy(update={"source": NerfstudioSource(reader="nerfstudio")})


def listed(**split: object):
    return kinds.STAGE.model_copy(update={"split": kinds.STAGE.split.model_copy(update={"every": None, **split})})


def assert_refused(stage, root: Path, scene: Path, message: str, spoil: Callable[[Path], None]) -> None:
    """After a good run, the spoilt input is refused and the earlier scene stays."""
    build_scene(stage, root, scene)
    before = (scene / "scene.json").read_bytes()
    spoil(root)
    with pytest.raises(ScrflowError, match=message) as caught:
        build_scene(stage, root, scene)
    assert "\n" not in str(caught.value) and str(root) in str(caught.value)
    assert (scene / "scene.json").read_bytes() == before


# --------------------------------------------------------------------------------------------------------------- poses


def lines(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        path = root / "poses.txt"
        path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))

    return edit


def second(line: str) -> Callable[[Path], None]:
    return lines(lambda before: [before[0], line, *before[2:]])


def centres(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """All camera centres [6, 3] elsewhere."""

    def write(root: Path) -> None:
        inverse = invert_pose(np.stack([kinds.pose_of(i) for i in range(COUNT)]))
        inverse[:, :, 3] = change(inverse[:, :, 3])
        poses = enumerate(invert_pose(inverse))
        (root / "poses.txt").write_text("".join(kinds.pose_text(f"{i}.jpg", pose) for i, pose in poses))

    return write


def far_away(centres_N3: np.ndarray) -> np.ndarray:
    centres_N3[1, 0] = 1e9
    return centres_N3


FAULTS = {
    "NaN": (second("1.jpg 1 0 nan 0 1 2 3 130"), r"poses\.txt: line 2: 1\.jpg: .*finite"),
    "zero quaternion": (second("1.jpg 0 0 0 0 1 2 3 130"), r"line 2: 1\.jpg: quaternion has length 0, expected 1"),
    "too few columns": (second("1.jpg 1 0 0 0 1 2 3"), r"line 2: 1\.jpg: expected 'name qw"),
    "a line twice": (lines(lambda ls: [ls[0], *ls]), r"poses\.txt: line 2: 0\.jpg: listed twice"),
    "one camera far away": (centres(far_away), r"poses\.txt: camera of 1\.jpg is 1e\+09 from the others"),
    "geographic coordinates": (
        centres(lambda c: c + np.array([4.5e5, 5.4e6, 100])),
        r"poses\.txt: the cameras stand 5\.42e\+06 from the origin and 0\.\d+ from each other",
    ),
    "all cameras in one place": (
        centres(lambda c: np.tile(c[:1], (len(c), 1))),
        r"poses\.txt: all 4 mapping cameras stand in one place",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_poses(tmp_path, fault):
    spoil, message = FAULTS[fault]
    assert_refused(kinds.STAGE, kinds.dataset(tmp_path / "data", COUNT), tmp_path / "scene", message, spoil)


def test_a_listed_image_without_a_pose(tmp_path):
    root = kinds.dataset(tmp_path / "data", COUNT)
    (root / "mapping.txt").write_text("".join(f"{i}.jpg\n" for i in range(4)))
    (root / "queries.txt").write_text("5.jpg\n")
    stage = listed(mapping="mapping.txt", queries={"all": "queries.txt"})
    message = r"mapping\.txt: 1\.jpg is listed, but .*poses\.txt has no pose"
    assert_refused(stage, root, tmp_path / "scene", message, lines(lambda ls: [ls[0], *ls[2:]]))


def transforms(change: Callable[[np.ndarray], object] = lambda m: m, **values: float) -> Callable[[Path], None]:
    """transforms.json, with another matrix of the second frame."""

    def write(root: Path) -> None:
        matrices = [np.vstack([invert_pose(kinds.pose_of(i)), [0, 0, 0, 1]]) for i in range(COUNT)]
        matrices[1] = np.asarray(change(matrices[1]), object)
        frames = [{"file_path": f"images/{i}.jpg", "transform_matrix": m.tolist()} for i, m in enumerate(matrices)]
        (root / "transforms.json").write_text(json.dumps({"fl_x": 130, **values, "frames": frames}))

    return write


MATRICES = {
    "mirrored": (lambda m: m @ np.diag([1.0, 1, -1, 1]), r"mirrored rotation \(determinant -1\.0000"),
    "scaled": (lambda m: m @ np.diag([1.1, 1.1, 1.1, 1]), "is not a rotation"),
    "3x3": (lambda m: m[:3, :3], r"pose has shape \(3, 3\), expected 4x4 or 3x4"),
}


@pytest.mark.parametrize("fault", MATRICES)
def test_bad_matrices(tmp_path, fault):
    root, (change, message) = kinds.dataset(tmp_path / "data", COUNT), MATRICES[fault]
    transforms()(root)
    where = r"transforms\.json: frame images/1\.jpg: .*"
    assert_refused(NERFSTUDIO, root, tmp_path / "scene", where + message, transforms(change))


# ---------------------------------------------------------------------------------------------------------- intrinsics

CAMERAS = {
    "zero focal length": ("PINHOLE", [0, 130, 80, 60], r"focal length \[0\.0, 130\.0\] px, expected a positive number"),
    "focal length in mm": ("PINHOLE", [4.2, 4.2, 80, 60], "160x120 looks like millimetres"),
    "focal length too long": ("SIMPLE_PINHOLE", [130e6, 80, 60], "shows under half a degree"),
    "focal lengths that differ": ("PINHOLE", [130, 390, 80, 60], "differ by more than 2 times"),
    "parameters of another model": ("PINHOLE", [130, 80, 60, 0.01], r"principal point 60, 0\.01 is at the edge"),
    "distortion": ("SIMPLE_RADIAL", [130, 80, 60, -0.9], r"distortion cannot be inverted over \d\d% of the image"),
    "unknown model": ("PINHOL", [130, 130, 80, 60], "no COLMAP camera model 'PINHOL'"),
}


@pytest.mark.parametrize("fault", CAMERAS)
def test_bad_cameras(tmp_path, fault):
    """As the camera of a query in a list, and as that of ``scrflow localize``."""
    model, params, message = CAMERAS[fault]
    camera = " ".join([model if " " in model else f"{model} 160 120", *map(repr, params)])
    root = kinds.dataset(tmp_path / "data", COUNT)
    (root / "queries.txt").write_text(f"5.jpg {kinds.LINE}\n")
    stage = listed(queries={"all": "queries.txt"})
    spoil = lambda root: (root / "queries.txt").write_text(f"5.jpg {camera}\n")  # noqa: E731
    assert_refused(stage, root, tmp_path / "scene", message, spoil)
    with pytest.raises(ScrflowError, match=r"--camera: .*" + message):
        camera_of(camera, "--camera")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"fl_x": 28.0, "w": 160, "h": 120, "fl_y": 14.0}, "looks like millimetres"),
        ({"cx": 0.5, "cy": 0.5}, "is at the edge of 160x120 px"),
        ({"w": 320, "h": 240}, r"1\.jpg: image is 160x120 px, its camera is 320x240"),
    ],
)
def test_bad_mapping_cameras(tmp_path, values, message):
    root = kinds.dataset(tmp_path / "data", COUNT)
    transforms()(root)
    assert_refused(NERFSTUDIO, root, tmp_path / "scene", message, transforms(**values))


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
