"""The feature-matching baseline on photos of a painted wall: features, matches, the map and its file, poses."""

import json
from pathlib import Path

import numpy as np
import plane_map
import pycolmap
import pytest
from exif_photos import weights_at_hand
from scenes import write_graph
from synthetic import full_graph

from scrflow.baseline.localizer import MatchLocalizer, localize_baseline
from scrflow.baseline.mapping import build_map, load_map
from scrflow.config import (
    BaselineLocalizeStage,
    BaselineMapStage,
    ExtractorConfig,
    MatcherConfig,
    MatchFeaturesConfig,
    MatchLocalizeConfig,
    RetrievalConfig,
    RetrievalPart,
    RetrievalStage,
)
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pose_error
from scrflow.core.images import read_rgb
from scrflow.features.encoders import build_encoder
from scrflow.features.matching import Nearest, PhotoFeatures, photo_features
from scrflow.features.retrieval_index import build_retrieval
from scrflow.scene.lists import read_poses
from scrflow.scene.model import load_scene

SIFT = MatchFeaturesConfig(name="sift", max_keypoints=600, descriptors="uint8")
ALIKED = MatchFeaturesConfig(name="aliked", max_keypoints=256, options={"model": "aliked-n16"})
EXTRACTOR = ExtractorConfig(name="sift", short_side=240, max_keypoints=150)
VLAD = RetrievalConfig(kind="vlad", encoder="small", clusters=4, keypoints=150, dim=8, pq_bytes=4)
PART = RetrievalPart(retrieval=VLAD, extractor=EXTRACTOR)
LOCALIZE = MatchLocalizeConfig(retrieved=4, short_side=240)


def map_stage(**changes) -> BaselineMapStage:
    values = {"features": SIFT, "matcher": MatcherConfig(), "neighbours": 4, "retrieval": PART, "seed": 1}
    return BaselineMapStage(**(values | changes))


def overlapping(folder: Path, names: list[str]) -> Path:
    """A graph in which everything overlaps, images that are near in the list more."""
    return write_graph(folder / "covisibility.npz", full_graph(len(names)), names)


@pytest.fixture(scope="module")
def wall(tmp_path_factory):
    """Scene, graph, retrieval and map of the wall's photos, in the folder results/wall."""
    root = tmp_path_factory.mktemp("wall")
    scene, queries = plane_map.build_scene(root)
    folder = scene.parent
    graph = overlapping(folder, [v.name for v in load_scene(scene).mapping])
    model = folder / "retrieval/vlad.safetensors"
    stage = RetrievalStage(retrieval=VLAD, extractor=EXTRACTOR, near=0.5, seed=1)
    build_retrieval(stage, scene, model.with_suffix(".h5"), model, model.with_suffix(".json"), 1)
    build_map(map_stage(), scene, graph, model, folder / "sift-matching/map.h5", 1)
    return folder, graph, model, queries


def test_a_photo_is_reduced_and_its_keypoints_are_the_full_photo_s(wall):
    folder = wall[0]
    scene = load_scene(folder / "scene")
    photo = read_rgb(scene.image_path(scene.mapping[0].name))
    encoder = build_encoder(SIFT.extractor)
    full = photo_features(photo, encoder, SIFT)
    half = photo_features(photo, encoder, SIFT.model_copy(update={"max_size": 160}))
    assert full.size == half.size == (320, 240)
    assert full.descriptors.dtype == np.uint8 and full.pixels.max() > 200 and half.pixels.max() > 200
    matches = Nearest(0.8, 0.7)(full, half)
    shift = np.linalg.norm(full.pixels[matches[:, 0]] - half.pixels[matches[:, 1]], axis=1)
    # measured: 552 matches, 0.09 px; a pixel of the reduced photo is 2 px here
    assert len(matches) > 300 and np.median(shift) < 0.4


def as_bytes(d: np.ndarray) -> np.ndarray:
    """RootSIFT as COLMAP stores it: 512 times the unit vector."""
    d = np.maximum(d, 0)
    return (512 * d / np.linalg.norm(d, axis=1, keepdims=True)).round().clip(0, 255).astype(np.uint8)


def descriptors(count: int, seed: int) -> np.ndarray:
    return as_bytes(np.sqrt(np.random.default_rng(seed).dirichlet(np.full(128, 0.3), count)))


def test_matches_are_those_of_colmap():
    """Of random descriptors, half of which are in both, with noise that the tests of ratio and angle cut through."""
    rng = np.random.default_rng(0)
    first, second = descriptors(300, 1), descriptors(280, 2)
    noise = rng.normal(0, rng.uniform(5, 60, (150, 1)), (150, 128))
    second[:150] = as_bytes(first[rng.permutation(300)[:150]] + noise)
    ours = Nearest(0.8, 0.7)(*(PhotoFeatures(np.zeros((len(d), 2), np.float32), d, (1, 1)) for d in (first, second)))
    options = pycolmap.FeatureMatchingOptions(use_gpu=False, num_threads=1)
    options.sift.cpu_brute_force_matcher = True
    matcher = pycolmap.FeatureMatcher.create(options, pycolmap.Device.cpu)
    given = [pycolmap.FeatureDescriptors(pycolmap.FeatureExtractorType.SIFT, d) for d in (first, second)]
    nothing = pycolmap.FeatureKeypoints()
    theirs = matcher.match(nothing, given[0], nothing, given[1])
    a, b = ({tuple(m) for m in found.tolist()} for found in (ours, theirs))
    # COLMAP takes every vector of bytes to be 512 long, here it is normalised: one at a threshold may differ
    assert 50 < len(a) < 145 and len(a ^ b) <= 2, (len(a), len(b), len(a ^ b))


def test_nothing_and_equal_descriptors_are_matched_once():
    matcher = Nearest(None, None)
    none = PhotoFeatures(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8), (1, 1))
    twice = np.repeat(descriptors(3, 0), 2, 0)
    some = PhotoFeatures(np.zeros((6, 2), np.float32), twice, (1, 1))
    assert matcher(none, some).shape == (0, 2) and matcher(some, none).shape == (0, 2)
    found = matcher(some, some)
    assert len(found) == 3 == len(set(found[:, 0])) == len(set(found[:, 1]))
    assert (found[:, 0] // 2 == found[:, 1] // 2).all()
    assert len(Nearest(0.8, None)(some, some)) == 0  # the second nearest is as near


def test_the_map_holds_the_wall(wall):
    m = load_map(wall[0] / "sift-matching/map.h5")
    assert m.names == tuple(v.name for v in load_scene(wall[0] / "scene").mapping) and len(m.xyz) > 200
    # the wall is the plane z = 0 at 1.5 m; measured: 837 points, median 0.4 mm
    assert np.median(np.abs(m.xyz[:, 2])) < 0.003
    assert m.weights == {}  # SIFT and VLAD of it have none
    assert len(m.point) >= 2 * len(m.xyz) and m.descriptors.dtype == np.uint8 and m.pixels is None
    features, points = m.image(3)
    assert len(features.descriptors) == len(points) == m.start[4] - m.start[3] > 50


def run(wall, out: Path, threads: int = 1) -> dict:
    folder, _, _, _ = wall
    config = BaselineLocalizeStage(localize=LOCALIZE, seed=1)
    out.mkdir(parents=True, exist_ok=True)
    args = folder / "scene", folder / "sift-matching/map.h5", out / "poses.txt", out / "localization.json"
    localize_baseline(config, *args, threads)
    return json.loads((out / "localization.json").read_text())


def test_the_stage_finds_the_poses(wall):
    folder, _, _, queries = wall
    out = folder / "sift-matching"
    details = run(wall, out)
    for name, pose in read_poses(out / "poses.txt").items():
        t, r = pose_error(pose, queries[name])
        assert t < 0.005 and r < 0.2  # measured: up to 0.8 mm and 0.03 degrees, of a wall at 1.5 m
    assert details["overlay"]["name"] in queries
    for query in details["queries"].values():
        parts = {k: v for k, v in query["ms"].items() if k != "total"}
        assert list(parts) == ["read", "encode", "retrieve", "match", "pose"]
        assert sum(parts.values()) == pytest.approx(query["ms"]["total"], abs=0.05)
        assert query["confidence"] is None and 0 < query["inliers"] <= query["keypoints"]
        assert query["hypothesis"].startswith("mapping/")


def test_threads_change_nothing(wall, tmp_path):
    folder, graph, model, _ = wall
    build_map(map_stage(), folder / "scene", graph, model, tmp_path / "map.h5", 2)
    # seconds later, too: HDF5 would note the time
    assert (folder / "sift-matching/map.h5").read_bytes() == (tmp_path / "map.h5").read_bytes()
    for threads in (1, 2):
        run(wall, tmp_path / str(threads), threads)
    assert (tmp_path / "1/poses.txt").read_bytes() == (tmp_path / "2/poses.txt").read_bytes()


def test_a_photo_of_something_else_has_no_pose(wall):
    m = load_map(wall[0] / "sift-matching/map.h5")
    noise = np.random.default_rng(1).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    found = MatchLocalizer(m, LOCALIZE, 1).localize_photo(plane_map.Image.fromarray(noise), plane_map.CAMERA)
    assert found.cam_from_world is None and not found.inliers.any() and "12 are needed" in found.reason
    black = MatchLocalizer(m, LOCALIZE, 1).localize_photo(plane_map.Image.new("RGB", (320, 240)), plane_map.CAMERA)
    assert black.cam_from_world is None and len(black.inliers) == 0


def test_parts_of_another_scene_are_refused(wall, tmp_path):
    folder, _, model, _ = wall
    other = overlapping(tmp_path, ["a.png", "b.png"])
    with pytest.raises(ScrflowError, match=r"covisibility\.npz: of other mapping images"):
        build_map(map_stage(), folder / "scene", other, model, tmp_path / "map.h5", 1)


@pytest.mark.network
def test_a_map_matched_by_lightglue(wall, tmp_path):
    weights_at_hand("aliked-n16", "lightglue-aliked")
    folder, graph, model, queries = wall
    matcher = MatcherConfig(kind="lightglue", weights="lightglue-aliked")
    path = tmp_path / "map.h5"
    build_map(map_stage(features=ALIKED, matcher=matcher, neighbours=2), folder / "scene", graph, model, path, 1)
    m, scene = load_map(path), load_scene(folder / "scene")
    assert set(m.weights) == {"aliked-n16", "lightglue-aliked"}
    assert m.pixels.shape == (len(m.point), 2) and m.sizes.tolist() == [[320, 240]] * 12
    localizer = MatchLocalizer(m, LOCALIZE.model_copy(update={"retrieved": 2}), 1)
    query = scene.queries[0]
    found = localizer.localize_photo(read_rgb(scene.image_path(query.name)), query.camera)
    t, r = pose_error(found.cam_from_world, queries[query.name])
    assert t < 0.01 and r < 0.4, (t, r)
