"""7-Scenes and 12-Scenes: replicas in the published layouts, of demo photos and of real frames of redkitchen."""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from dataset_faults import GONE, change, check_refused
from replicas_rooms import COLOUR_FROM_DEPTH, LOST, seven_replica, twelve_replica
from scipy.spatial.transform import Rotation

from scrflow.config import SceneStage, Split
from scrflow.core.geometry import pose_error
from scrflow.scene import load_scene
from scrflow.scene.build import build_scene
from scrflow.scene.readers.sevenscenes import SevenScenesSource
from scrflow.scene.readers.twelvescenes import TwelveScenesSource

REPO = Path(__file__).resolve().parents[2]
REDKITCHEN = Path(os.environ.get("SCRFLOW_DATA", REPO / "../shared/data")) / "redkitchen"


def stage(source) -> SceneStage:
    return SceneStage(source=source, split=Split(), min_mapping_images=3, unit="m")


def seven(poses: str, **keys) -> SceneStage:
    return stage(SevenScenesSource(reader="sevenscenes", folder="chess", poses=poses, **keys))


# lists have six digits: a quaternion's 5e-7 is 6e-5 degrees, and moves a centre 30 m from the origin by 30 um
@pytest.mark.parametrize(("poses", "focal"), [("sfm", 500.0), ("dslam", 525.0)])
def test_seven_scenes_poses_are_those_of_the_colour_camera(tmp_path, poses, focal):
    truth = seven_replica(tmp_path)
    build_scene(seven(poses), tmp_path / "7scenes/chess", tmp_path / "scene")
    scene = load_scene(tmp_path / "scene")
    assert [v.name for v in scene.mapping] == [n for n in sorted(truth) if n.startswith("seq-01")]
    assert [q.name for q in scene.queries] == [n for n in sorted(truth) if n.startswith("seq-03")]
    found = {v.name: v.cam_from_world for v in scene.mapping} | scene.query_poses
    for name, pose in truth.items():
        t, r = pose_error(found[name], pose)
        assert t < 2e-4 and r < 2e-4, (name, t, r)
    for item in (*scene.mapping, *scene.queries):
        assert (item.camera.model.name, item.camera.width, item.camera.height) == ("SIMPLE_PINHOLE", 640, 480)
        assert list(item.camera.params) == [focal, 320, 240]


def test_seven_scenes_raw_poses_on_request_and_unpacked_by_the_download(tmp_path):
    truth = seven_replica(tmp_path)
    (tmp_path / "resources/7scenes/chess").mkdir(parents=True)
    (tmp_path / "7scenes/chess").rename(tmp_path / "resources/7scenes/chess/chess")  # as chess.zip does
    config = seven("dslam", depth_to_colour=False)
    build_scene(config, tmp_path / "resources/7scenes/chess", tmp_path / "scene")
    view = load_scene(tmp_path / "scene").mapping[0]
    expected = np.linalg.inv(COLOUR_FROM_DEPTH) @ np.vstack([truth[view.name], [0, 0, 0, 1]])
    np.testing.assert_allclose(view.cam_from_world, expected[:3], atol=1e-6)
    assert config.source.files(tmp_path / "resources/7scenes/chess")[-1].name == "frame-000002.pose.txt"


@pytest.mark.skipif(not REDKITCHEN.is_dir(), reason=f"{REDKITCHEN} (real frames of 7-Scenes) is not here")
def test_seven_scenes_real_frames_agree_with_the_published_lists(tmp_path):
    """The D-SLAM poses against the D-SLAM list of Brachmann et al., the SfM poses against the SfM list."""
    published = {}
    for kind in ("sfm", "dslam"):
        lines = (REDKITCHEN / f"poses_{kind}.txt").read_text().splitlines()
        published[kind] = {line.split()[0].replace(".jpg", ".png"): line.split()[1:] for line in lines}
    names = sorted(published["sfm"])[::12]
    lists = tmp_path / "7scenes/visloc_pseudo_gt_limitations-637e4d4/pgt/sfm/7scenes"
    lists.mkdir(parents=True)
    root = tmp_path / "7scenes/redkitchen"
    moved = {}  # the queries play another sequence
    for i, name in enumerate(names):
        moved[name] = name if i % 4 else name.replace("seq-01", "seq-03")
        target = root / moved[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to((REDKITCHEN / name.replace(".png", ".jpg")).resolve())
        pose = name.replace(".color.png", ".pose.txt")
        (root / moved[name].replace(".color.png", ".pose.txt")).symlink_to((REDKITCHEN / pose).resolve())
    for part, sequence in (("train", "seq-01"), ("test", "seq-03")):
        text = [f"{moved[n]} {' '.join(published['sfm'][n])}\n" for n in names if moved[n].startswith(sequence)]
        (lists / f"redkitchen_{part}.txt").write_text("".join(text))
    (root / "TrainSplit.txt").write_text("sequence1\n")
    (root / "TestSplit.txt").write_text("sequence3\n")
    # measured on all 210 frames: the D-SLAM list is within 0.73 mm and 0.0023 degrees
    for kind, focal, tolerance in (("sfm", 525.505, (1e-6, 1e-4)), ("dslam", 525.0, (1e-3, 5e-3))):
        source = SevenScenesSource(reader="sevenscenes", folder="redkitchen", poses=kind)
        build_scene(stage(source), root, tmp_path / kind)
        scene = load_scene(tmp_path / kind)
        found = {v.name: v.cam_from_world for v in scene.mapping} | scene.query_poses
        assert set(found) == set(moved.values()) and len(scene.queries) == len(names[::4])
        for name in names:
            w, x, y, z, *t, f = map(float, published[kind][name])
            pose = np.column_stack([Rotation.from_quat([x, y, z, w]).as_matrix(), t])
            assert np.all(np.array(pose_error(found[moved[name]], pose)) < tolerance), name
            assert scene.mapping[0].camera.params[0] == focal == f


def twelve(poses: str) -> SceneStage:
    return stage(TwelveScenesSource(reader="twelvescenes", folder="apt1/kitchen", poses=poses))


@pytest.mark.parametrize(
    ("poses", "model", "params", "reason"),
    [
        ("sfm", "SIMPLE_PINHOLE", [400, 256, 192], "which the pose lists do not name"),
        ("dslam", "PINHOLE", [400, 401, 256.5, 191.5], "whose pose is not finite"),
    ],
)
def test_twelve_scenes(tmp_path, caplog, poses, model, params, reason):
    truth = twelve_replica(tmp_path)
    with caplog.at_level(logging.WARNING, "scrflow"):
        build_scene(twelve(poses), tmp_path / "12scenes/apt1", tmp_path / "scene")
    scene = load_scene(tmp_path / "scene")
    kept = [n for n in truth if n not in LOST]
    assert [q.name for q in scene.queries] == kept[:2] and [v.name for v in scene.mapping] == kept[2:]
    found = {v.name: v.cam_from_world for v in scene.mapping} | scene.query_poses
    for name in kept:
        t, r = pose_error(found[name], truth[name])
        assert t < 2e-4 and r < 2e-4, (name, t, r)
    for item in (*scene.mapping, *scene.queries):
        assert item.camera.model.name == model and list(item.camera.params) == params
    for kind, name in zip(("query", "mapping"), LOST, strict=True):
        assert f"1 {kind} of 10 frames left out, {reason}: {name}" in caplog.text


SEVEN, TWELVE = "7scenes/chess", "12scenes/apt1/kitchen"
LIST = "7scenes/visloc_pseudo_gt_limitations/pgt/sfm/7scenes/chess_train.txt"
POSE, INFO, ORDER = f"{SEVEN}/seq-01/frame-000003.pose.txt", f"{TWELVE}/info.txt", f"{TWELVE}/split.txt"
TEST = f"{SEVEN}/TestSplit.txt"
FAULTS = {
    "7 cut pose": ("dslam", POSE, r"(.*\n){2}\Z", "", r"frame-000003\.pose\.txt: 8 numbers, expected 16"),
    "7 pose is text": ("dslam", POSE, r"\A", "x", r"frame-000003\.pose\.txt: expected numbers"),
    "7 no list": ("sfm", LIST, GONE, "", r"chess_train\.txt: pose list is missing; github"),
    "7 other list": ("sfm", LIST, "seq-01", "seq-09", r"seq-09/frame-\d+\.color\.png: image is missing; .*chess_train"),
    "7 not unpacked": ("sfm", TEST, "3", "5", r"chess/seq-05: no frame-\*\.color\.png in it; unpack seq-05\.zip"),
    "7 sequence in both": ("sfm", TEST, "3", "1", r"chess: .*both mapping image and query"),
    "12 cut intrinsics": ("dslam", INFO, "= 400 0 256.5", "= 400", r"m_calibrationColorIntrinsic is .*expected 16 num"),
    "12 skew": ("dslam", INFO, "= 400 0 256.5", "= 400 3 256.5", r"m_calibrationColorIntrinsic is not \[fx 0 cx"),
    "12 split count": ("sfm", ORDER, "frames=3", "frames=4", r"split\.txt: line 1: frames 0 to 2 are not 4"),
}


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    """Replicas of both datasets, to be copied before they are broken."""
    data = tmp_path_factory.mktemp("rooms")
    seven_replica(data)
    twelve_replica(data)
    return data


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_its_file_and_keeps_what_was_there(both, tmp_path, fault):
    poses, file, pattern, new, message = FAULTS[fault]
    data = tmp_path / "data"
    shutil.copytree(both, data)
    change(data / file, pattern, new)
    of_seven = fault.startswith("7")
    config, root = (seven(poses), data / SEVEN) if of_seven else (twelve(poses), data / "12scenes/apt1")
    check_refused(config, root, tmp_path / "scene", message)
