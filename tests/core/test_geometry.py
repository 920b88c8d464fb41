"""Poses against SciPy and by hand; cameras there and back."""

import numpy as np
import pycolmap
import pytest
from scipy.spatial.transform import Rotation

from scrflow.core.geometry import (
    camera_centre,
    invert_pose,
    pinhole_matrix,
    pinhole_pixels,
    pinhole_rays,
    pixels_from_points,
    pixels_from_rays,
    pose_error,
    project,
    quaternion_from_rotation,
    rays_from_pixels,
    reprojection_error,
    rescaled_camera,
    rotation_from_quaternion,
)


def test_quaternions_agree_with_scipy():
    half_turns = Rotation.from_rotvec(np.pi * np.eye(3))
    rotations = Rotation.concatenate([Rotation.random(500, random_state=1), half_turns])
    for R, (x, y, z, w) in zip(rotations.as_matrix(), rotations.as_quat(), strict=True):
        ours = quaternion_from_rotation(R)
        sign = np.sign(ours @ [w, x, y, z])  # of a half turn both are right
        np.testing.assert_allclose(ours, np.array([w, x, y, z]) * sign, atol=1e-12)
        assert ours[0] >= 0
        np.testing.assert_allclose(rotation_from_quaternion(3 * ours), R, atol=1e-12)


def test_pose_error_by_hand():
    turned = Rotation.from_euler("y", 3, degrees=True).as_matrix()
    reference = np.c_[np.eye(3), [0.0, 0.0, 0.0]]
    # a camera at (0.3, 0, 0.4) turned by 3 degrees: t = -R c
    estimate = np.c_[turned, -turned @ [0.3, 0.0, 0.4]]
    t, r = pose_error(estimate, reference)
    assert t == pytest.approx(0.5) and r == pytest.approx(3.0)
    # far below what arccos of the trace can tell from zero
    tiny = np.c_[Rotation.from_euler("x", 1e-7, degrees=True).as_matrix(), np.zeros(3)]
    assert pose_error(tiny, reference)[1] == pytest.approx(1e-7, rel=1e-4)


def test_inverse_and_centre():
    pose = np.c_[Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix(), [1.0, 2.0, 3.0]]
    back = invert_pose(pose)
    np.testing.assert_allclose(pose[:, :3] @ back[:, 3] + pose[:, 3], 0, atol=1e-12)
    np.testing.assert_allclose(camera_centre(pose), back[:, 3])


def test_projection_is_that_of_pycolmap():
    R = Rotation.from_euler("xyz", [5, -20, 3], degrees=True).as_matrix()
    pose = np.c_[R, [0.2, -0.1, 0.5]]
    camera = pycolmap.Camera(model="PINHOLE", width=640, height=480, params=[500, 510, 320, 240])
    K = pinhole_matrix(camera)
    cam = np.random.default_rng(0).uniform([-1, -1, 2], [1, 1, 6], (50, 3))
    world = (cam - pose[:, 3]) @ R
    pixels, depth = project(world, K, pose)
    np.testing.assert_allclose(pixels, camera.img_from_cam(cam), atol=1e-9)
    np.testing.assert_allclose(pixels, pixels_from_points(camera, cam), atol=1e-9)
    np.testing.assert_allclose(depth, cam[:, 2])
    np.testing.assert_allclose(pinhole_pixels(pinhole_rays(pixels, K), K), pixels)
    each, _ = project(world, np.tile(K, (50, 1, 1)), np.tile(pose, (50, 1, 1)))
    np.testing.assert_allclose(each, pixels, atol=1e-9)
    behind = (np.array([[0.0, 0, -2]]) - pose[:, 3]) @ R
    assert reprojection_error(np.array([[320.0, 240]]), behind, K, pose)[0] == np.inf
    assert np.isnan(pixels_from_points(camera, np.array([[0.0, 0, -2]]))).all()


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("PINHOLE", [500, 510, 320, 240]),
        ("SIMPLE_RADIAL", [500, 320, 240, -0.08]),
        ("OPENCV", [500, 510, 320, 240, 0.06, -0.08, -0.001, 0.0002]),
        ("OPENCV_FISHEYE", [300, 300, 320, 240, 0.01, 0.002, 0, 0]),
    ],
)
def test_distortion_there_and_back(model, params):
    camera = pycolmap.Camera(model=model, width=640, height=480, params=params)
    pixels = np.random.default_rng(0).uniform([20, 20], [620, 460], (200, 2))
    np.testing.assert_allclose(pixels_from_rays(camera, rays_from_pixels(camera, pixels)), pixels, atol=1e-6)


def test_rescaled_camera_keeps_rays():
    camera = pycolmap.Camera(model="SIMPLE_RADIAL", width=1080, height=1920, params=[1375, 554, 965, 0.05])
    smaller = rescaled_camera(camera, 480, 853)  # 853.33 rounded: uneven, so the model gets a second focal length
    pixels = np.array([[100.0, 200.0], [900.0, 1700.0]])
    scaled = pixels * [480 / 1080, 853 / 1920]
    np.testing.assert_allclose(rays_from_pixels(smaller, scaled), rays_from_pixels(camera, pixels), atol=1e-9)
    assert pinhole_matrix(smaller)[0, 0] == pytest.approx(1375 * 480 / 1080)
