"""Depths of a model's 3D points in its photos, from which a scene's ``depth_range`` is measured."""

from __future__ import annotations

import math

import numpy as np
import pycolmap

IMAGES = 200  # this many, evenly chosen, are enough
_SHARES = (0.01, 0.99)  # quantiles; beyond are wrong matches and the sky
_LEAST = 50  # observations


def observed_depths(model: pycolmap.Reconstruction, images: int | None = None) -> np.ndarray:
    """Depths [M] of the observations in all images, or in ``images`` evenly chosen ones; negative behind the camera."""
    ids = sorted(model.reg_image_ids()) if images else model.reg_image_ids()
    depths = [np.zeros(0)]
    for image_id in ids[:: max(1, len(ids) // images)] if images else ids:
        image = model.image(image_id)
        seen = [p.point3D_id for p in image.points2D if p.has_point3D()]
        if seen:
            pose = image.cam_from_world().matrix()
            depths.append(np.array([model.point3D(i).xyz for i in seen]) @ pose[2, :3] + pose[2, 3])
    return np.concatenate(depths)


def measured_range(depths: np.ndarray) -> tuple[float, float] | None:
    """(near, far) that hold 98 % of the depths, to two digits outwards; None where there are too few."""
    depths = depths[depths > 0]
    if len(depths) < _LEAST:
        return None
    near, far = np.quantile(depths, _SHARES)
    return _outwards(near, math.floor), _outwards(far, math.ceil)


def _outwards(value: float, rounded) -> float:
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{rounded(value / step) * step:.2g}")


def doubt(given: tuple[float, float], depths: np.ndarray) -> str | None:
    """Why a given range does not fit the points: many lie outside it, or it ends far beyond them. None if it fits."""
    measured = measured_range(depths)
    if measured is None:
        return None
    depths = depths[depths > 0]
    outside = float(((depths < given[0]) | (depths > given[1])).mean())
    if outside <= 0.2 and given[1] <= 10 * measured[1]:
        return None
    return (
        f"depth_range {given[0]:g} to {given[1]:g} leaves out {outside:.0%} of the depths of the 3D points, of which "
        f"98 % lie from {measured[0]:g} to {measured[1]:g}; correct the key, or leave it out and it is measured"
    )
