"""Intrinsics that can be no photo's: a focal length in another unit, a principal point outside, a lens that folds."""

from __future__ import annotations

import logging

import numpy as np
import pycolmap

from scrflow.core.cameras import pixels_from_rays, rays_from_pixels
from scrflow.core.errors import ScrflowError
from scrflow.scene.checks.validate import check_camera

log = logging.getLogger("scrflow")

# focal length / longer side: 0.1 is 157 degrees across without distortion, 100 is half a degree. A fisheye has 0.2 and
# more, a phone 0.8, a telephoto lens of 600 mm 17
_FOCAL_SIDES = (0.1, 100.0)
_NORMALISED = 2.5  # px; a focal length told in widths of the image is under it, one in mm over it (phones: 4 to 6)
_PIXEL_ASPECT = 2.0  # fx / fy; anamorphic video has 1.33
_GRID = 25  # pixels a side, those of the border among them
_BACK_PX = 0.5  # a pixel and its way through the undistortion and back
_SHARE = {False: 0.1, True: 0.5}  # of the grid, of a fisheye: half its picture may be beyond 90 degrees, or black


def check_intrinsics(camera: pycolmap.Camera, where: str) -> None:
    """ScrflowError beginning with ``where`` for a camera that no photo has; a warning where part of its image has no
    rays (its keypoints are left out)."""
    check_camera(camera, where)
    params = np.asarray(camera.params, np.float64)
    _check_focal(camera, params[list(camera.focal_length_idxs())], where)
    x, y = params[list(camera.principal_point_idxs())]
    if not (0 <= x <= camera.width and 0 <= y <= camera.height):
        raise ScrflowError(
            f"{where}: principal point {x:g}, {y:g} px lies outside the image of {camera.width}x{camera.height}; mend "
            f"the intrinsics ({camera.model.name} takes {camera.params_info})"
        )
    if x <= 1 or y <= 1:
        raise ScrflowError(
            f"{where}: principal point {x:g}, {y:g} is at the edge of {camera.width}x{camera.height} px, as if in "
            f"shares of the sides, or not in its place ({camera.model.name} takes {camera.params_info}); give it in px"
        )
    share = lost_share(camera)
    if share > _SHARE["FISHEYE" in camera.model.name]:
        raise ScrflowError(
            f"{where}: distortion cannot be inverted over {share:.0%} of the image ({camera.model.name} "
            f"{params.tolist()}); mend the intrinsics, or their order ({camera.params_info})"
        )
    if share:
        log.warning("%s: distortion cannot be inverted over %.0f %% of the image, at its border", where, 100 * share)


def _check_focal(camera: pycolmap.Camera, focal: np.ndarray, where: str) -> None:
    longer = max(camera.width, camera.height)
    told = " ".join(f"{f:g}" for f in focal)
    if focal.min() < _FOCAL_SIDES[0] * longer:
        guess, mend = "millimetres", "in px it is mm / width of the sensor in mm * width of the image in px"
        if focal.max() < _NORMALISED:
            guess, mend = "a share of the width", f"in px it would be {focal[0] * camera.width:g}"
        raise ScrflowError(
            f"{where}: focal length {told} px for an image of {camera.width}x{camera.height} looks like {guess}; {mend}"
        )
    if focal.max() > _FOCAL_SIDES[1] * longer:
        raise ScrflowError(
            f"{where}: focal length {told} px for an image of {camera.width}x{camera.height} shows under half a "
            "degree; mend the intrinsics"
        )
    if focal.max() > _PIXEL_ASPECT * focal.min():
        raise ScrflowError(
            f"{where}: focal lengths {told} px differ by more than {_PIXEL_ASPECT:g} times; mend the intrinsics "
            f"({camera.model.name} takes {camera.params_info})"
        )


def lost_share(camera: pycolmap.Camera) -> float:
    """Share of a grid over the image whose pixels have no ray: the undistortion gives none, does not lead back, or lies
    where the lens model has folded over (a step to the right goes left)."""
    x, y = np.meshgrid(np.linspace(0, camera.width, _GRID), np.linspace(0, camera.height, _GRID))
    pixels = np.column_stack([x.ravel(), y.ravel()])
    rays = rays_from_pixels(camera, pixels)
    good = np.isfinite(rays).all(1)
    rays, pixels = rays[good], pixels[good]
    step = 1e-5
    around = [pixels_from_rays(camera, rays + shift) for shift in ((0, 0), (step, 0), (0, step))]
    (ax, ay), (bx, by) = ((moved - around[0]).T for moved in around[1:])
    right = (np.linalg.norm(around[0] - pixels, axis=1) <= _BACK_PX) & (ax * by - ay * bx > 0)
    return 1 - int(right.sum()) / _GRID**2
