"""Photos of known relative poses, localized together: the painted wall's, through a fog that hides most of it."""

import json

import numpy as np
import plane_map
import pytest
from PIL import Image
from typer.testing import CliRunner

from scrflow.cli.app import app
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import invert_pose, pose_error
from scrflow.localize.group import composed
from scrflow.localize.localizer import Localizer
from scrflow.scene.lists import pose_line, read_poses

LINE = plane_map.CAMERA_LINE


def rig_of(poses: list[np.ndarray]) -> list[np.ndarray]:
    """Poses in the frame of the first camera, turned and moved."""
    base = composed(invert_pose(poses[0]), plane_map.pose(0.3, -0.2, 1.0, 20.0, 5.0))
    return [composed(pose, base) for pose in poses]


@pytest.mark.parametrize("kind", ["head", "landmarks"])
def test_a_group_is_localized_where_a_photo_alone_is_not(request, kind):
    """One of three photos shows a corner of the wall only: the others place it."""
    made = request.getfixturevalue("wall_map" if kind == "head" else "wall_landmarks")
    localizer, truth = Localizer.open(made.map), list(made.queries.values())
    images = [Image.open(made.photos / name).convert("RGB") for name in made.queries]
    hidden = np.full((240, 320, 3), 127, np.uint8)
    hidden[:, :24] = np.asarray(images[1])[:, :24]
    images[1] = Image.fromarray(hidden)
    assert localizer.localize(images[1], LINE).cam_from_world is None
    alone = [localizer.localize(images[i], LINE) for i in (0, 2)]
    group = localizer.localize_group(images, LINE, rig_of(truth))
    assert group.rig_from_world.shape == (3, 4) and group.reason is None
    errors = [pose_error(found.cam_from_world, pose)[0] for found, pose in zip(group.photos, truth, strict=True)]
    own = [pose_error(found.cam_from_world, truth[i])[0] for found, i in zip(alone, (0, 2), strict=True)]
    assert max(errors) < 1.5 * max(own), (errors, own)
    # the hidden photo's keypoints lower the share that agrees: 0.83 of the best alone by the head
    assert group.confidence >= 0.7 * max(found.confidence for found in alone)
    assert {found.confidence for found in group.photos} == {group.confidence}
    assert all("group" in found.ms for found in group.photos)
    again = localizer.localize_group(images, LINE, rig_of(truth))
    assert np.array_equal(again.rig_from_world, group.rig_from_world)


def test_a_photo_that_is_not_where_the_rig_has_it_is_named(wall_landmarks):
    localizer, poses = Localizer.open(wall_landmarks.map), list(wall_landmarks.queries.values())
    images = [wall_landmarks.photos / name for name in wall_landmarks.queries]
    wrong = [*poses[:2], plane_map.pose(0.5, 0.3, 1.5, 0.0, 0.0)]
    group = localizer.localize_group(images, LINE, rig_of(wrong))
    assert group.disagreeing == (2,)
    assert localizer.localize_group(images, LINE, rig_of(poses)).disagreeing == ()


def test_blank_photos_and_wrong_arguments_have_a_reason(wall_landmarks):
    localizer, blank = Localizer.open(wall_landmarks.map), Image.new("RGB", (320, 240))
    group = localizer.localize_group([blank, blank], LINE, [np.eye(3, 4)] * 2)
    assert group.rig_from_world is None and "0 inliers, 12 are needed" in group.reason
    with pytest.raises(ScrflowError, match="1 images, 1 cameras, 2 poses; give as many of each"):
        localizer.localize_group([blank], LINE, [np.eye(3, 4)] * 2)
    with pytest.raises(ScrflowError, match="pose 0 in the rig: 3x3 part of the pose is not a rotation"):
        localizer.localize_group([blank], LINE, [2 * np.eye(3, 4)])
    with pytest.raises(ScrflowError, match="image 0 of the group: its focal length is unknown"):
        localizer.localize_group([blank], None, [np.eye(3, 4)])


@pytest.mark.parametrize("form", ["photos", "cameras of a rig"])
def test_the_command_localizes_groups(wall_landmarks, tmp_path, form):
    names, truth = list(wall_landmarks.queries), list(wall_landmarks.queries.values())
    folder, out, rig = tmp_path / "photos", tmp_path / "poses.txt", tmp_path / "rig.txt"
    given = [name.removeprefix("query/") for name in names] if form == "photos" else [f"cam{i}/7.png" for i in range(3)]
    for name, source in zip(given, names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((wall_landmarks.photos / source).read_bytes())
    keys = given if form == "photos" else ["cam0", "cam1", "cam2"]
    rig.write_text("".join(f"{pose_line(k, p)}\n" for k, p in zip(keys, rig_of(truth), strict=True)))
    arguments = [wall_landmarks.map, folder, "--camera", LINE, "--out", out, "--rig", rig, "--threads", 1]
    done = CliRunner().invoke(app, ["localize", *map(str, arguments)])
    assert done.exit_code == 0 and "3 of 3 photos have a pose" in done.output, done.output
    found = read_poses(out)
    assert all(pose_error(found[n], p)[0] < 0.002 for n, p in zip(given, truth, strict=True))
    records = [json.loads(line) for line in (tmp_path / "poses.jsonl").read_text().splitlines()[1:]]
    assert len({r["group"] for r in records}) == 1
    (folder / "left.png").write_bytes((wall_landmarks.photos / names[0]).read_bytes())
    done = CliRunner().invoke(app, ["localize", *map(str, arguments)])
    assert done.exit_code != 0 and isinstance(done.exception, ScrflowError) and "left.png" in str(done.exception)
