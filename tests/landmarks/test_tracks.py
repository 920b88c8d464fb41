"""Points of known tracks, and the tracks, choice and codes of the painted wall's photos."""

from __future__ import annotations

import numpy as np
import plane_map
import pytest
import scipy.sparse
import torch
from scenes import scene_of, write_graph
from scipy.spatial.transform import Rotation
from tiny_project import REPO

from scrflow.config import LandmarksConfig, TracksConfig, TracksStage
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import invert_pose, project
from scrflow.landmarks.codes import check, decode, encode
from scrflow.landmarks.select import choose, right_matches
from scrflow.landmarks.tracks import Tracks, build_tracks, load_tracks
from scrflow.landmarks.triangulate import Observations, triangulate
from scrflow.scene.colmap_model import View, read_model, views_of_model

FOCAL = 500.0
STAGE = TracksStage(tracks=TracksConfig(features=plane_map.MATCHED), seed=1)


def seen_points(count: int, views: int) -> tuple[np.ndarray, np.ndarray, Observations]:
    """Points [count, 3] 4 to 6 m before cameras in a row of 1 m, their poses, and an observation of each by each."""
    rng = np.random.default_rng(2)
    xyz = rng.uniform([-1, -1, 4], [1, 1, 6], (count, 3))
    turns = Rotation.from_euler("yx", rng.uniform(-5, 5, (views, 2)), degrees=True).as_matrix()
    centres = np.c_[np.linspace(-0.5, 0.5, views), rng.uniform(-0.1, 0.1, (views, 2))]
    poses = np.concatenate([turns, -(turns @ centres[:, :, None])], 2)
    rays = np.stack([project(xyz, np.eye(3), pose)[0] for pose in poses], 1)  # [count, views, 2]
    track, view = (index.ravel() for index in np.mgrid[:count, :views])
    return xyz, poses, Observations(track, view, rays.reshape(-1, 2))


def test_exact_observations_give_the_points():
    xyz, poses, seen = seen_points(200, 4)
    found = triangulate(seen, poses, np.full(4, FOCAL), 4.0, 1.0)
    assert np.array_equal(found.observation, np.arange(800)) and np.array_equal(found.point, seen.track)
    np.testing.assert_allclose(found.xyz, xyz, rtol=0, atol=1e-6)  # metres, of points 5 m away
    assert found.error_px.max() < 1e-4


def test_outliers_are_left_out_and_hardly_move_a_point():
    """One of six observations of each track is of another place; each second point is seen twice by one view."""
    xyz, poses, seen = seen_points(200, 6)
    rays = seen.ray.copy()
    wrong = np.arange(200) * 6 + np.arange(200) % 6
    rays[wrong] += np.random.default_rng(3).choice([-0.15, 0.15], (200, 2))  # 75 px in x and y
    twice = np.arange(0, 200, 2)
    rows = np.r_[np.arange(1200), (twice * 6 + (twice + 1) % 6)]
    order = np.lexsort((seen.view[rows], seen.track[rows]))
    seen = Observations(seen.track[rows][order], seen.view[rows][order], rays[rows][order])
    found = triangulate(seen, poses, np.full(6, FOCAL), 4.0, 1.0)
    assert len(found.xyz) == 200
    assert np.linalg.norm(found.xyz - xyz, axis=1).max() < 0.0015  # m; measured: 0.0008, of points 5 m away
    kept = set(zip(seen.track[found.observation].tolist(), seen.view[found.observation].tolist(), strict=True))
    assert len(kept) == len(found.observation), "a view counts once"
    assert not kept & {(i, i % 6) for i in range(200)} and len(kept) == 1000


def test_points_that_views_do_not_agree_on_or_see_under_one_angle_are_dropped():
    _, poses, seen = seen_points(100, 2)
    across = Observations(seen.track, seen.view, np.random.default_rng(4).uniform(-0.5, 0.5, seen.ray.shape))
    assert not len(triangulate(across, poses, np.full(2, FOCAL), 4.0, 1.0).xyz)
    assert not len(triangulate(seen, poses, np.full(2, FOCAL), 4.0, 20.0).xyz)  # 1 m apart, 4 m away: 14 degrees
    none = Observations(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2)))
    assert triangulate(none, poses, np.full(2, FOCAL), 4.0, 1.0).xyz.shape == (0, 3)


def test_tracks_of_photos_lie_on_the_wall_and_threads_change_no_byte(wall_landmarks, tmp_path):
    root = wall_landmarks.photos.parent
    build_tracks(STAGE, wall_landmarks.scene, root / "graph.npz", tmp_path / "tracks.h5", 2)
    assert (tmp_path / "tracks.h5").read_bytes() == (root / "tracks.h5").read_bytes()
    tracks = load_tracks(root / "tracks.h5")
    assert len(tracks.xyz) > 1000 and tracks.descriptor.dtype == np.uint8 and tracks.weights == {}
    assert np.diff(tracks.start).min() > 400  # of 600 keypoints of a photo
    assert np.median(np.abs(tracks.xyz[:, 2])) < 0.001  # measured: 0.0005 m; the wall is z = 0, 1.5 m away
    for i, (name, pose) in enumerate(plane_map.poses()[0].items()):
        rows = slice(tracks.start[i], tracks.start[i + 1])
        assert tracks.names[i] == name
        shown, _ = project(tracks.xyz[tracks.point[rows]], plane_map.K, pose)
        assert np.linalg.norm(shown - tracks.pixel[rows], axis=1).max() < 2.01


def test_wrong_poses_are_refused_in_a_line(tmp_path):
    """Camera-to-world in place of world-to-camera, of the demo's streets."""
    views = [v for v in views_of_model(read_model(REPO / "demo/model")) if v.name.startswith("mapping/")][:16]
    wrong = [View(v.name, v.camera, invert_pose(v.cam_from_world)) for v in views]
    graph = write_graph(tmp_path / "graph.npz", scipy.sparse.csr_array(1 - np.eye(16)), [v.name for v in views])
    scene = scene_of(tmp_path / "scene", REPO / "demo/images", wrong)
    with pytest.raises(
        ScrflowError, match=r"scene: only \d+ % of the matches .* no more than chance; poses and"
    ) as caught:
        build_tracks(STAGE, scene, graph, tmp_path / "tracks.h5", 1)
    assert "\n" not in str(caught.value)


def test_photos_from_one_place_and_another_scene_are_refused_in_a_line(wall_landmarks, tmp_path):
    graph = wall_landmarks.photos.parent / "graph.npz"
    views = [View(name, plane_map.CAMERA, np.c_[np.eye(3), [0.0, 0.0, 3.0]]) for name in plane_map.poses()[0]]
    scene = scene_of(tmp_path / "scene", wall_landmarks.photos, views)
    with pytest.raises(
        ScrflowError, match=r"scene: no keypoint of its mapping photos could be triangulated; poses and"
    ):
        build_tracks(STAGE, scene, graph, tmp_path / "tracks.h5", 1)
    other = write_graph(tmp_path / "graph.npz", scipy.sparse.csr_array(np.ones((2, 2))), "ab")
    with pytest.raises(ScrflowError, match=r"graph\.npz: of other mapping images"):
        build_tracks(STAGE, scene, other, tmp_path / "tracks.h5", 1)
    assert not (tmp_path / "tracks.h5").exists()


def test_every_image_has_its_share_of_the_landmarks(wall_landmarks):
    tracks = load_tracks(wall_landmarks.photos.parent / "tracks.h5")
    for count in (24, 300):
        chosen = choose(tracks, count)
        assert len(chosen) == count and (np.diff(chosen) > 0).all()
        of_image = np.bincount(tracks.image[np.isin(tracks.point, chosen)], minlength=12)
        assert of_image.min() >= count // 12, of_image
    assert np.array_equal(choose(tracks, 10**6), np.arange(len(tracks.xyz)))


@pytest.mark.parametrize("size", [17_000, 24_000])
def test_a_size_is_kept_to(wall_landmarks, size):
    tracks = load_tracks(wall_landmarks.photos.parent / "tracks.h5")
    tensors = encode(tracks, LandmarksConfig(count=None, size=size, dim=16, code_bytes=8), 1)
    held = sum(tensor.nbytes for tensor in tensors.values())
    assert size - 14 <= held <= size, "a landmark has 14 bytes"


def test_points_that_are_mistaken_for_others_come_last():
    """200 points in each of four images; every second one looks like 20 others, up to noise."""
    rng = np.random.default_rng(4)
    own, shared = rng.random((200, 128)), rng.random((5, 128))
    own[::2] = shared[np.arange(100) % 5]
    seen = np.clip(own[None] + rng.normal(0, 0.05, (4, 200, 128)), 0, 1).reshape(-1, 128)
    tracks = Tracks(
        tuple("abcd"),
        np.zeros((200, 3), np.float32),
        np.arange(5) * 200,
        np.tile(np.arange(200, dtype=np.int32), 4),
        np.rint(200 * seen).astype(np.uint8),
        np.zeros((800, 2), np.float32),
    )
    right = right_matches(tracks)
    assert (right[1::2] == 4).all() and (right[::2] <= 1).all()
    assert np.array_equal(choose(tracks, 100), np.arange(1, 200, 2))


def test_a_budget_for_no_landmark_is_refused(wall_landmarks):
    tracks = load_tracks(wall_landmarks.photos.parent / "tracks.h5")
    with pytest.raises(ScrflowError, match=r"landmarks\.size: 5000 bytes, of which .* give more, or lower"):
        encode(tracks, LandmarksConfig(count=None, size=5000, dim=16, code_bytes=8), 1)


def test_codes_hold_places_to_a_step_and_descriptors_nearly(wall_landmarks):
    tracks = load_tracks(wall_landmarks.photos.parent / "tracks.h5")
    tensors = encode(tracks, plane_map.LANDMARKS, 1)
    check(tensors, 12)
    assert tensors["codes"].shape == (300, 8) and tensors["position"].dtype is torch.int16
    found = decode(tensors)
    assert found.xyz.shape == (300, 3) and found.descriptors.shape == (300, 16)
    # ordered by the first image that sees them; places to half a step of that image's box
    chosen, first = choose(tracks, 300), np.full(len(tracks.xyz), 12)
    np.minimum.at(first, tracks.point, tracks.image)
    chosen = chosen[np.argsort(first[chosen], kind="stable")]
    assert np.array_equal(first[chosen], found.image)
    error = np.abs(found.xyz - tracks.xyz[chosen])
    assert (error <= 0.51 * tensors["step"].numpy()[found.image] + 1e-7).all() and error.max() < 3e-5  # m
    # a landmark's own observation is most like it
    rows = [np.flatnonzero(tracks.point == p)[0] for p in chosen]
    unit = torch.nn.functional.normalize(torch.from_numpy(tracks.descriptor[rows].astype(np.float32)), dim=1)
    best = (found.projected(unit) @ found.descriptors.T).argmax(1)
    assert float((best == torch.arange(300)).float().mean()) > 0.97  # measured: all
