"""Photos of unknown focal length, or stored sideways: localized by several attempts.

Without a focal length, a photo is localized under a guess, the focal length is estimated with the pose
(scrflow.localize.focal), and the photo is localized again. If the confidence is low, the photo may be stored sideways
or upside down: the other three turns are tried, and a turn is taken only if its confidence is not low.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pycolmap
from PIL import Image

from scrflow.core.geometry import pinhole_matrix, pinhole_pixels, pinhole_rays
from scrflow.features.views import EncodedView, roll_rotation
from scrflow.localize.focal import estimated_focal, guessed_camera
from scrflow.localize.result import Localization

# by heads: 87 wrong turns have at most 0.005, 180 photos of other places less than 0.02, right turns 0.008 and more
LIKELY = 0.02
_ROUNDS = 2  # estimates of a focal length; for the second, hypotheses were judged with nearly the right one
_TURNS = {1: Image.Transpose.ROTATE_270, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_90}

T = TypeVar("T")
Attempt = Callable[[Image.Image, pycolmap.Camera], tuple[Localization, T]]


def localized(
    attempt: Attempt[T], photo: Image.Image, camera: pycolmap.Camera | None, turns: bool = True
) -> tuple[Localization, T]:
    """The result of the best attempt. Without ``camera`` the focal length is estimated, and the result has the camera.
    Pose, camera and keypoints are those of the photo as stored, also where the result is ``turned``."""
    best = _upright(attempt, photo, camera)
    if not turns or best[0].confidence is None or best[0].confidence >= LIKELY:
        return best
    for quarters, transpose in _TURNS.items():
        turned = None if camera is None else turned_camera(camera, quarters)
        if camera is not None and turned is None:
            return best
        found, more = _upright(attempt, photo.transpose(transpose), turned)
        if found.confidence >= LIKELY and found.confidence > best[0].confidence:
            best = _turned_back(found, quarters, turned), more
    return best


def _upright(attempt: Attempt[T], photo: Image.Image, camera: pycolmap.Camera | None) -> tuple[Localization, T]:
    if camera is not None:
        return attempt(photo, camera)
    camera, focal = guessed_camera(photo.size), None
    found, more = attempt(photo, camera)
    for _ in range(_ROUNDS):
        better = estimated_focal(found, camera)
        if better is None:
            break
        focal, camera = better, guessed_camera(photo.size, better.px)
        found, more = attempt(photo, camera)
    return replace(found, camera=camera, focal_spread=None if focal is None else focal.spread), more


def turned_camera(camera: pycolmap.Camera, quarters: int) -> pycolmap.Camera | None:
    """The camera of the photo turned clockwise by ``quarters`` of a turn; None for a lens model that cannot
    describe the turned lens (thin prisms)."""
    names = camera.params_info.split(", ")
    if not all(n[0] in "fck" or n in ("p1", "p2", "omega", "alpha", "beta") for n in names):
        return None
    values, size = dict(zip(names, camera.params, strict=True)), (camera.width, camera.height)
    for _ in range(quarters):  # (x, y) goes to (height - y, x)
        old = dict(values)
        values["cx"], values["cy"] = size[1] - old["cy"], old["cx"]
        if "fx" in old:
            values["fx"], values["fy"] = old["fy"], old["fx"]
        if "p1" in old:
            values["p1"], values["p2"] = old["p2"], -old["p1"]
        size = size[::-1]
    return pycolmap.Camera(model=camera.model, width=size[0], height=size[1], params=list(values.values()))


def _turned_back(found: Localization, quarters: int, turned: pycolmap.Camera | None) -> Localization:
    """The result of a photo turned clockwise, as that of the stored photo. ``turned``: the turned camera if known."""
    back = roll_rotation(-quarters * np.pi / 2).round()
    of_turned = turned or found.camera
    of_stored = turned_camera(of_turned, 4 - quarters)
    view = found.view
    scale = view.K[0, 0] / pinhole_matrix(of_turned)[0, 0]
    K = np.diag([scale, scale, 1.0]) @ pinhole_matrix(of_stored)
    pixels = pinhole_pixels(pinhole_rays(view.pixels, view.K) @ back[:2, :2].T, K)
    both = np.kron(np.eye(2), back)  # translation and rotation
    return replace(
        found,
        cam_from_world=back @ found.cam_from_world,
        covariance=None if found.covariance is None else both @ found.covariance @ both.T,
        view=EncodedView(pixels, view.descriptors, K, view.roll),
        camera=None if turned is not None else of_stored,
        turned=90 * quarters,
    )
