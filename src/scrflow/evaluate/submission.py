"""Poses as visuallocalization.net takes them, written to ``results/SCENE/poses.txt``, and as hloc writes them, read.

The benchmark takes lines ``name qw qx qy qz tx ty tz`` (cam_from_world) of all conditions in one file, for Aachen with
the name alone, without its folders (``pose_names: basename``). A query that was not localized has no line, as from the
benchmark's own pipeline (tsattler/visuallocalizationbenchmark, local_feature_evaluation).
"""

import posixpath
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from scrflow.config import SubmissionStage
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pose_error
from scrflow.core.progress import log
from scrflow.scene.checks import some
from scrflow.scene.lists import read_numbers, read_poses
from scrflow.scene.model import load_scene
from scrflow.storage.artifact import read_json, read_stamp, require, sha256_file, write_text
from scrflow.storage.listfile import listed, read_lines, split_name

_UNIT = 1e-6  # poses.txt has 9 digits


def write_submission(config: SubmissionStage, scene: Path, poses: Path, metrics: Path, out: Path) -> None:
    """Write ``poses`` of the scene artifact's queries to ``out``, names as ``config.pose_names`` says.

    Every query must have exactly one line in ``poses`` or be listed as not localized in ``metrics``; each line has 8
    fields, finite numbers and a unit quaternion; no two queries may end up with one name. ScrflowError otherwise.
    """
    info = scene / "scene.json"
    conditions: dict[str, str] = read_json(info, "scene")["conditions"]
    if sha256_file(require(poses, "poses"))[:16] != read_stamp(metrics, "metrics").inputs.get("poses"):
        raise ScrflowError(f"{poses}: not the poses that {metrics} is of; delete both and localize again")
    localized = set(conditions) - set(read_json(metrics, "metrics")["queries_without_pose"])
    lines = _checked_lines(poses)
    odd = sorted(localized ^ set(lines))
    if odd:
        what = (
            f"{some(odd)} has a line or is localized by {metrics}, not both ({len(odd)} of {len(conditions)} queries)"
        )
        raise ScrflowError(f"{poses}: {what}; localize again")
    written = {name: name if config.pose_names == "path" else posixpath.basename(name) for name in conditions}
    double = sorted(name for name, count in Counter(written.values()).items() if count > 1)
    if double:
        same = sorted(name for name in written if written[name] == double[0])
        what = f"{same[0]} and {same[1]} both are {double[0]!r} by key pose_names: basename"
        raise ScrflowError(f"{info}: {what}; use pose_names: path")
    write_text(out, "".join(f"{' '.join([listed(written[name]), *fields])}\n" for name, fields in lines.items()))
    for condition, count in sorted(Counter(conditions.values()).items()):
        found = sum(conditions[name] == condition for name in lines)
        log.info("%s: %d of %d queries (%s) have a pose", out, found, count, condition)


def _checked_lines(path: Path) -> dict[str, list[str]]:
    """Query -> its seven numbers as written, in the file's order."""
    for where, values in read_numbers(path, "qw qx qy qz tx ty tz").values():
        if abs(np.linalg.norm(values[:4]) - 1) > _UNIT:
            raise ScrflowError(f"{where}: quaternion is not of length 1; localize again")
    return dict(split_name(line) for _, line in read_lines(path))


def read_results(path: Path, queries: Iterable[str]) -> dict[str, np.ndarray]:
    """cam_from_world [3, 4] by the full name of each query in a file of hloc's localization, which has the last part of
    a name alone, or with ``prepend_camera_name`` the last two.

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
    lost = (np.inf, np.inf)
    truths = loaded.query_poses.items()
    errors = np.array([pose_error(found[name], truth) if name in found else lost for name, truth in truths])
    recall = [float(((errors[:, 0] < t) & (errors[:, 1] < r)).mean()) for t, r in thresholds]
    median_t, median_r = np.median(errors, axis=0)
    return recall, (float(median_t), float(median_r)), len(errors)
