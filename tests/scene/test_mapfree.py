"""The reader mapfree and the Wayspots configs on replicas of their true layouts, made of the demo scene (SYNTHETIC)."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from replicas_mapfree import DEMO, SEQUENCES, write_mapfree, write_wayspots

from scrflow.config import MapFreeSource, SceneStage, Split
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pose_error
from scrflow.pipeline.project import Project
from scrflow.scene import load_scene
from scrflow.scene.build import build_scene

REPO = Path(__file__).resolve().parents[2]
SOURCE = MapFreeSource(reader="mapfree")


@pytest.fixture
def dataset(tmp_path) -> Path:
    write_mapfree(tmp_path / "data", SEQUENCES)
    return tmp_path / "data"


def stage(source: MapFreeSource = SOURCE) -> SceneStage:
    return SceneStage(source=source, split=Split(), min_mapping_images=3, unit="m")


def change(root: Path, name: str, edit) -> None:
    """Change the lines (without header) of a list."""
    lines = (root / name).read_text().splitlines()
    (root / name).write_text("\n".join(lines[:1] + edit(lines[1:])) + "\n")


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
    change(dataset, "poses.txt", lambda ls: ls[:-1])
    source = MapFreeSource(reader="mapfree", mapping="seq1", queries="seq0", query_every=5)
    with caplog.at_level(logging.WARNING, "scrflow"):
        build_scene(stage(source), dataset, tmp_path / "scene")
    scene = load_scene(tmp_path / "scene")
    assert len(scene.mapping) == 5
    assert [q.name for q in scene.queries] == ["seq0/frame_00000.jpg", "seq0/frame_00010.jpg"]
    assert "1 mapping images left out, without a pose in poses.txt: seq1/frame_00010.jpg" in caplog.text


def test_withheld_poses_are_no_reference(dataset, tmp_path):
    change(dataset, "poses.txt", lambda ls: [s.split()[0] + " 0" * 7 if s.startswith("seq1") else s for s in ls])
    build_scene(stage(), dataset, tmp_path / "scene")
    scene = load_scene(tmp_path / "scene")
    assert len(scene.queries) == 6 and scene.query_poses == {}


FAULTS = {
    "no intrinsics": (lambda r: (r / "intrinsics.txt").unlink(), r"data/intrinsics\.txt: no such file"),
    "no poses": (lambda r: (r / "poses.txt").unlink(), r"data/poses\.txt: no such file"),
    "pose cut": (
        lambda r: change(r, "poses.txt", lambda ls: [ls[0].rsplit(" ", 1)[0], *ls[1:]]),
        r"poses\.txt: line 2: seq0/.*: expected 'name qw qx qy qz tx ty tz' with finite numbers",
    ),
    "not finite": (
        lambda r: change(r, "poses.txt", lambda ls: [ls[0].rsplit(" ", 1)[0] + " inf", *ls[1:]]),
        r"poses\.txt: line 2: .*expected .* finite",
    ),
    "half withheld": (
        lambda r: change(r, "poses.txt", lambda ls: ["seq0/frame_00000.jpg 0 0 0 0 1 2 3", *ls[1:]]),
        r"poses\.txt: line 2: seq0/frame_00000\.jpg: quaternion has length 0",
    ),
    "double": (
        lambda r: change(r, "intrinsics.txt", lambda ls: [ls[0], *ls]),
        r"intrinsics\.txt: line 3: seq0/frame_00000\.jpg: listed twice",
    ),
    "intrinsics cut": (
        lambda r: change(r, "intrinsics.txt", lambda ls: [ls[0].rsplit(" ", 1)[0], *ls[1:]]),
        r"intrinsics\.txt: line 2: .*expected 'name fx fy cx cy width height'",
    ),
    "half a pixel": (
        lambda r: change(r, "intrinsics.txt", lambda ls: [ls[0] + ".5", *ls[1:]]),
        r"intrinsics\.txt: line 2: seq0/frame_00000\.jpg: size 512x384\.5 is not of whole pixels",
    ),
    "size": (
        lambda r: change(r, "intrinsics.txt", lambda ls: [s.replace("512 384", "384 512") for s in ls]),
        r"seq0/frame_00000\.jpg: image is 512x384 px, its camera is 384x512",
    ),
    "validation scene": (
        lambda r: change(r, "intrinsics.txt", lambda ls: [s for s in ls if "seq1" in s or "seq0/frame_00000" in s]),
        r"1 mapping images, expected at least 3",
    ),
    "test scene": (
        lambda r: change(r, "poses.txt", lambda ls: [s.split()[0] + " 0" * 7 for s in ls]),
        r"poses\.txt: no pose of a frame of seq0",
    ),
    "sequence": (
        lambda r: change(r, "intrinsics.txt", lambda ls: [s for s in ls if "seq0" in s]),
        r"intrinsics\.txt: no frames of sequence 'seq1'; there are seq0",
    ),
    "missing": (lambda r: (r / "seq1/frame_00004.jpg").unlink(), r"seq1/frame_00004\.jpg: image is missing"),
    "truncated": (
        lambda r: (r / "seq0/frame_00002.jpg").write_bytes((r / "seq0/frame_00002.jpg").read_bytes()[:9000]),
        r"seq0/frame_00002\.jpg: image is damaged",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_its_file_and_keeps_what_was_there(dataset, tmp_path, fault):
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene/scene.json").write_text("an earlier one")
    break_it, message = FAULTS[fault]
    break_it(dataset)
    with pytest.raises(ScrflowError, match=message) as error:
        build_scene(stage(), dataset, tmp_path / "scene")
    assert "\n" not in str(error.value)
    assert [(p.name, p.read_text()) for p in (tmp_path / "scene").iterdir()] == [("scene.json", "an earlier one")]


# ------------------------------------------------------------------------------------------------- the project's scenes

WAYSPOTS = [
    "bears",
    "cubes",
    "inscription",
    "lawn",
    "map",
    "squarebench",
    "statue",
    "tendrils",
    "therock",
    "wintersign",
]


def test_mapfree_config_reads_its_layout(tmp_path):
    write_mapfree(tmp_path / "data/train/s00000", SEQUENCES)
    build_scene(Project(REPO / "config").scene_stage("mapfree-s00000"), tmp_path / "data", tmp_path / "scene")
    scene = load_scene(tmp_path / "scene")
    assert len(scene.mapping) == 6 and [q.name for q in scene.queries] == [
        f"seq1/frame_000{i}.jpg" for i in ("00", "10")
    ]


def test_wayspots_configs_read_their_layout(tmp_path):
    """The layout of DSAC*, ten scenes of one archive: files named alike in rgb, poses and calibration."""
    config = Project(REPO / "config")
    for place in ("bears", "therock"):
        write_wayspots(tmp_path / "data", place, SEQUENCES)
        build_scene(config.scene_stage(f"wayspots-{place}"), tmp_path / "data", tmp_path / place)
        scene = load_scene(tmp_path / place)
        assert [v.name for v in scene.mapping] == [f"wayspots_{place}/train/rgb/frame_{i:05d}.jpg" for i in range(6)]
        for query, view in zip(scene.queries, SEQUENCES["seq1"], strict=True):
            assert max(pose_error(scene.query_poses[query.name], view.cam_from_world)) < 1e-9
            np.testing.assert_allclose(query.camera.params, view.camera.params, atol=1e-9)
    for place in WAYSPOTS:
        source = config.scene(f"wayspots-{place}").source
        assert (source.mapping, source.queries) == (f"wayspots_{place}/train", f"wayspots_{place}/test")
