"""7-Scenes and 12-Scenes: replicas in the published layouts, of demo photos and of real frames of redkitchen."""

import logging

import numpy as np
import pytest
from exif_photos import real
from replicas import COLOUR_FROM_DEPTH, LOST, seven_replica, twelve_replica
from scipy.spatial.transform import Rotation
from small_datasets import built, poses_of, source_for, stage_of

from scrflow.core.geometry import pose_error


# lists have six digits: a quaternion's 5e-7 is 6e-5 degrees, and moves a centre 30 m from the origin by 30 um
@pytest.mark.parametrize(("poses", "focal"), [("sfm", 500.0), ("dslam", 525.0)])
def test_seven_scenes_poses_are_those_of_the_colour_camera(tmp_path, poses, focal):
    truth = seven_replica(tmp_path)
    source = source_for("sevenscenes", folder="chess", poses=poses)
    scene = built(stage_of(source), tmp_path / "7scenes/chess", tmp_path / "scene")
    assert [v.name for v in scene.mapping] == [n for n in sorted(truth) if n.startswith("seq-01")]
    assert [q.name for q in scene.queries] == [n for n in sorted(truth) if n.startswith("seq-03")]
    found = poses_of(scene)
    for name, pose in truth.items():
        t, r = pose_error(found[name], pose)
        assert t < 2e-4 and r < 2e-4, (name, t, r)
    for item in (*scene.mapping, *scene.queries):
        assert (item.camera.model.name, item.camera.width, item.camera.height) == ("SIMPLE_PINHOLE", 640, 480)
        assert list(item.camera.params) == [focal, 320, 240]


def test_seven_scenes_raw_poses_on_request_and_unpacked_by_the_download(tmp_path):
    truth = seven_replica(tmp_path)
    root = tmp_path / "resources/7scenes/chess"
    root.mkdir(parents=True)
    (tmp_path / "7scenes/chess").rename(root / "chess")  # as chess.zip does
    source = source_for("sevenscenes", folder="chess", poses="dslam", depth_to_colour=False)
    view = built(stage_of(source), root, tmp_path / "scene").mapping[0]
    expected = np.linalg.inv(COLOUR_FROM_DEPTH) @ np.vstack([truth[view.name], [0, 0, 0, 1]])
    np.testing.assert_allclose(view.cam_from_world, expected[:3], atol=1e-6)
    assert source.files(root)[-1].name == "frame-000002.pose.txt"


def test_seven_scenes_real_frames_agree_with_the_published_lists(tmp_path):
    """The D-SLAM poses against the D-SLAM list of Brachmann et al., the SfM poses against the SfM list."""
    published, kitchen = {}, real("redkitchen")
    for kind in ("sfm", "dslam"):
        lines = (kitchen / f"poses_{kind}.txt").read_text().splitlines()
        published[kind] = {line.split()[0].replace(".jpg", ".png"): line.split()[1:] for line in lines}
    names = sorted(published["sfm"])[::12]
    lists = tmp_path / "7scenes/visloc_pseudo_gt_limitations-637e4d4/pgt/sfm/7scenes"
    lists.mkdir(parents=True)
    root = tmp_path / "7scenes/redkitchen"
    moved = {}  # the queries play another sequence
    for i, name in enumerate(names):
        moved[name] = name if i % 4 else name.replace("seq-01", "seq-03")
        (root / moved[name]).parent.mkdir(parents=True, exist_ok=True)
        for ending, file in ((".color.png", ".color.jpg"), (".pose.txt", ".pose.txt")):
            target = root / moved[name].replace(".color.png", ending)
            target.symlink_to((kitchen / name.replace(".color.png", file)).resolve())
    for part, sequence in (("train", "seq-01"), ("test", "seq-03")):
        text = [f"{moved[n]} {' '.join(published['sfm'][n])}\n" for n in names if moved[n].startswith(sequence)]
        (lists / f"redkitchen_{part}.txt").write_text("".join(text))
    (root / "TrainSplit.txt").write_text("sequence1\n")
    (root / "TestSplit.txt").write_text("sequence3\n")
    # measured on all 210 frames: the D-SLAM list is within 0.73 mm and 0.0023 degrees
    for kind, focal, tolerance in (("sfm", 525.505, (1e-6, 1e-4)), ("dslam", 525.0, (1e-3, 5e-3))):
        source = source_for("sevenscenes", folder="redkitchen", poses=kind)
        scene = built(stage_of(source), root, tmp_path / kind)
        found = poses_of(scene)
        assert set(found) == set(moved.values()) and len(scene.queries) == len(names[::4])
        for name in names:
            w, x, y, z, *t, f = map(float, published[kind][name])
            pose = np.column_stack([Rotation.from_quat([x, y, z, w]).as_matrix(), t])
            assert np.all(np.array(pose_error(found[moved[name]], pose)) < tolerance), name
            assert scene.mapping[0].camera.params[0] == focal == f


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
        source = source_for("twelvescenes", folder="apt1/kitchen", poses=poses)
        scene = built(stage_of(source), tmp_path / "12scenes/apt1", tmp_path / "scene")
    kept = [n for n in truth if n not in LOST]
    assert [q.name for q in scene.queries] == kept[:2] and [v.name for v in scene.mapping] == kept[2:]
    found = poses_of(scene)
    for name in kept:
        t, r = pose_error(found[name], truth[name])
        assert t < 2e-4 and r < 2e-4, (name, t, r)
    for item in (*scene.mapping, *scene.queries):
        assert item.camera.model.name == model and list(item.camera.params) == params
    for kind, name in zip(("query", "mapping"), LOST, strict=True):
        assert f"1 {kind} of 10 frames left out, {reason}: {name}" in caplog.text
