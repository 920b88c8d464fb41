"""Points from tracks of keypoints under known poses: intersection of rays, then robust Gauss-Newton, all at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_STEPS = (1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5)  # Cauchy scale in px of each Gauss-Newton step
_DAMPING = 1e-6  # of the mean curvature: a point of nearly parallel rays stays where it is


@dataclass(frozen=True, eq=False)
class Observations:
    """O observations of P tracks, sorted by track and view."""

    track: np.ndarray  # [O] int64, 0 to P - 1
    view: np.ndarray  # [O] int64, a row of the poses
    ray: np.ndarray  # [O, 2] on the plane z = 1 of the view's camera


@dataclass(frozen=True, eq=False)
class Points:
    """Triangulated points, and the observations that agree with them."""

    xyz: np.ndarray  # [P, 3] float64
    observation: np.ndarray  # [O] int64, rows of the given observations, sorted by point and view
    point: np.ndarray  # [O] int64, 0 to P - 1
    error_px: np.ndarray  # [O] float64


def triangulate(
    seen: Observations, poses_V34: np.ndarray, focal_V: np.ndarray, max_error_px: float, min_angle_deg: float
) -> Points:
    """Points of tracks on which at least two views agree to ``max_error_px`` (pixels of ``focal_V``), and whose rays
    are about ``min_angle_deg`` or more apart. Of a view's observations of a track only the best counts."""
    if not len(seen.track):
        return Points(np.zeros((0, 3)), *2 * [np.zeros(0, np.int64)], np.zeros(0))
    count = int(seen.track.max()) + 1
    R, t, f = poses_V34[seen.view, :, :3], poses_V34[seen.view, :, 3], focal_V[seen.view]
    centre = -np.einsum("oij,oi->oj", R, t)
    xyz = _intersection(seen, R, centre, count)
    for scale in _STEPS:
        xyz = xyz - _step(seen, poses_V34, focal_V, xyz, scale)
    error, in_front = _errors(seen, R, t, f, xyz)
    error = np.linalg.norm(error, axis=1)
    good = (error < max_error_px) & in_front
    order = np.lexsort((error, seen.view, seen.track))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(seen.track[order]) != 0) | (np.diff(seen.view[order]) != 0)
    good[order[~first]] = False
    wide = _cone(seen.track, centre - xyz[seen.track], good, count) > np.radians(min_angle_deg)
    kept = (np.bincount(seen.track[good], minlength=count) >= 2) & wide & np.isfinite(xyz).all(1)
    rows = np.flatnonzero(good & kept[seen.track])
    return Points(xyz[kept], rows, (np.cumsum(kept) - 1)[seen.track[rows]], error[rows])


def summed(values: np.ndarray, track: np.ndarray, count: int) -> np.ndarray:
    """Sums [count, ...] of values [O, ...] by track."""
    flat = values.reshape(len(values), -1)
    out = np.stack([np.bincount(track, column, minlength=count) for column in flat.T], 1)
    return out.reshape(count, *values.shape[1:])


def _intersection(seen: Observations, R: np.ndarray, centre: np.ndarray, count: int) -> np.ndarray:
    """The point [count, 3] nearest to all rays of a track, in the sense of least squares."""
    ray = np.concatenate([seen.ray, np.ones((len(seen.ray), 1))], 1)
    direction = np.einsum("oij,oi->oj", R, ray / np.linalg.norm(ray, axis=1, keepdims=True))
    across = np.eye(3) - direction[:, :, None] * direction[:, None]
    normal = summed(across, seen.track, count) + 1e-9 * np.eye(3)
    return np.linalg.solve(normal, summed(np.einsum("oij,oj->oi", across, centre), seen.track, count)[..., None])[
        ..., 0
    ]


def _errors(
    seen: Observations, R: np.ndarray, t: np.ndarray, f: np.ndarray, xyz: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Reprojection errors [O, 2] in px, and whether the point is in front of the camera [O]."""
    x = np.einsum("oij,oj->oi", R, xyz[seen.track]) + t
    return (x[:, :2] / np.maximum(x[:, 2:], 1e-6) - seen.ray) * f[:, None], x[:, 2] > 0


def linearised(
    seen: Observations, poses_V34: np.ndarray, focal_V: np.ndarray, xyz: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reprojection errors [O, 2] in px, their derivatives [O, 2, 3] by the point, and whether it is in front of the
    camera [O]."""
    R, t, f = poses_V34[seen.view, :, :3], poses_V34[seen.view, :, 3], focal_V[seen.view]
    error, in_front = _errors(seen, R, t, f, xyz)
    x = np.einsum("oij,oj->oi", R, xyz[seen.track]) + t
    z = np.maximum(x[:, 2], 1e-6)
    J = np.zeros((len(z), 2, 3))
    J[:, 0, 0] = J[:, 1, 1] = f / z
    J[:, :, 2] = -f[:, None] * x[:, :2] / z[:, None] ** 2
    return error, J @ R, in_front


def _step(seen: Observations, poses_V34: np.ndarray, focal_V: np.ndarray, xyz: np.ndarray, scale: float) -> np.ndarray:
    """What one Gauss-Newton step under a Cauchy loss subtracts from each point [P, 3]."""
    error, J, in_front = linearised(seen, poses_V34, focal_V, xyz)
    weight = in_front / (1 + (error**2).sum(1) / scale**2)
    count = len(xyz)
    curvature = summed(weight[:, None, None] * (J.transpose(0, 2, 1) @ J), seen.track, count)
    gradient = summed(weight[:, None] * np.einsum("oij,oi->oj", J, error), seen.track, count)
    damping = _DAMPING * np.trace(curvature, axis1=1, axis2=2) + 1e-12
    return np.linalg.solve(curvature + damping[:, None, None] * np.eye(3), gradient[..., None])[..., 0]


def _cone(track: np.ndarray, to_camera: np.ndarray, good: np.ndarray, count: int) -> np.ndarray:
    """Twice the largest angle [P] (radians) between a good ray of a point and their mean."""
    unit = to_camera / np.maximum(np.linalg.norm(to_camera, axis=1, keepdims=True), 1e-12)
    mean = summed(unit * good[:, None], track, count)
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    cosine = np.where(good, (unit * mean[track]).sum(1), 1.0)
    least = np.ones(count)
    np.minimum.at(least, track, cosine)
    return 2 * np.arccos(np.clip(least, -1, 1))
