"""Radial distortion that the intrinsics leave, from tracks of known points."""

from __future__ import annotations

import numpy as np
import plane_map
import pycolmap
import pytest
import torch
from scipy.spatial.transform import Rotation

from scrflow.core.geometry import pinhole_matrix, project
from scrflow.features.views import EncodedView
from scrflow.landmarks.codes import check, decode, encode
from scrflow.landmarks.lens import corrected, lenses_of
from scrflow.landmarks.tracks import load_tracks
from scrflow.landmarks.triangulate import Observations, Points, triangulate
from scrflow.localize.result import Localization

FOCAL = 525.0
KNOWN = pycolmap.Camera(model="PINHOLE", width=640, height=480, params=[FOCAL, FOCAL, 320, 240])
# what took the photos: 5 px at the corner
TRUE = pycolmap.Camera(model="RADIAL", width=640, height=480, params=[FOCAL, 320, 240, -0.015, -0.012])


def observed(camera: pycolmap.Camera, views: int = 12) -> tuple[np.ndarray, np.ndarray, Observations, Points]:
    """1 000 points seen by photos of ``camera`` that go round them, with noise of 0.5 px; rays are by ``KNOWN``."""
    rng = np.random.default_rng(2)
    xyz = rng.uniform(-2, 2, (1000, 3))
    turns = Rotation.from_euler("yxz", np.c_[np.linspace(0, 150, views), rng.uniform(-20, 20, (views, 2))], True)
    poses = np.concatenate([turns.as_matrix(), np.tile([[0], [0], [4.0]], (views, 1, 1))], 2)
    track, view, ray = [], [], []
    for i, pose in enumerate(poses):
        ideal, depth = project(xyz, np.eye(3), pose)
        pixels = camera.img_from_cam(np.c_[ideal, np.ones(len(ideal))]) + rng.normal(0, 0.5, (1000, 2))
        seen = (depth > 1) & (np.abs(ideal) < [0.61, 0.46]).all(1)
        track.append(np.flatnonzero(seen))
        view.append(np.full(seen.sum(), i))
        ray.append(KNOWN.cam_from_img(pixels[seen]))
    track, view, ray = (np.concatenate(part) for part in (track, view, ray))
    order = np.lexsort((view, track))
    seen = Observations(track[order], view[order], ray[order])
    return xyz, poses, seen, triangulate(seen, poses, np.full(views, FOCAL), 8.0, 1.0)


def test_a_distortion_that_the_intrinsics_lack_is_found():
    _, poses, seen, points = observed(TRUE)
    lens = lenses_of([KNOWN] * 12, seen, points, poses, np.full(12, FOCAL))
    assert lens.shape == (1, 21) and lens.dtype == np.float32
    ideal = np.random.default_rng(3).uniform([-0.55, -0.42], [0.55, 0.42], (200, 2))
    pixels = TRUE.img_from_cam(np.c_[ideal, np.ones(200)])
    before = FOCAL * np.linalg.norm(KNOWN.cam_from_img(pixels) - ideal, axis=1)
    after = FOCAL * np.linalg.norm(corrected(lens, KNOWN, KNOWN.cam_from_img(pixels)) - ideal, axis=1)
    assert before.max() > 3 and after.max() < 0.25  # px
    # the same camera with photos of half the size, and another one
    half = pycolmap.Camera(model="PINHOLE", width=320, height=240, params=[FOCAL / 2, FOCAL / 2, 160, 120])
    np.testing.assert_allclose(corrected(lens, half, ideal), corrected(lens, KNOWN, ideal))
    other = pycolmap.Camera(model="PINHOLE", width=640, height=480, params=[560, 560, 320, 240])
    assert corrected(lens, other, ideal) is ideal


@pytest.mark.parametrize("photos", [12, 2], ids=["right intrinsics", "too few photos of each camera"])
def test_no_lens_without_need_or_evidence(photos):
    _, poses, seen, points = observed(KNOWN if photos == 12 else TRUE)
    cameras = [KNOWN] * 12 if photos == 12 else [
        pycolmap.Camera(model="PINHOLE", width=640, height=480, params=[FOCAL + i // 2, FOCAL, 320, 240])
        for i in range(12)
    ]  # fmt: skip
    assert lenses_of(cameras, seen, points, poses, np.full(12, FOCAL)).shape == (0, 21)


def test_a_map_keeps_the_lens(wall_landmarks):
    tracks = load_tracks(wall_landmarks.photos.parent / "tracks.h5")
    plain = encode(tracks, plane_map.LANDMARKS, 1)
    assert not len(tracks.lens) and "lens" not in plain and decode(plain).lens.shape == (0, 21)
    lens = torch.arange(21.0)[None]
    check({**plain, "lens": lens}, 12)
    assert np.array_equal(decode({**plain, "lens": lens}).lens, lens.numpy())
    with pytest.raises(ValueError, match=r"landmark\.lens is \[1, 5\]"):
        check({**plain, "lens": lens[:, :5]}, 12)
    with pytest.raises(ValueError, match=r"landmark\.lens has numbers that are not finite"):
        check({**plain, "lens": lens * np.nan}, 12)


def test_keypoints_moved_over_the_edge_are_shown_on_it():
    K = pinhole_matrix(KNOWN)
    pixels = np.array([[-2.5, 100.0], [KNOWN.width + 1.0, 50.0], [30.0, 40.0]])
    view = EncodedView(pixels, torch.zeros(3, 4), K, 0.0)
    found = Localization(np.eye(3, 4), np.ones(3, bool), None, np.tile([0, 0, 1.0], (3, 1)), view, {})
    shown, _ = found.photo_pixels(KNOWN)
    np.testing.assert_allclose(shown, [[0, 100], [KNOWN.width, 50], [30, 40]], atol=1e-6)
