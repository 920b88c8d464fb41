"""What the intrinsics of a scene leave of its lenses' radial distortion, measured by the tracks.

A file of poses often gives a focal length alone. Rays of the photo's border are then some pixels wrong, which points
cannot compensate in all views, and poses inherit it: on redkitchen 3.6 px, and a median
of 0.59 cm for 0.36.

A lens is a row [21] of numbers: ``k1``, ``k2``; ``reach``, the radius on the plane z = 1 within which it was measured;
and the rays of the 3 x 3 ``_PLACES`` of a photo, by which a query's camera is known again. A ray of radius r becomes
``(1 + k1 r^2 + k2 r^4)`` times as long, r at most ``reach``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pycolmap

from scrflow.core.geometry import rays_from_pixels
from scrflow.landmarks.triangulate import Observations, Points, linearised, summed

NUMBERS = 21
_PLACES = np.stack(np.meshgrid([0.1, 0.5, 0.9], [0.1, 0.5, 0.9]), -1).reshape(9, 2)  # of width and height
_SAME = 1e-3  # largest difference of rays of one camera, half a pixel of 640
_LEAST_OBSERVATIONS = 4  # of a point by the camera
_POINTS = 3000  # that are used at most
_LEAST_POINTS = 300
_STEPS = 6
_LEAST_PX = 0.25  # smaller distortions are left alone (fox, demo), as are those below _SIGNIFICANT standard deviations
_SIGNIFICANT = 10.0
_LARGEST = 0.1  # of the radius: no track survives more


def lenses_of(
    cameras: Sequence[pycolmap.Camera], seen: Observations, points: Points, poses_V34: np.ndarray, focal_V: np.ndarray
) -> np.ndarray:
    """Lenses [G, 21] float32 of the views' different ``cameras``, where the tracks show a distortion; ``points`` are
    what ``triangulate`` gave for ``seen``."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, camera in enumerate(cameras):
        groups.setdefault((camera.model_name, camera.width, camera.height, *camera.params), []).append(i)
    found = []
    for views in groups.values():
        lens, rays = _fitted(np.isin(seen.view, views), seen, points, poses_V34, focal_V), _rays(cameras[views[0]])
        if lens is not None and np.isfinite(rays).all():
            found.append(np.concatenate([lens, rays.ravel()]))
    return np.array(found, np.float32).reshape(-1, NUMBERS)


def corrected(lenses_G: np.ndarray, camera: pycolmap.Camera, rays_N2: np.ndarray) -> np.ndarray:
    """Rays [N, 2] of a photo on the plane z = 1 by the lens of its camera; unchanged if ``lenses_G`` [G, 21] have
    none."""
    if not len(lenses_G):
        return rays_N2
    apart = np.abs(lenses_G[:, 3:].reshape(-1, 9, 2) - _rays(camera)).max((1, 2))
    if not apart.min() < _SAME:
        return rays_N2
    k1, k2, reach = lenses_G[apart.argmin(), :3].astype(np.float64)
    squared = np.minimum((rays_N2**2).sum(1, keepdims=True), reach**2)
    return rays_N2 * (1 + k1 * squared + k2 * squared**2)


def _rays(camera: pycolmap.Camera) -> np.ndarray:
    return rays_from_pixels(camera, _PLACES * (camera.width, camera.height))


def _fitted(
    of_camera_O: np.ndarray, seen: Observations, points: Points, poses_V34: np.ndarray, focal_V: np.ndarray
) -> np.ndarray | None:
    """k1, k2 and reach of the camera of some observations: Gauss-Newton steps under a Cauchy loss for the lens and the
    points together, which are eliminated (Schur complement)."""
    rows = points.observation[of_camera_O[points.observation]]
    point = points.point[of_camera_O[points.observation]]
    chosen = np.flatnonzero(np.bincount(point, minlength=len(points.xyz)) >= _LEAST_OBSERVATIONS)
    if len(chosen) < _LEAST_POINTS:
        return None
    chosen = chosen[:: -(-len(chosen) // _POINTS)]
    place = np.full(len(points.xyz), -1)
    place[chosen] = np.arange(len(chosen))
    rows, point = rows[place[point] >= 0], place[point[place[point] >= 0]]
    ray, view, count = seen.ray[rows], seen.view[rows], len(chosen)
    squared = (ray**2).sum(1, keepdims=True)
    by_lens = -focal_V[view, None, None] * np.stack([ray * squared, ray * squared**2], -1)  # [O, 2 px, 2]
    xyz, lens = points.xyz[chosen], np.zeros(2)
    for _ in range(_STEPS):
        longer = Observations(point, view, ray * (1 + squared * lens[0] + squared**2 * lens[1]))
        error, by_point, in_front = linearised(longer, poses_V34, focal_V, xyz)
        weight = in_front / (1 + (error**2).sum(1))
        a = summed(weight[:, None, None] * (by_point.transpose(0, 2, 1) @ by_point), point, count)
        a += (1e-6 * np.trace(a, axis1=1, axis2=2) + 1e-12)[:, None, None] * np.eye(3)
        b = summed(weight[:, None, None] * (by_point.transpose(0, 2, 1) @ by_lens), point, count)
        to_point = summed(weight[:, None] * np.einsum("oij,oi->oj", by_point, error), point, count)
        solved = np.linalg.solve(a, np.concatenate([b, to_point[..., None]], 2))  # [P, 3, 3]
        curvature = np.einsum("o,oij,oik->jk", weight, by_lens, by_lens) - np.einsum("pij,pik->jk", b, solved[..., :2])
        gradient = np.einsum("o,oij,oi->j", weight, by_lens, error) - np.einsum("pij,pi->j", b, solved[..., 2])
        step = np.linalg.solve(curvature + 1e-12 * np.trace(curvature) * np.eye(2), gradient)
        lens = lens - step
        xyz = xyz - (solved[..., 2] - solved[..., :2] @ step)
    sigma = np.median(np.abs(error)) * 1.4826
    reach = float(np.quantile(squared, 0.999)) ** 0.5
    radius = np.linspace(0, reach, 50)
    shape = np.stack([radius**2, radius**4], 1)
    longer, focal = shape @ lens, float(np.median(focal_V[view]))
    deviation = sigma * np.sqrt(np.einsum("ri,ij,rj->r", shape, np.linalg.pinv(curvature), shape))
    clear = (np.abs(longer) * radius * focal > _LEAST_PX) & (np.abs(longer) > _SIGNIFICANT * deviation)
    if not np.isfinite(longer).all() or not clear.any() or np.abs(longer).max() > _LARGEST:
        return None
    return np.array([*lens, reach])
