"""Whether a camera moved between photos or only turned: how well a rotation alone explains their matches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# of the longer side. Measured: views that a turn makes have 0.001 at most; of redkitchen, fox, South Building and
# Herz-Jesus no photo has less than 0.003 to all of its neighbours
LEAST_PARALLAX = 0.002
_FOCAL_SIDES = np.geomspace(0.4, 2.5, 9)  # focal length / longer side
_ROUNDS = 6  # of the reweighted fit
_NOISE = 6e-4  # of the longer side: smaller residuals weigh equally
Pair = tuple[
    np.ndarray, np.ndarray
]  # matching points [M, 2] of two photos, from the image centre, over the longer side


def rotation_residuals(pairs: Sequence[Pair]) -> np.ndarray:
    """[P] median distance of the matches from the rotation that fits them best, over the longer side, all pairs with
    the one focal length that suits them best. Nothing is known of the lens."""
    if not pairs:
        return np.zeros(0)
    errors = np.array([[_residual(x, y, focal) for focal in _FOCAL_SIDES] for x, y in pairs])
    return errors[:, errors.mean(0).argmin()]


def _residual(x_M2: np.ndarray, y_M2: np.ndarray, focal: float) -> float:
    """Of the rotation with the least sum of distances (Kabsch, iteratively reweighted)."""
    p, q = (np.column_stack([points, np.full(len(points), focal)]) for points in (x_M2, y_M2))
    p, q = (rays / np.linalg.norm(rays, axis=1, keepdims=True) for rays in (p, q))
    weights, error = np.ones(len(p)), np.zeros(len(p))
    for _ in range(_ROUNDS):
        u, _, vt = np.linalg.svd((q * weights[:, None]).T @ p)
        R = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
        error = np.linalg.norm(q - p @ R.T, axis=1) * focal
        weights = 1 / np.maximum(error, _NOISE)
    return float(np.median(error))
