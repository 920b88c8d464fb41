"""``scrflow add``: photos beside those of a map of the painted wall; the index of a head is in test_router."""

from pathlib import Path

import numpy as np
import plane_map
import pytest
import torch
from tiny_project import REPO
from typer.testing import CliRunner

from scrflow.cli.app import app
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_centre, pose_error
from scrflow.localize.add import add_photos
from scrflow.localize.localizer import Localizer
from scrflow.map.file import load_map
from scrflow.scene.lists import pose_line

LINE = plane_map.CAMERA_LINE


@pytest.fixture(scope="module")
def beside(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder of nine photos that see the wall to the right of the map's, and their poses."""
    folder, texture = tmp_path_factory.mktemp("beside"), plane_map.wall()
    poses = {f"{i}.png": plane_map.pose(0.6 + 0.2 * (i % 3), -0.2 + 0.2 * (i // 3), 1.5, 2.0, 1.0) for i in range(9)}
    for name, pose in poses.items():
        plane_map.photograph(texture, pose).save(folder / name)
    return folder, poses


def test_new_photos_widen_a_map_of_landmarks(wall_landmarks, beside, tmp_path):
    """A photo of which the map sees a third: more of its keypoints agree. Old landmarks keep their bytes and places."""
    before, out = wall_landmarks.map.read_bytes(), tmp_path / "wide.safetensors"
    arguments = [wall_landmarks.map, beside[0], "--camera", LINE, "-o", out, "--threads", 1]
    done = CliRunner().invoke(app, ["add", *map(str, arguments)])
    assert done.exit_code == 0 and done.output.startswith("9 of 9 photos added"), done.output
    assert wall_landmarks.map.read_bytes() == before
    old, new = load_map(wall_landmarks.map), load_map(out)
    assert new.names == (*old.names, *sorted(beside[1])) and len(new.landmarks.xyz) == 300 + 9 * 25
    assert np.array_equal(new.landmarks.xyz[:300], old.landmarks.xyz)
    assert torch.equal(new.landmarks.descriptors[:300], old.landmarks.descriptors)
    assert np.median(np.abs(new.landmarks.xyz[300:, 2])) < 0.003  # m from the wall, which is 1.5 m away
    assert np.array_equal(new.views.centre[:12], old.views.centre) and (new.views.reach > 1.4).all()
    assert np.abs(new.views.centre[12:] - camera_centre(np.stack([*beside[1].values()]))).max() < 0.01
    truth = plane_map.pose(1.1, 0.05, 1.5, 2.0, -1.0)
    photo = plane_map.photograph(plane_map.wall(), truth)
    narrow, wide = (Localizer.open(path).localize(photo, LINE) for path in (wall_landmarks.map, out))
    assert wide.inliers.sum() > 2 * narrow.inliers.sum()
    assert pose_error(wide.cam_from_world, truth)[0] < 0.005
    add_photos(wall_landmarks.map, (beside[0],), tmp_path / "again.safetensors", LINE, threads=2)
    assert (tmp_path / "again.safetensors").read_bytes() == out.read_bytes()


def test_given_poses_and_a_budget(wall_landmarks, beside, tmp_path):
    poses, out = tmp_path / "poses.txt", tmp_path / "map.safetensors"
    wrong = {**beside[1], "4.png": plane_map.pose(0.0, 0.0, 1.5, 0.0, 0.0)}
    poses.write_text("".join(f"{pose_line(n, p)}\n" for n, p in wrong.items()))
    done = add_photos(wall_landmarks.map, (beside[0],), out, LINE, poses, ("count", 300))
    assert len(done.added) == 8 and "not that by which the map sees it" in done.left_out["4.png"]
    made = load_map(out).landmarks
    assert done.landmarks == len(made.xyz) == 300 and done.new == (made.image >= 12).sum() == 120  # 8 of 20 photos
    assert np.median(np.abs(made.xyz[made.image >= 12][:, 2])) < 0.002
    old = load_map(wall_landmarks.map).landmarks.image
    assert {*old} < {*made.image}, "no image of the map loses all of its landmarks"
    for name, truth in wall_landmarks.queries.items():
        found = Localizer.open(out).localize(wall_landmarks.photos / name, LINE)
        assert pose_error(found.cam_from_world, truth)[0] < 0.005


CASES = {
    "a map without landmarks and index": "has neither landmarks nor an index of mapping images",
    "a file that exists": "exists already and is not overwritten",
    "another suffix": "ends with .safetensors",
    "a size that is no number": "--size much: cannot be read",
    "photos of the map": r"no photo can be added: mapping/00\.png: the map has a photo of this name already",
    "photos of another place": "no photo can be added: .* nothing is written",
    "poses of another frame": r"poses\.txt: in another frame than the map: it localizes 9 of the photos, and 0",
    "poses of other photos": r"poses\.txt: no pose of any photo",
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_added_is_refused_in_a_line(request, wall_landmarks, beside, tmp_path, case):
    source, photos, out = wall_landmarks.map, beside[0], tmp_path / "map.safetensors"
    poses = budget = None
    if case == "a map without landmarks and index":
        source = request.getfixturevalue("wall_map").map
    elif case == "a file that exists":
        out.write_bytes(b"mine")
    elif case == "another suffix":
        out = tmp_path / "map.bin"
    elif case == "a size that is no number":
        budget = ("size", "much")
    elif case == "photos of the map":
        photos = tmp_path / "photos"
        photos.mkdir()
        (photos / "mapping").symlink_to(wall_landmarks.photos / "mapping")
    elif case == "photos of another place":
        photos = tmp_path / "streets"
        photos.mkdir()
        plane_map.Image.open(REPO / "demo/images/day/000.jpg").resize((320, 240)).save(photos / "a.png")
    else:
        poses = tmp_path / "poses.txt"
        names = {f"other/{n}" if case == "poses of other photos" else n: p for n, p in beside[1].items()}
        poses.write_text("".join(pose_line(n, p * [1, 1, 1, 2.0]) + "\n" for n, p in names.items()))
    with pytest.raises(ScrflowError, match=CASES[case]) as caught:
        add_photos(source, (photos,), out, LINE, poses, budget)
    assert "\n" not in str(caught.value)
    assert not out.exists() or out.read_bytes() == b"mine"
