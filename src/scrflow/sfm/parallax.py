"""Whether a camera moved between photos or only turned: how well a rotation alone explains their matches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# share of the longer side. Rotated views have 0.001 at most; every photo of redkitchen, fox, South Building and
# Herz-Jesus has 0.003 or more to one of its neighbours
LEAST_PARALLAX = 0.002
_FOCAL_SIDES = np.geomspace(0.4, 2.5, 9)  # focal length / longer side
_ROUNDS = 6  # of the reweighted fit
_NOISE = 6e-4  # of the longer side: smaller residuals weigh equally
Pair = tuple[
    np.ndarray, np.ndarray
]  # matching points [M, 2] of two photos, from the image centre, over the longer side


def rotation_residuals(pairs: Sequence[Pair]) -> np.ndarray:
    """Median residual [P] of each pair's matches under its best rotation, as a share of the longer side. The focal
    length is unknown: all pairs share the one that fits them best."""
    if not pairs:
        return np.zeros(0)
    errors = np.array([[_residual(x, y, focal) for focal in _FOCAL_SIDES] for x, y in pairs])
    return errors[:, errors.mean(0).argmin()]


def _residual(x_M2: np.ndarray, y_M2: np.ndarray, focal: float) -> float:
    """Median residual of the rotation with the least sum of residuals (Kabsch, iteratively reweighted)."""
    p, q = (np.column_stack([points, np.full(len(points), focal)]) for points in (x_M2, y_M2))
    p, q = (rays / np.linalg.norm(rays, axis=1, keepdims=True) for rays in (p, q))
    weights, error = np.ones(len(p)), np.zeros(len(p))
    for _ in range(_ROUNDS):
        u, _, vt = np.linalg.svd((q * weights[:, None]).T @ p)
        R = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
        error = np.linalg.norm(q - p @ R.T, axis=1) * focal
        weights = 1 / np.maximum(error, _NOISE)
    return float(np.median(error))
