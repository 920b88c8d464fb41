"""Maps of landmarks alone: what is in the file, what is refused, and photos localized with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import plane_map
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from scrflow.cli.app import app
from scrflow.config import LocalizeStage
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pose_error
from scrflow.localize.batch import MIN_CONFIDENCE
from scrflow.localize.localizer import Localizer, localize_queries
from scrflow.localize.query import query_photo
from scrflow.map.file import load_map, write_map
from scrflow.map.format import sizes
from scrflow.scene.lists import read_poses
from scrflow.storage.artifact import read_safetensors_metadata
from scrflow.storage.checksum import write_checksum

REPO = Path(__file__).resolve().parents[2]
LINE = plane_map.CAMERA_LINE


def test_the_same_tracks_give_the_same_small_file(wall_landmarks, tmp_path):
    root = wall_landmarks.photos.parent
    again = tmp_path / "map.safetensors"
    write_map(
        plane_map.landmark_stage(), wall_landmarks.scene, None, None, None, None, again, tracks=root / "tracks.h5"
    )
    assert again.read_bytes() == wall_landmarks.map.read_bytes()
    made = load_map(again)
    assert made.head is None and made.pca is None and made.retriever is None and len(made.names) == 12
    assert made.landmarks.xyz.shape == (300, 3)
    assert set(sizes(again)) == {"landmarks", "views of mapping photos", "names and config"}
    assert sizes(again)["landmarks"] == 17_084


def test_queries_are_localized_to_a_millimetre(wall_landmarks, tmp_path):
    localizer = Localizer.open(wall_landmarks.map)
    for name, truth in wall_landmarks.queries.items():
        found = localizer.localize(wall_landmarks.photos / name, LINE)
        t, r = pose_error(found.cam_from_world, truth)
        assert t < 0.002 and r < 0.06  # measured: 0.0007 m and 0.024 degrees, of a wall at 1.5 m
        assert found.inliers.sum() > 150 and np.isfinite(found.xyz_world[found.inliers]).all()
        assert list(found.ms) == ["encode", "landmarks", "total"] and found.confidence > 0.2
    for threads in (1, 2):
        folder = tmp_path / str(threads)
        folder.mkdir()
        stage = LocalizeStage(localize=localizer.map.config.localize, seed=1)
        files = folder / "poses.txt", folder / "localization.json"
        localize_queries(stage, wall_landmarks.scene, wall_landmarks.map, *files, threads)
    assert (tmp_path / "1/poses.txt").read_bytes() == (tmp_path / "2/poses.txt").read_bytes()


def test_the_command_localizes_a_folder(wall_landmarks, tmp_path):
    out = tmp_path / "poses.txt"
    arguments = [wall_landmarks.map, wall_landmarks.photos / "query", "--camera", LINE, "--out", out, "--threads", 1]
    done = CliRunner().invoke(app, ["localize", *map(str, arguments)])
    assert done.exit_code == 0 and "3 of 3 photos have a pose" in done.output, done.output
    for name, pose in read_poses(out).items():
        assert pose_error(pose, wall_landmarks.queries[f"query/{name}"])[0] < 0.002
    records = [json.loads(line) for line in (tmp_path / "poses.jsonl").read_text().splitlines()[1:]]
    assert all(r["inliers"] > 150 and 0.2 < r["confidence"] < 1 for r in records)


def test_photos_of_another_place_are_not_believed(wall_landmarks):
    """The demo's streets: too few keypoints are like a landmark; the wall's own photos have 0.35 and more."""
    localizer = Localizer.open(wall_landmarks.map)
    for path in sorted((REPO / "demo/images/day").iterdir())[::6][:6]:
        photo = Image.open(path).convert("RGB").resize((320, 240))
        assert localizer.localize(photo, LINE).confidence < MIN_CONFIDENCE
    assert localizer.localize(Image.new("L", (320, 240)), LINE).cam_from_world is None


def test_a_map_that_is_exported_is_its_landmarks(wall_landmarks, tmp_path):
    arguments = [wall_landmarks.map, "--ply", tmp_path / "a.ply", "--colmap", tmp_path / "model", "--threads", 1]
    done = CliRunner().invoke(app, ["export", *map(str, arguments)])
    assert done.exit_code == 0 and int(done.output.split()[0]) > 200, done.output
    rows = np.frombuffer((tmp_path / "a.ply").read_bytes().split(b"end_header\n")[1], "3<f4, 3u1")
    assert np.quantile(np.abs(rows["f0"][:, 2]), 0.9) < 0.003  # m from the wall; measured: 0.0011


def crafted(source: Path, out: Path, tensors: dict[str, torch.Tensor], drop: str | None = None) -> Path:
    held = {k: v for k, v in load_file(source).items() if k != drop} | tensors
    save_file(held, out, read_safetensors_metadata(source))
    write_checksum(out)
    return out


WRONG = {
    "an unknown tensor": ({"landmark.colour": torch.zeros(300, 3)}, "landmark.colour is not known"),
    "a tensor of a head": ({"head.extra": torch.zeros(2)}, "tensor head.extra is not known"),
    "another type": ({"landmark.position": torch.zeros(300, 3)}, "landmark.position is torch.float32, not torch.int16"),
    "NaN": ({"landmark.step": torch.full((12, 3), torch.nan)}, "landmark.step has numbers that are not finite"),
    "places of fewer": ({"landmark.position": torch.zeros(299, 3, dtype=torch.int16)}, r"\[299, 3\], not \[300, 3\]"),
    "boxes of fewer images": ({"landmark.origin": torch.zeros(11, 3)}, r"landmark.origin is \[11, 3\], not \[12, 3\]"),
    "a code past the codebook": (
        {"landmark.codebooks": torch.zeros(8, 200, 2).half()},
        "landmark.codes do not fit the codebooks",
    ),
    "no landmark": (
        {
            "landmark.codes": torch.zeros(0, 8, dtype=torch.uint8),
            "landmark.position": torch.zeros(0, 3, dtype=torch.int16),
        },
        "landmark.codes do not fit",
    ),
    "a matrix that is none": ({"landmark.components": torch.zeros(128).half()}, "of the wrong shape"),
    "images in no order": (
        {"landmark.start": torch.tensor([0, *[300] * 5, 10, *[300] * 6], dtype=torch.int32)},
        "landmark.start does not divide the 300 landmarks",
    ),
    "projection of other features": (
        {"landmark.components": torch.zeros(64, 16).half(), "landmark.mean": torch.zeros(64).half()},
        "landmarks are of descriptors of 64 numbers, but opencv-sift's have 128",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_crafted_tensors_are_refused_in_a_line(wall_landmarks, tmp_path, case):
    tensors, why = WRONG[case]
    with pytest.raises(ScrflowError, match=why) as caught:
        Localizer.open(crafted(wall_landmarks.map, tmp_path / "map.safetensors", tensors))
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)


def test_a_missing_tensor_and_other_images_are_named(wall_landmarks, tmp_path):
    path = crafted(wall_landmarks.map, tmp_path / "map.safetensors", {}, drop="landmark.codes")
    with pytest.raises(ScrflowError, match=r"landmark\.codes is missing"):
        load_map(path)
    scene = plane_map._scene(tmp_path / "scene", wall_landmarks.photos, dict([*plane_map.poses()[0].items()][:5]), {})
    tracks = wall_landmarks.photos.parent / "tracks.h5"
    with pytest.raises(ScrflowError, match=r"tracks\.h5: of other mapping images"):
        write_map(plane_map.landmark_stage(), scene, None, None, None, None, tmp_path / "m.safetensors", tracks=tracks)


def test_a_pose_that_begins_from_a_head_needs_more_inliers(wall_landmarks):
    """Photos of other places had up to 26. Every landmark stands twice here: only a head's pose can tell which is
    seen."""
    map_ = load_map(wall_landmarks.map)
    one = map_.landmarks
    twice = replace(
        one,
        xyz=np.concatenate([one.xyz, one.xyz + np.array([10.0, 0, 0])]),
        image=np.tile(one.image, 2),
        descriptors=torch.cat([one.descriptors, one.descriptors]),
    )
    matcher = Localizer(replace(map_, landmarks=twice, views=None)).landmarks
    name, truth = next(iter(wall_landmarks.queries.items()))
    view = matcher.view(*query_photo(wall_landmarks.photos / name, LINE))
    assert matcher.localize(view, 1).cam_from_world is None
    found = matcher.localize(view, 1, [truth])
    agree = np.flatnonzero(found.inliers)
    assert len(agree) > 150 and pose_error(found.cam_from_world, truth)[0] < 0.002
    for count in (25, 60):  # of keypoints that agree
        assert (matcher.localize(view.some(agree[:count]), 1, [truth]).cam_from_world is None) == (count == 25)
