"""Poses that hloc's localization wrote: lines ``name qw qx qy qz tx ty tz``, cam_from_world, as ours.

hloc writes the last part of an image's name alone, or with ``prepend_camera_name`` the last two, as the benchmark of
visuallocalization.net wants them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pose_error
from scrflow.scene.lists import read_poses
from scrflow.scene.model import load_scene


def read_results(path: Path, queries: Iterable[str]) -> dict[str, np.ndarray]:
    """cam_from_world [3, 4] by the full name of each query that the file has a line of.

    ScrflowError for a damaged line, and for a name that is none of the ``queries``' or ends several of them.
    """
    ends: dict[str, list[str]] = {}
    for name in queries:
        parts = PurePosixPath(name).parts
        for end in {"/".join(parts[-count:]) for count in (1, 2, len(parts))}:
            ends.setdefault(end, []).append(name)
    found = {}
    for name, pose in read_poses(path).items():
        meant = ends.get(name, [])
        if len(meant) != 1:
            what = "no query" if not meant else f"the end of {len(meant)} queries, first {meant[0]}"
            raise ScrflowError(f"{path}: {name} is {what}; write the names of the scene's query list")
        found[meant[0]] = pose
    return found


def recall_of_results(
    path: Path, scene: Path, thresholds: tuple[tuple[float, float], ...]
) -> tuple[list[float], tuple[float, float], int]:
    """Of a file of results: the share of the scene's queries with a reference pose that are within each threshold
    (scene unit, degrees), the median errors (infinite where half have no pose), and the number of those queries.

    ScrflowError where no query has a reference pose.
    """
    loaded = load_scene(scene)
    if not loaded.query_poses:
        raise ScrflowError(f"{scene}: no query has a reference pose, so there is nothing to compare with")
    found = read_results(path, [q.name for q in loaded.queries])
    errors = np.array(
        [
            pose_error(found[name], truth) if name in found else (np.inf, np.inf)
            for name, truth in loaded.query_poses.items()
        ]
    )
    recall = [float(((errors[:, 0] < t) & (errors[:, 1] < r)).mean()) for t, r in thresholds]
    median_t, median_r = np.median(errors, axis=0)
    return recall, (float(median_t), float(median_r)), len(errors)
