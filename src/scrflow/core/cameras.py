"""pycolmap's cameras: the pinhole matrix, resizing, undistortion, projection.

As in COLMAP, the centre of the top-left pixel is at (0.5, 0.5). Intrinsics belong to an image of the camera's size.
"""

from __future__ import annotations

import numpy as np
import pycolmap

from scrflow.core.errors import ScrflowError

_NEAREST = 1e-6  # scene units; nearer points have no usable pixel
_TWO_FOCALS = {"SIMPLE_PINHOLE": "PINHOLE", "SIMPLE_RADIAL": "OPENCV", "RADIAL": "OPENCV"}


def pinhole_matrix(camera: pycolmap.Camera) -> np.ndarray:
    """K [3, 3] of the camera, without distortion."""
    return np.array(camera.calibration_matrix(), np.float64)


def rescaled_camera(camera: pycolmap.Camera, width: int, height: int) -> pycolmap.Camera:
    """The camera of the image resized to width x height pixels."""
    scaled = pycolmap.Camera(
        model=camera.model, width=camera.width, height=camera.height, params=np.array(camera.params)
    )
    sx, sy = width / camera.width, height / camera.height
    if abs(sx - sy) > 1e-9 and len(camera.focal_length_idxs()) == 1:
        # one focal length cannot follow an uneven resize (480/479, say): use the model with two
        twin = _TWO_FOCALS.get(camera.model.name)
        if twin is None:
            raise ScrflowError(
                f"camera model {camera.model.name} has one focal length, the resize two scales; use OPENCV or PINHOLE"
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


def rays_from_pixels(camera: pycolmap.Camera, pixels_N2: np.ndarray) -> np.ndarray:
    """Rays [N, 2] (points on the plane z = 1) of distorted pixels [N, 2]; NaN where the distortion has no inverse."""
    if len(pixels_N2) == 0:
        return np.zeros((0, 2))
    return np.asarray(camera.cam_from_img(np.asarray(pixels_N2, np.float64)), np.float64)


def pixels_from_rays(camera: pycolmap.Camera, rays_N2: np.ndarray) -> np.ndarray:
    """Distorted pixels [N, 2] of rays [N, 2]."""
    if len(rays_N2) == 0:
        return np.zeros((0, 2))
    homogeneous = np.concatenate([rays_N2, np.ones((len(rays_N2), 1))], 1)
    return np.asarray(camera.img_from_cam(homogeneous), np.float64)


def pixels_from_points(camera: pycolmap.Camera, xyz_cam_N3: np.ndarray) -> np.ndarray:
    """Distorted pixels [N, 2] of points [N, 3] in the camera's frame; NaN behind the camera."""
    pixels = np.full((len(xyz_cam_N3), 2), np.nan)
    front = xyz_cam_N3[:, 2] > _NEAREST
    pixels[front] = pixels_from_rays(camera, xyz_cam_N3[front, :2] / xyz_cam_N3[front, 2:])
    return pixels
