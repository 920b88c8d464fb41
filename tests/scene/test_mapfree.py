"""The reader mapfree on a replica of the dataset's layout, made of the demo scene (SYNTHETIC)."""

import logging
from pathlib import Path

import numpy as np
import pytest
from replicas import PINHOLES, SEQUENCES, write_mapfree
from small_datasets import built, change, poses_of, source_for, stage_of

from scrflow.core.geometry import pose_error


@pytest.fixture
def dataset(tmp_path) -> Path:
    write_mapfree(tmp_path / "data", SEQUENCES)
    return tmp_path / "data"


def test_one_sequence_is_mapped_the_other_localized(dataset, tmp_path):
    scene = built(stage_of(source_for("mapfree")), dataset, tmp_path / "scene")
    assert [v.name for v in scene.mapping] == [f"seq0/frame_{i:05d}.jpg" for i in range(0, 12, 2)]
    assert [q.name for q in scene.queries] == [f"seq1/frame_{i:05d}.jpg" for i in range(0, 12, 2)]
    for pose, view in zip(poses_of(scene).values(), SEQUENCES["seq0"] + SEQUENCES["seq1"], strict=True):
        # measured 7e-11 m and degrees: the demo model's rotations are exact to 4e-13, the lists have 16 decimals
        assert max(pose_error(pose, view.cam_from_world)) < 1e-9
    assert scene.mapping[0].camera.model.name == "PINHOLE"
    np.testing.assert_allclose(scene.mapping[0].camera.params, PINHOLES[0].camera.params, atol=1e-4)


def test_every_nth_query_the_other_way_round_and_a_frame_without_pose(dataset, tmp_path, caplog):
    change(dataset / "poses.txt", r"^seq1/frame_00010.*\n", "")
    source = source_for("mapfree", mapping="seq1", queries="seq0", query_every=5)
    with caplog.at_level(logging.WARNING, "scrflow"):
        scene = built(stage_of(source), dataset, tmp_path / "scene")
    assert len(scene.mapping) == 5
    assert [q.name for q in scene.queries] == ["seq0/frame_00000.jpg", "seq0/frame_00010.jpg"]
    assert "1 mapping images left out, without a pose in poses.txt: seq1/frame_00010.jpg" in caplog.text


def test_withheld_poses_are_no_reference(dataset, tmp_path):
    for _ in range(6):
        change(dataset / "poses.txt", r"^(seq1\S+) .*[1-9].*$", r"\1" + " 0" * 7)
    scene = built(stage_of(source_for("mapfree")), dataset, tmp_path / "scene")
    assert len(scene.queries) == 6 and scene.query_poses == {}
