"""Where a photo was taken, roughly: a position within a radius, and perhaps a viewing direction within an angle.

Only photos and landmarks that can matter are tried, and poses outside the hint do not count: a query is quicker, and
places that look alike are told apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_centre
from scrflow.landmarks.codes import Landmarks
from scrflow.map.views import Views

_HOW = "'X Y Z RADIUS', with a viewing direction 'X Y Z RADIUS DX DY DZ DEGREES', in the map's frame and unit"
# photos that look further apart seldom see the same
_OVERLAP_DEG = 60.0
# On demo, fox, redkitchen and southbuilding at least 99.8 % of the inliers pass: landmarks within _REACH times the
# distance at which mapping photos near the hint see landmarks, and seen from within _TURN_DEG of their first photo.
_REACH, _TURN_DEG, _NEAREST = 1.5, 120.0, 10


@dataclass(frozen=True)
class Hint:
    """In the map's frame and unit. The true camera is within ``radius`` of ``position`` [3] and, if ``direction`` [3]
    (unit) is known, looks within ``angle_deg`` of it."""

    position: np.ndarray
    radius: float
    direction: np.ndarray | None = None
    angle_deg: float = 180.0

    def allows(self, cam_from_world: np.ndarray) -> bool:
        """Whether a pose [3, 4] agrees with the hint."""
        if np.linalg.norm(camera_centre(np.asarray(cam_from_world)) - self.position) > self.radius:
            return False
        return self.direction is None or _angle(cam_from_world[2, :3], self.direction) <= self.angle_deg

    def photos(self, views: Views, least: int) -> np.ndarray:
        """Rows of the mapping photos within the radius, at least the ``least`` nearest ones, that look in the
        direction; the nearest first."""
        distance = np.linalg.norm(views.centre - self.position, axis=1)
        if self.direction is not None:
            distance[_angle(views.direction, self.direction) > self.angle_deg + _OVERLAP_DEG] = np.inf
        order = np.argsort(distance, kind="stable")[: max(least, int((distance <= self.radius).sum()))]
        return order[np.isfinite(distance[order])]

    def landmarks(self, landmarks: Landmarks, views: Views | None, K: np.ndarray) -> np.ndarray:
        """Rows of the landmarks that a photo with intrinsics ``K`` may show."""
        away = landmarks.xyz - self.position
        distance = np.linalg.norm(away, axis=1)
        with np.errstate(divide="ignore"):  # by how much the radius changes the direction to a landmark, degrees
            slack = np.degrees(np.arcsin(np.minimum(1.0, self.radius / distance)))
        slack[distance <= self.radius] = 180.0
        good = np.ones(len(distance), bool)
        if self.direction is not None:
            half_view = np.degrees(np.arctan(np.hypot(K[0, 2] / K[0, 0], K[1, 2] / K[1, 1])))
            good &= _angle(away, self.direction) <= self.angle_deg + half_view + slack
        if views is not None:
            near = np.argsort(np.linalg.norm(views.centre - self.position, axis=1))[:_NEAREST]
            good &= distance - self.radius <= _REACH * views.reach[near].max()
            good &= _angle(views.centre[landmarks.image] - landmarks.xyz, -away) <= _TURN_DEG + slack
        return np.flatnonzero(good)


HintLike: TypeAlias = Hint | str | Sequence[float]


def hint_of(hint: HintLike | None, where: str = "hint") -> Hint | None:
    """The hint in any of its forms: text or numbers are X Y Z RADIUS, or X Y Z RADIUS DX DY DZ DEGREES. A ScrflowError
    that begins with ``where`` for anything else."""
    if hint is None or isinstance(hint, Hint):
        return hint
    fields = hint.split() if isinstance(hint, str) else list(hint)
    try:
        numbers = np.array([float(field) for field in fields])
    except ValueError:
        numbers = np.zeros(0)
    if len(numbers) not in (4, 8) or not np.isfinite(numbers).all() or numbers[3] <= 0:
        raise ScrflowError(f"{where}: {' '.join(map(str, fields))[:200]!r} is no hint; give {_HOW}")
    if len(numbers) == 4:
        return Hint(numbers[:3], float(numbers[3]))
    length = float(np.linalg.norm(numbers[4:7]))
    if length == 0 or not 0 < numbers[7] <= 180:
        raise ScrflowError(f"{where}: a direction of length {length:g} within {numbers[7]:g} degrees; give {_HOW}")
    return Hint(numbers[:3], float(numbers[3]), numbers[4:7] / length, float(numbers[7]))


def _angle(vectors: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Degrees between vectors [..., 3]."""
    lengths = np.linalg.norm(vectors, axis=-1) * np.linalg.norm(other, axis=-1)
    return np.degrees(np.arccos(np.clip((vectors * other).sum(-1) / np.maximum(lengths, 1e-300), -1, 1)))
