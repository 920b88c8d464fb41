"""What 7-Scenes and 12-Scenes share: folders of RGB-D frames, each with its pose in a file of its own, and lists of
alternative poses (Brachmann et al., ICCV 2021)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import invert_pose
from scrflow.scene.checks.validate import checked_pose, some
from scrflow.scene.readers.poselist import read_pose_list

log = logging.getLogger("scrflow")

# infinity and not-a-number as Microsoft's C library writes them
_NOT_FINITE = ("#inf", "#ind", "#qnan", "#snan")


def read_lists(paths: Sequence[Path], where_from: str) -> dict[str, tuple[np.ndarray, float]]:
    """name -> (cam_from_world [3, 4], focal length in px) of several pose lists; ScrflowError, saying ``where_from``
    they are to be had, for one that is missing."""
    out: dict[str, tuple[np.ndarray, float]] = {}
    for path in paths:
        if not path.is_file():
            raise ScrflowError(f"{path}: pose list is missing; {where_from}, or mend key source.lists")
        poses = read_pose_list(path)
        double = sorted(set(poses) & set(out))
        if double:
            raise ScrflowError(f"{path}: {some(double)} also in another of {', '.join(map(str, paths))}; remove one")
        out |= poses
    return out


def read_frame_pose(path: Path) -> np.ndarray | None:
    """cam_from_world [3, 4] of a file with the 4x4 matrix of world_from_cam; None where tracking was lost (numbers that
    are not finite). ScrflowError for anything else than 16 numbers, or no rotation."""
    try:
        fields = path.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        raise ScrflowError(f"{path}: pose is missing; unpack the dataset again") from None
    except (UnicodeDecodeError, OSError) as error:
        raise ScrflowError(f"{path}: cannot be read as text ({error})") from None
    try:
        values = np.array([np.nan if any(n in f.lower() for n in _NOT_FINITE) else float(f) for f in fields])
    except ValueError as error:
        raise ScrflowError(f"{path}: expected numbers ({error}); unpack the dataset again") from None
    if values.size != 16:
        raise ScrflowError(f"{path}: {values.size} numbers, expected the 16 of a 4x4 matrix; unpack the dataset again")
    if not np.isfinite(values).all():
        return None
    return invert_pose(checked_pose(values.reshape(4, 4), str(path)))


def report_left_out(where: Path, reason: str, kinds: Mapping[str, Sequence[str]], total: int) -> None:
    """Warn of frames (kind -> names) without which the scene goes on."""
    for kind, names in kinds.items():
        if names:
            log.warning("%s: %d %s of %d frames left out, %s: %s", where, len(names), kind, total, reason, some(names))
