"""Positions and cameras in a line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from scrflow.cli.inspection.layout import number


def box(points_N3: np.ndarray) -> str:
    """Extent of points along each axis."""
    low, high = points_N3.min(0), points_N3.max(0)
    return ", ".join(f"{axis} {number(a)} to {number(b)}" for axis, a, b in zip("xyz", low, high, strict=True))


def cameras_of(cameras: Iterable[Any]) -> str:
    """How many there are of each model and size."""
    counts: dict[str, int] = {}
    for c in cameras:
        key = f"{c.model.name} {c.width}x{c.height}"
        counts[key] = counts.get(key, 0) + 1
    return ", ".join(f"{n} {key}" for key, n in sorted(counts.items()))
