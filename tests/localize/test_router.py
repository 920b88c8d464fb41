"""Several maps in one frame: each photo finds its own map, and maps that do not belong together are refused.

Two small real maps of overlapping halves of a painted wall. The tests do not ask whether poses are good
(docs/scaling.md), only whether they come from the chosen map.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import plane_map
import pytest
import torch
from typer.testing import CliRunner

from scrflow import Localizer
from scrflow.cli.app import app
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_centre
from scrflow.localize.add import add_photos
from scrflow.localize.batch import localize_photos
from scrflow.localize.query import query_photo
from scrflow.localize.router import Router
from scrflow.map.file import load_map
from scrflow.scene.lists import read_poses
from scrflow.storage.artifact import read_safetensors, read_safetensors_metadata, read_stamp, write_safetensors


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    return plane_map.build_halves(tmp_path_factory.mktemp("halves"))


@pytest.fixture(scope="module")
def maps(halves) -> list[Path]:
    return halves[0]


@pytest.fixture(scope="module")
def photos(halves) -> dict[str, str]:
    """Mapping photos that only one map holds, path -> camera: three of the first, then three of the second."""
    return {str(photo): plane_map.CAMERA_LINE for photo in halves[1]}


def test_a_photo_goes_to_the_map_that_knows_its_place(maps, photos):
    """Photos of one half only: each is in its own map's index, where it is the most similar image."""
    router = Router.open(maps, tried=1)
    wanted = [str(maps[0])] * 3 + [str(maps[1])] * 3
    routed = [router.localize(path, camera) for path, camera in photos.items()]
    assert [r.map for r in routed] == wanted
    assert all(len(r.tried) == 1 and set(r.scores) == set(map(str, maps)) for r in routed)
    assert all(-4 <= score <= 0 for r in routed for score in r.scores.values())
    assert all(r.found.ms["route"] > 0 and r.found.ms["total"] >= r.found.ms["localize"] > 0 for r in routed)


def test_the_pose_is_that_of_the_map_alone(maps, photos):
    """Sharing networks and the photo's keypoints changes nothing, to the last bit."""
    router, alone = Router.open(maps), {str(path): Localizer.open(path) for path in maps}
    first, second = router.maps.values()
    assert first.shares_keypoints(second) and not first.shares_keypoints(alone[str(maps[1])])
    for path, camera in list(photos.items())[::2]:
        routed = router.localize(path, camera)
        found = {name: localizer.localize(path, camera) for name, localizer in alone.items()}
        mine = found[routed.map]
        assert set(routed.tried) == set(found)
        assert (mine.cam_from_world is None) == (routed.found.cam_from_world is None)
        if mine.cam_from_world is not None:
            assert np.array_equal(mine.cam_from_world, routed.found.cam_from_world)
        assert routed.found.confidence == mine.confidence
        assert routed.found.inliers.sum() == max(f.inliers.sum() for f in found.values())


def test_the_command_line(maps, photos, tmp_path):
    cameras = tmp_path / "cameras.txt"
    cameras.write_text("".join(f"{path} {camera}\n" for path, camera in photos.items()))
    arguments = ["localize", str(maps[0]), *photos, "--map", str(maps[1]), "--camera", str(cameras), "--threads", "1"]
    arguments += ["--tried", "1", "--min-confidence", "0", "--out", str(tmp_path / "poses.txt")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in (tmp_path / "poses.jsonl").read_text().splitlines()[1:]]
    assert [r["map"] for r in records] == [str(maps[0])] * 3 + [str(maps[1])] * 3
    posed = [r for r in records if r["pose"] is not None]
    assert set(read_poses(tmp_path / "poses.txt")) == {r["name"] for r in posed}
    assert all(np.isfinite(camera_centre(p)).all() for p in read_poses(tmp_path / "poses.txt").values())
    # the same again takes everything from the details
    before = (tmp_path / "poses.txt").read_bytes()
    localize_photos(tuple(maps), tuple(map(Path, photos)), str(cameras), tmp_path / "poses.txt", 0.0, tried=1)
    assert (tmp_path / "poses.txt").read_bytes() == before


def test_maps_that_do_not_belong_together(maps, tmp_path):
    with pytest.raises(ScrflowError, match="more than once"):
        Router.open([maps[0], maps[0]])
    with pytest.raises(ScrflowError, match="no map is given"):
        Router.open([])
    with pytest.raises(ScrflowError, match="at least 1"):
        Router.open(maps, tried=0)
    stamp, metadata = read_stamp(maps[1], "map"), read_safetensors_metadata(maps[1])
    other, config = tmp_path / "feet.safetensors", {**stamp.config, "unit": "feet"}
    kept = {k: metadata[k] for k in ("format", "names", "output_unit", "weights")}
    write_safetensors(other, read_safetensors(maps[1], "map"), replace(stamp, config=config), kept)
    assert load_map(other).config.unit == "feet"
    with pytest.raises(ScrflowError, match=r"its unit is not that of .* \(feet, m\)"):
        Router.open([maps[0], other])


def test_a_photo_that_is_added_joins_the_index(maps, photos, tmp_path):
    """It is retrieved first then, and stands for the encoding of the image that localized it."""
    photo, out = Path(list(photos)[3]), tmp_path / "map.safetensors"
    done = add_photos(maps[0], (photo,), out, plane_map.CAMERA_LINE, min_confidence=0.0)
    old, new = load_map(maps[0]), load_map(out)
    assert done.added == new.names[9:] == (photo.as_posix(),) and done.landmarks == 0
    assert torch.equal(new.encoding[:9], old.encoding) and (new.encoding[9] == old.encoding).all(1).any()
    assert torch.equal(new.retriever.codes[:9], old.retriever.codes) and len(new.views.centre) == 10
    localizer = Localizer.open(out)
    features = localizer.features(*query_photo(photo, plane_map.CAMERA_LINE))
    assert int(new.retriever.search(features.descriptor, 1)[0][0]) == 9
