"""Hints: which photos and landmarks they leave, and what they do to poses."""

import json
from dataclasses import replace

import numpy as np
import plane_map
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from scrflow.cli.app import app
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_centre, pose_error
from scrflow.landmarks.codes import Landmarks
from scrflow.localize.hint import Hint, hint_of
from scrflow.localize.localizer import Localizer
from scrflow.map.file import load_map
from scrflow.map.views import Views
from scrflow.scene.lists import read_poses
from scrflow.storage.artifact import read_safetensors_metadata
from scrflow.storage.checksum import write_checksum

LINE = plane_map.CAMERA_LINE
ASIDE = np.array([1.0, 0, 0])


def test_forms_of_a_hint():
    for form in ("1 2 3 4", [1, 2, 3, 4], np.array([1, 2, 3, 4])):
        hint = hint_of(form)
        assert hint.position.tolist() == [1, 2, 3] and hint.radius == 4 and hint.direction is None
    hint = hint_of("1 2 3 4 0 0 -2 30")
    assert hint.direction.tolist() == [0, 0, -1] and hint.angle_deg == 30
    assert hint_of(None) is None and hint_of(hint) is hint


@pytest.mark.parametrize(
    "text", ["", "1 2 3", "1 2 3 x", "1 2 3 0", "1 2 3 nan", "1 2 3 4 0 0 0 30", "1 2 3 4 0 0 1 0", "1 2 3 4 0 0 1 181"]
)
def test_other_texts_are_refused(text):
    with pytest.raises(ScrflowError, match=r"^near: .*; give 'X Y Z RADIUS'"):
        hint_of(text, "near")


def test_photos_and_landmarks_that_a_hint_leaves():
    # cameras every metre along x, which look along z; the last one looks back
    centre = np.array([[float(i), 0, 0] for i in range(6)])
    direction = np.array([[0.0, 0, 1]] * 5 + [[0, 0, -1]])
    views = Views(centre, direction, np.array([[0.0, -1, 0]] * 6), np.full(6, 4.0))
    assert Hint(np.array([2.0, 0, 0]), 1.1).photos(views, 1).tolist() == [2, 1, 3]
    assert Hint(np.array([2.0, 0, 0]), 0.1).photos(views, 2).tolist() == [2, 1]
    along = np.array([0.0, 0, 1])
    assert Hint(np.array([5.0, 0, 0]), 1.1, along, 30).photos(views, 1).tolist() == [4]
    # ahead, beyond what photos here see, behind, and one seen by the camera that looks back
    xyz = np.array([[2.0, 0, 3], [2, 0, 9], [2, 0, -3], [5, 0, -3]])
    landmarks = Landmarks(xyz, np.array([2, 2, 2, 5]), torch.zeros(4, 8), None)
    hint = Hint(np.array([2.0, 0, 0]), 0.1, along, 20)
    assert hint.landmarks(landmarks, views, plane_map.K).tolist() == [0]
    assert hint.landmarks(landmarks, None, plane_map.K).tolist() == [0, 1]  # an older map has no views
    assert replace(hint, direction=None).landmarks(landmarks, views, plane_map.K).tolist() == [0, 2, 3]


@pytest.mark.parametrize("kind", ["wall_landmarks", "wall_map"])
def test_a_true_hint_keeps_the_pose_and_a_wrong_one_leaves_none(request, kind):
    wall = request.getfixturevalue(kind)
    localizer = Localizer.open(wall.map)
    for name, truth in wall.queries.items():
        photo, centre = wall.photos / name, camera_centre(truth)
        plain = localizer.localize(photo, LINE)
        found = localizer.localize(photo, LINE, hint=Hint(centre + ASIDE / 10, 0.3, truth[2, :3], 20))
        before, after = (pose_error(f.cam_from_world, truth) for f in (plain, found))
        assert after[0] < max(1.5 * before[0], 0.003) and after[1] < max(1.5 * before[1], 0.1)
        assert found.inliers.sum() > 0.9 * plain.inliers.sum()
        for wrong in (Hint(centre + ASIDE * 5, 0.3), Hint(centre, 0.3, -truth[2, :3], 20)):
            lost = localizer.localize(photo, LINE, hint=wrong)
            assert lost.cam_from_world is None and lost.confidence == 0 and "inliers" in lost.reason


def test_of_two_equal_places_one_is_found_and_a_hint_tells_which(wall_landmarks):
    """Every landmark stands twice, 10 m apart: by descriptors nothing can tell which is seen."""
    map_ = load_map(wall_landmarks.map)
    one, shift = map_.landmarks, np.array([10.0, 0, 0])
    twice = Landmarks(
        np.concatenate([one.xyz, one.xyz + shift]),
        np.concatenate([one.image, one.image + len(map_.names)]),
        torch.cat([one.descriptors, one.descriptors]),
        one.projection,
    )
    v = map_.views
    both = (np.concatenate([a, b]) for a, b in ((v.centre, v.centre + shift), *[(w, w) for w in (v.direction, v.up)]))
    views = Views(*both, np.tile(v.reach, 2))
    localizer = Localizer(replace(map_, landmarks=twice, views=views))
    name, truth = next(iter(wall_landmarks.queries.items()))
    moved = truth.copy()
    moved[:, 3] -= truth[:, :3] @ shift
    found = localizer.localize(wall_landmarks.photos / name, LINE)
    assert min(pose_error(found.cam_from_world, true)[0] for true in (truth, moved)) < 0.003
    assert found.alike == 2 and found.confidence <= 0.5
    for true in (truth, moved):
        found = localizer.localize(wall_landmarks.photos / name, LINE, hint=Hint(camera_centre(true), 1.0))
        assert pose_error(found.cam_from_world, true)[0] < 0.003
        assert found.alike == 1


def test_a_map_of_older_scrflow_takes_hints_too(wall_map, tmp_path):
    path = tmp_path / "map.safetensors"
    tensors = load_file(wall_map.map)
    assert {k for k in tensors if k.startswith("view.")} == {
        f"view.{k}" for k in ("centre", "direction", "up", "reach")
    }
    metadata = read_safetensors_metadata(wall_map.map)
    save_file({k: v for k, v in tensors.items() if not k.startswith("view.")}, path, metadata)
    write_checksum(path)
    name, truth = next(iter(wall_map.queries.items()))
    localizer = Localizer.open(path)
    assert localizer.localize(wall_map.photos / name, LINE, hint=Hint(camera_centre(truth), 0.3)).inliers.sum() > 20
    save_file({**tensors, "view.centre": torch.zeros(3, 3)}, path, metadata)
    write_checksum(path)
    with pytest.raises(ScrflowError, match=r"view.centre is \[3, 3\], not of 12 photos"):
        load_map(path)


def test_hints_on_the_command_line(wall_landmarks, tmp_path):
    out = tmp_path / "poses.txt"
    arguments = ["localize", str(wall_landmarks.map), str(wall_landmarks.photos / "query"), "--camera", LINE]
    arguments += ["--threads", "1", "--out", str(out), "--near"]
    names = [name.removeprefix("query/") for name in wall_landmarks.queries]
    centres = [camera_centre(pose) for pose in wall_landmarks.queries.values()]
    listed = tmp_path / "near.txt"
    # the first with its own position, the second with a wrong one, the third without
    listed.write_text(
        "\n".join(f"{n} {' '.join(map(str, c + d))} 0.5" for n, c, d in zip(names, centres, (0, 9), strict=False))
    )
    done = CliRunner().invoke(app, [*arguments, str(listed)])
    assert done.exit_code == 0 and set(read_poses(out)) == {names[0], names[2]}, done.output
    records = [json.loads(line) for line in (tmp_path / "poses.jsonl").read_text().splitlines()[1:]]
    assert [("near" in r, r["pose"] is None) for r in records] == [(True, False), (True, True), (False, False)]
    # another hint localizes again what the run of before has
    done = CliRunner().invoke(app, [*arguments, "9 9 9 0.5"])
    assert done.exit_code == 0 and "0 of 3 photos have a pose" in done.output, done.output
    listed.write_text(f"{names[0]} 1 2 3\n")
    for near, why in ((str(listed), "near.txt: line 1: '1 2 3' is no hint"), ("nowhere.txt", "no such file")):
        done = CliRunner().invoke(app, [*arguments, near])
        assert isinstance(done.exception, ScrflowError) and why in str(done.exception)
