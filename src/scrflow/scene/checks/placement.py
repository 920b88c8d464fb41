"""Where the mapping cameras stand, all together: what is right one by one and still cannot be mapped."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_centre
from scrflow.scene.checks.validate import some

log = logging.getLogger("scrflow")

_ONE_PLACE = 1e-9  # of the numbers' size: rounding of float64 and of 12 printed digits
_FAR = 1e4  # times the median distance of the cameras; a survey's lone camera is some 100 times off
_OFFSET = 2e3  # times that distance. A head works in float32: positions are then rounded by 1e-4 of the scene's extent


def check_placement(names: Sequence[str], cam_from_world_V34: np.ndarray, where: str) -> None:
    """ScrflowError beginning with ``where`` when all cameras stand in one place (nothing tells a depth then), when one
    is lost far away, or when all are so far from the origin that float32 cannot hold the scene. A warning names images
    whose poses are the same."""
    centres = camera_centre(np.asarray(cam_from_world_V34, np.float64))
    middle = np.median(centres, axis=0)
    distance = np.linalg.norm(centres - middle, axis=1)
    offset = float(np.linalg.norm(middle))
    moved = distance > _ONE_PLACE * offset
    if not moved.any():
        raise ScrflowError(
            f"{where}: all {len(centres)} mapping cameras stand in one place, so no depth can be learnt; are their "
            "translations missing? Otherwise add photos taken some steps aside"
        )
    extent = float(np.median(distance[moved]))
    far = [names[i] for i in np.flatnonzero(distance > _FAR * extent)]
    if far:
        raise ScrflowError(
            f"{where}: camera of {some(far)} is {distance.max():.3g} from the others, which are {extent:.3g} apart "
            "(median); mend its pose or take the image off the list"
        )
    if offset > _OFFSET * extent:
        raise ScrflowError(
            f"{where}: the cameras stand {offset:.3g} from the origin and {extent:.3g} from each other (median); "
            "single precision cannot hold that: subtract one offset from all positions (geographic coordinates?)"
        )
    _tell_repeats(names, np.asarray(cam_from_world_V34), where)


def _tell_repeats(names: Sequence[str], poses_V34: np.ndarray, where: str) -> None:
    _, first, of = np.unique(poses_V34.reshape(len(poses_V34), -1), axis=0, return_index=True, return_inverse=True)
    repeats = [names[i] for i in np.flatnonzero(first[of.ravel()] != np.arange(len(names)))]
    if repeats:
        log.warning(
            "%s: %d mapping images have the pose of another one to the last digit: %s; is a line copied?",
            where,
            len(repeats),
            some(repeats),
        )
