"""Poses compared with the photos: each usual mistake, made on purpose on real poses, is named; correct poses pass.

Shares of pairs that fit: correct poses 1.00 on redkitchen, 0.41 on the demo; with a mistake at most 0.23.
"""

import functools
import logging
import re
from pathlib import Path

import numpy as np
import photo_kinds as kinds
import pycolmap
import pytest
from exif_photos import real
from PIL import Image
from small_datasets import source_for

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_centre, invert_pose, quaternion_from_rotation, rotation_from_quaternion
from scrflow.scene.build import build_scene
from scrflow.scene.colmap_model import View, model_of_views, read_model, views_of_model
from scrflow.scene.pose_consistency import check_poses_by_photos
from scrflow.scene.readers import read_source

OPENGL = np.diag([1.0, -1.0, -1.0])


@functools.cache
def _demo() -> tuple[list[View], Path]:
    views = [v for v in views_of_model(read_model(kinds.REPO / "demo/model")) if v.name.startswith("mapping/")]
    return views, kinds.REPO / "demo/images"


def _redkitchen(poses: str) -> tuple[list[View], Path]:
    found = read_source(source_for("poselist", poses=poses), real("redkitchen"))
    return [View(i.name, i.camera, i.cam_from_world) for i in found.images], found.image_root


def _quaternions(poses: np.ndarray, order: list[int]) -> np.ndarray:
    q = np.stack([quaternion_from_rotation(R) for R in poses[:, :, :3]])
    return np.concatenate([rotation_from_quaternion(q[:, order]), poses[:, :, 3:]], 2)


def _left_handed(poses: np.ndarray, axis: int) -> np.ndarray:
    S = np.eye(3)
    S[axis, axis] = -1
    return np.concatenate([S @ poses[:, :, :3] @ S, S @ poses[:, :, 3:]], 2)


# right poses -> what a user gives by mistake, and the words that name it
MISTAKES = {
    "camera-to-world": (invert_pose, r"if they are camera-to-world \(the inverse\)"),
    "OpenGL axes": (lambda p: OPENGL @ p, "if they are poses with OpenGL axes"),
    "camera-to-world, OpenGL axes": (lambda p: invert_pose(OPENGL @ p), "camera-to-world with OpenGL axes"),
    "x y z w": (lambda p: _quaternions(p, [1, 2, 3, 0]), "if they are quaternions in the order x y z w"),
    "centres": (
        lambda p: np.concatenate([p[:, :, :3], camera_centre(p)[:, :, None]], 2),
        "if they are camera centres in place of translations",
    ),
    "mirrored x": (lambda p: _left_handed(p, 0), r"a left-handed frame \(the x axis mirrored\)"),
    "names shifted by one": (lambda p: np.roll(p, 1, 0), "those of the image before each"),
}


def check(views: list[View], root: Path, poses: np.ndarray, focal: float = 1.0) -> None:
    given = []
    for view, pose in zip(views, poses, strict=True):
        camera = view.camera
        if focal != 1:
            params = np.array(camera.params)
            params[list(camera.focal_length_idxs())] *= focal
            camera = pycolmap.Camera(model=camera.model, width=camera.width, height=camera.height, params=params)
        given.append(View(view.name, camera, pose))
    check_poses_by_photos(given, {v.name for v in views}, root, "poses.txt")


@pytest.mark.parametrize("poses", [None, "poses_sfm.txt", "poses_dslam.txt"])
def test_correct_poses_pass(poses, caplog):
    """Those of D-SLAM are of the depth camera: 2.5 px off (median) at 640 px, the coarsest ground truth in use."""
    views, root = _redkitchen(poses) if poses else _demo()
    with caplog.at_level(logging.DEBUG, "scrflow"):
        check(views, root, np.stack([v.cam_from_world for v in views]))
    assert [r.levelno for r in caplog.records] == [logging.DEBUG] and "poses fit" in caplog.text


FOCAL_LENGTHS = {0.5: "with a focal length of half the right one: the intrinsics are of", 2.0: "twice the right one"}


@pytest.mark.parametrize("mistake", [*MISTAKES, *FOCAL_LENGTHS])
def test_a_mistake_is_named(mistake):
    views, root = _demo()
    right = np.stack([v.cam_from_world for v in views])
    spoil, words = MISTAKES.get(mistake) or (lambda poses: poses, FOCAL_LENGTHS[mistake])
    fit = r"poses\.txt: poses fit \d+% of \d+ pairs of photos that match, but"
    with pytest.raises(ScrflowError, match=fit) as caught:
        check(views, root, spoil(right), mistake if mistake in FOCAL_LENGTHS else 1.0)
    text = str(caught.value)
    assert re.search(words, text), text
    assert "\n" not in text and text.endswith("(or set check_poses: false)")


@pytest.mark.parametrize("texture", ["none", "the same everywhere"])
def test_photos_that_do_not_match_are_no_error(tmp_path, caplog, texture):
    views = []
    for i in range(8):
        image = Image.new("RGB", (320, 240), (i, 100, 100)) if texture == "none" else kinds.picture().resize((320, 240))
        image.save(tmp_path / f"{i}.png")
        camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=320, height=240, params=[260, 160, 120])
        views.append(View(f"{i}.png", camera, kinds.pose_of(i)))
    with caplog.at_level(logging.DEBUG, "scrflow"):
        check(views, tmp_path, np.stack([v.cam_from_world for v in views]))
    assert [r.levelno for r in caplog.records] == [logging.DEBUG] and "too few to check the poses" in caplog.text


def test_the_scene_stage_refuses_wrong_poses_unless_told_not_to_check(tmp_path):
    views, images = _demo()
    views = views[:40]
    root, right = tmp_path / "data", np.stack([v.cam_from_world for v in views])
    (root / "model").mkdir(parents=True)
    (root / "images").symlink_to(images)

    def write(poses: np.ndarray) -> None:
        given = [View(v.name, v.camera, p) for v, p in zip(views, poses, strict=True)]
        model_of_views(given).write_binary(str(root / "model"))

    split = kinds.STAGE.split.model_copy(update={"every": 8})
    stage = kinds.STAGE.model_copy(update={"source": source_for("colmap"), "split": split})
    write(right)
    build_scene(stage, root, tmp_path / "scene")
    before = (tmp_path / "scene/scene.json").read_bytes()
    write(invert_pose(right))
    with pytest.raises(ScrflowError, match=r"data/model: poses fit \d+% .* camera-to-world \(the inverse\)"):
        build_scene(stage, root, tmp_path / "scene")
    assert (tmp_path / "scene/scene.json").read_bytes() == before
    build_scene(stage.model_copy(update={"check_poses": False}), root, tmp_path / "unchecked")
