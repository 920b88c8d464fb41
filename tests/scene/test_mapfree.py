"""The reader mapfree and the Wayspots configs on replicas of their true layouts, made of the demo scene (SYNTHETIC)."""

import logging
from pathlib import Path

import numpy as np
import pytest
from dataset_faults import change, check_refused
from replicas_mapfree import DEMO, SEQUENCES, write_mapfree

from scrflow.config import SceneStage, Split
from scrflow.core.geometry import pose_error
from scrflow.scene import load_scene
from scrflow.scene.build import build_scene
from scrflow.scene.readers.mapfree import MapFreeSource

REPO = Path(__file__).resolve().parents[2]
SOURCE = MapFreeSource(reader="mapfree")


@pytest.fixture
def dataset(tmp_path) -> Path:
    write_mapfree(tmp_path / "data", SEQUENCES)
    return tmp_path / "data"


def stage(source: MapFreeSource = SOURCE) -> SceneStage:
    return SceneStage(source=source, split=Split(), min_mapping_images=3, unit="m")


def test_one_sequence_is_mapped_the_other_localized(dataset, tmp_path):
    build_scene(stage(), dataset, tmp_path / "scene")
    scene = load_scene(tmp_path / "scene")
    assert [v.name for v in scene.mapping] == [f"seq0/frame_{i:05d}.jpg" for i in range(0, 12, 2)]
    assert [q.name for q in scene.queries] == [f"seq1/frame_{i:05d}.jpg" for i in range(0, 12, 2)]
    found = [v.cam_from_world for v in scene.mapping] + [scene.query_poses[q.name] for q in scene.queries]
    for pose, view in zip(found, SEQUENCES["seq0"] + SEQUENCES["seq1"], strict=True):
        # measured 7e-11 m and degrees: the demo model's rotations are exact to 4e-13, the lists have 16 decimals
        assert max(pose_error(pose, view.cam_from_world)) < 1e-9
    assert scene.mapping[0].camera.model.name == "PINHOLE"
    np.testing.assert_allclose(scene.mapping[0].camera.params, DEMO[0].camera.params, atol=1e-4)


def test_every_nth_query_the_other_way_round_and_a_frame_without_pose(dataset, tmp_path, caplog):
    change(dataset / "poses.txt", r"^seq1/frame_00010.*\n", "")
    source = MapFreeSource(reader="mapfree", mapping="seq1", queries="seq0", query_every=5)
    with caplog.at_level(logging.WARNING, "scrflow"):
        build_scene(stage(source), dataset, tmp_path / "scene")
    scene = load_scene(tmp_path / "scene")
    assert len(scene.mapping) == 5
    assert [q.name for q in scene.queries] == ["seq0/frame_00000.jpg", "seq0/frame_00010.jpg"]
    assert "1 mapping images left out, without a pose in poses.txt: seq1/frame_00010.jpg" in caplog.text


def test_withheld_poses_are_no_reference(dataset, tmp_path):
    for _ in range(6):
        change(dataset / "poses.txt", r"^(seq1\S+) .*[1-9].*$", r"\1" + " 0" * 7)
    build_scene(stage(), dataset, tmp_path / "scene")
    scene = load_scene(tmp_path / "scene")
    assert len(scene.queries) == 6 and scene.query_poses == {}


LISTS = ("intrinsics.txt", "poses.txt")
FIRST = r"^(seq0.*) (\S+)$"  # the first line, and its last field
FAULTS = {
    "half withheld": (LISTS[1], r"^(seq0\S+)( \S+){4}", r"\1 0 0 0 0", r"line 2: seq0/.*: quaternion has length 0"),
    "half a pixel": (LISTS[0], r" 384$", " 384.5", r"line 2: seq0/.*: size 512x384\.5 is not of whole pixels"),
    "test scene": (LISTS[1], r"(.*\n)+", "", r"poses\.txt: no pose of a frame of seq0"),
    "no sequence": (LISTS[0], r"^seq1(.*\n)+", "", r"intrinsics\.txt: no frames of sequence 'seq1'; there are seq0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_its_file_and_keeps_what_was_there(dataset, tmp_path, fault):
    name, pattern, new, message = FAULTS[fault]
    change(dataset / name, pattern, new)
    check_refused(stage(), dataset, tmp_path / "scene", message)
