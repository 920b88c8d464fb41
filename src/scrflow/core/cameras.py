"""Cameras by pycolmap: the pinhole matrix, resizing, undistortion.

Pixels have the centre of the top-left pixel at (0.5, 0.5), as in COLMAP; intrinsics belong to the image at hand.
"""

from __future__ import annotations

import numpy as np
import pycolmap

from scrflow.core.errors import ScrflowError


def pinhole_matrix(camera: pycolmap.Camera) -> np.ndarray:
    """K [3, 3] of the camera without its distortion."""
    return np.array(camera.calibration_matrix(), np.float64)


def rescaled_camera(camera: pycolmap.Camera, width: int, height: int) -> pycolmap.Camera:
    """The camera of the image resized to width x height pixels."""
    scaled = pycolmap.Camera(
        model=camera.model, width=camera.width, height=camera.height, params=np.array(camera.params)
    )
    sx, sy = width / camera.width, height / camera.height
    if abs(sx - sy) > 1e-9 and len(camera.focal_length_idxs()) == 1:
        # one focal length cannot follow an uneven resize (480/479, say): give the camera its twin with two
        twin = _TWO_FOCALS.get(camera.model.name)
        if twin is None:
            raise ScrflowError(
                f"camera model {camera.model.name} has one focal length and the resize is uneven; use OPENCV or PINHOLE"
            )
        f, *rest = camera.params
        params = {
            "SIMPLE_RADIAL": lambda: [f, f, *rest, 0, 0, 0],
            "RADIAL": lambda: [f, f, *rest, 0, 0],
            "SIMPLE_PINHOLE": lambda: [f, f, *rest],
        }[camera.model.name]()
        scaled = pycolmap.Camera(model=twin, width=camera.width, height=camera.height, params=params)
    scaled.rescale(new_width=width, new_height=height)
    return scaled


_TWO_FOCALS = {"SIMPLE_PINHOLE": "PINHOLE", "SIMPLE_RADIAL": "OPENCV", "RADIAL": "OPENCV"}


def rays_from_pixels(camera: pycolmap.Camera, pixels_N2: np.ndarray) -> np.ndarray:
    """Undistorted points [N, 2] on the plane z = 1 of distorted pixels [N, 2]; NaN where it cannot be inverted."""
    if len(pixels_N2) == 0:
        return np.zeros((0, 2))
    return np.asarray(camera.cam_from_img(np.asarray(pixels_N2, np.float64)), np.float64)


def pixels_from_rays(camera: pycolmap.Camera, rays_N2: np.ndarray) -> np.ndarray:
    """Distorted pixels [N, 2] of points [N, 2] on the plane z = 1."""
    if len(rays_N2) == 0:
        return np.zeros((0, 2))
    homogeneous = np.concatenate([rays_N2, np.ones((len(rays_N2), 1))], 1)
    return np.asarray(camera.img_from_cam(homogeneous), np.float64)
