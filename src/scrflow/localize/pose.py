"""Camera pose from scene coordinates by PoseLib (LO-RANSAC with P3P, then robust non-linear refinement), and the best
of k hypotheses about a query's global encoding: by a pose for each, or by successive halving (Karnin, Koren and Somekh,
ICML 2013), which computes only a part of each.

In every round of halving a short RANSAC tests each remaining hypothesis on the scene coordinates of a few keypoints;
the best ones go on to the next round with more keypoints.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import poselib
import torch

from scrflow.config import HalvingConfig, LandmarkLocalizeConfig, LocalizeConfig, MatchLocalizeConfig
from scrflow.core.geometry import reprojection_error
from scrflow.localize.hint import Hint
from scrflow.localize.result import Clock
from scrflow.training.head import Head

_LEAST = 20  # iterations of a RANSAC that starts from a pose or only ranks hypotheses
_LEAST_IN_FULL = 100  # of others, where the config does not say
LOSS = {"loss_type": "CAUCHY", "loss_scale": 1.0}  # of the refinement at the end of a RANSAC before our own


@dataclass(frozen=True)
class PoseEstimate:
    """A pose and its inliers."""

    cam_from_world: np.ndarray  # [3, 4]
    inliers: np.ndarray  # [N] bool


def estimate_pose(
    pixels_N2: np.ndarray,
    xyz_world_N3: np.ndarray,
    K: np.ndarray,
    config: LocalizeConfig | MatchLocalizeConfig | LandmarkLocalizeConfig,
    threshold_px: float,
    seed: int,
    before: poselib.CameraPose | None = None,
) -> PoseEstimate | None:
    """Pose from undistorted pixels [N, 2] in the image of K and scene coordinates [N, 3]; None without a consensus.
    With ``config.refine_px`` it is refined once more on its inliers, under a Cauchy loss of that scale; without, the
    refinement at the end of PoseLib's RANSAC is the last one. ``before`` is a pose to start from."""
    finite = np.isfinite(xyz_world_N3).all(1)
    if finite.sum() < 4:
        return None
    camera = poselib_camera(K)
    points2, points3 = pixels_N2[finite], xyz_world_N3[finite]
    least = getattr(config, "min_iterations", _LEAST_IN_FULL) if before is None else _LEAST
    ransac = ransac_options(threshold_px, config.iterations, least, seed)
    loss = {} if config.refine_px is None else LOSS
    pose, info = poselib.estimate_absolute_pose(points2, points3, camera, ransac, loss, before)
    if info["num_inliers"] < 4:
        return None
    if config.refine_px is not None:
        near = np.asarray(info["inliers"], bool)
        pose, _ = poselib.refine_absolute_pose(
            points2[near], points3[near], pose, camera, {"loss_type": "CAUCHY", "loss_scale": config.refine_px}
        )
    estimate = np.asarray(pose.Rt, np.float64)
    if not np.isfinite(estimate).all():
        return None
    return PoseEstimate(estimate, reprojection_error(pixels_N2, xyz_world_N3, K, estimate) < threshold_px)


@dataclass(frozen=True)
class Consensus:
    """How well correspondences agree, and the pose that they agree on, not fully refined."""

    inliers: int
    cost: float  # mean squared error, each truncated at the threshold (MSAC), in units of the squared threshold: 0 to 1
    pose: poselib.CameraPose | None


def consensus(
    pixels_N2: np.ndarray,
    xyz_world_N3: np.ndarray,
    K: np.ndarray,
    threshold_px: float,
    iterations: int,
    seed: int,
    before: poselib.CameraPose | None = None,
) -> Consensus:
    """The largest consensus that RANSAC finds, in at most half of the time of ``estimate_pose``. ``before``, a pose
    found on a part of the correspondences, lets it skip most local optimisations (6 ms instead of 17 on redkitchen)."""
    finite = np.isfinite(xyz_world_N3).all(1)
    if finite.sum() < 4:
        return Consensus(0, 1.0, None)
    ransac = ransac_options(threshold_px, iterations, _LEAST, seed)
    # the last refinement takes half of the time of a RANSAC, and does not change the number of inliers
    loss = {**LOSS, "max_iterations": 1}
    points = pixels_N2[finite], xyz_world_N3[finite]
    pose, info = poselib.estimate_absolute_pose(*points, poselib_camera(K), ransac, loss, before)
    if info["num_inliers"] == 0:
        return Consensus(0, 1.0, None)
    # PoseLib sums errors on the plane z = 1
    inside = info["model_score"] * ((K[0, 0] + K[1, 1]) / 2 / threshold_px) ** 2
    return Consensus(int(info["num_inliers"]), (inside + np.sum(~finite)) / len(finite), pose)


def poselib_camera(K: np.ndarray) -> dict[str, Any]:
    """The pinhole camera of K as PoseLib takes it."""
    return {
        "model": "PINHOLE",
        "width": int(2 * K[0, 2]) + 1,
        "height": int(2 * K[1, 2]) + 1,
        "params": [K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
    }


def ransac_options(threshold_px: float, iterations: int, at_least: int, seed: int) -> dict[str, Any]:
    """PoseLib's options of a RANSAC."""
    return {
        "max_reproj_error": threshold_px,
        "max_iterations": iterations,
        "min_iterations": min(at_least, iterations),
        "seed": seed,
    }


# rows of a pass on a CPU: the activations of a larger one (2 MB each at a width of 256) leave the cache
_CPU_ROWS = 2048

R = TypeVar("R")


class SceneCoordinates:
    """Scene coordinates of N keypoints under each of k hypotheses, computed on demand and only once. Keypoints are in
    ``order``: the first m, for any m, are spread evenly over the given order (best first)."""

    def __init__(self, head: Head, local_Nd: torch.Tensor, encodings_kD: torch.Tensor | None):
        """``local_Nd``: local encodings, on the head's device. ``encodings_kD`` None: one hypothesis, without g."""
        self.hypotheses = 1 if encodings_kD is None else len(encodings_kD)
        self.order = spread_order(len(local_Nd))
        self._head, self._local, self._encodings = head, local_Nd[self.order], encodings_kD
        self._xyz = np.empty((self.hypotheses, len(local_Nd), 3))
        self._known = np.zeros(self.hypotheses, np.int64)

    def first(self, count: int, of: np.ndarray) -> np.ndarray:
        """[h, count, 3] float64: the first ``count`` keypoints under the hypotheses ``of`` [h], of which as many must
        be known (ValueError)."""
        known = int(self._known[of[0]])
        if (self._known[of] != known).any():
            raise ValueError("these hypotheses have different numbers of known keypoints")
        if count > known:
            self._xyz[of, known:count] = self._computed(self._local[known:count], of)
            self._known[of] = count
        return self._xyz[of, :count]

    def all(self, hypothesis: int) -> np.ndarray:
        """[N, 3] float64: every keypoint under one hypothesis, in the given order."""
        xyz = np.empty_like(self._xyz[hypothesis])
        xyz[self.order] = self.first(len(self.order), np.array([hypothesis]))[0]
        return xyz

    def _computed(self, local_md: torch.Tensor, of: np.ndarray) -> np.ndarray:
        if self._encodings is None:
            rows = local_md
        else:
            g = self._encodings[torch.from_numpy(of).to(self._encodings.device)]
            rows = torch.cat([g.repeat_interleave(len(local_md), 0), local_md.repeat(len(of), 1)], 1)
        parts = rows.split(_CPU_ROWS) if rows.device.type == "cpu" else [rows]
        xyz = torch.cat([self._head(part).xyz_world for part in parts])
        return xyz.view(len(of), len(local_md), 3).cpu().double().numpy()


def spread_order(count: int) -> np.ndarray:
    """A permutation [count] whose every prefix is spread evenly: the numbers sorted by their reversed bits."""
    bits = max(count - 1, 1).bit_length()
    numbers = np.arange(count)
    backwards = sum(((numbers >> bit) & 1) << (bits - 1 - bit) for bit in range(bits))
    return np.argsort(backwards, kind="stable")


def best_pose(
    coordinates: SceneCoordinates,
    pixels_N2: np.ndarray,
    K: np.ndarray,
    config: LocalizeConfig,
    seed: int,
    clock: Clock,
    threads: int = 1,
    others: list[np.ndarray] | None = None,
    hint: Hint | None = None,
) -> tuple[int, PoseEstimate | None]:
    """The hypothesis whose pose has the most inliers (with ``config.halving``: the one that halving leaves), and its
    pose. ``threads`` hypotheses are judged at a time. ``others`` gets the rough poses [3, 4] of the first round of
    halving, the best first. Poses that ``hint`` excludes do not count."""
    left, start = np.arange(coordinates.hypotheses), None
    if config.halving is not None:
        chosen, start = best_hypothesis(
            coordinates, pixels_N2, K, config.halving, config.threshold_px, seed, clock, threads, others, hint
        )
        left = left[[chosen]]
    coordinates.first(len(pixels_N2), left)
    clock.lap("head")

    def pose(hypothesis: int) -> PoseEstimate | None:
        xyz = coordinates.all(hypothesis)
        found = estimate_pose(pixels_N2, xyz, K, config, config.threshold_px, seed, start)
        return None if found is None or (hint is not None and not hint.allows(found.cam_from_world)) else found

    estimates = _each(pose, left, threads)
    clock.lap("pose")
    best = int(np.argmax([0 if e is None else int(e.inliers.sum()) for e in estimates]))
    return int(left[best]), estimates[best]


def best_hypothesis(
    coordinates: SceneCoordinates,
    pixels_N2: np.ndarray,
    K: np.ndarray,
    config: HalvingConfig,
    threshold_px: float,
    seed: int,
    clock: Clock,
    threads: int = 1,
    others: list[np.ndarray] | None = None,
    hint: Hint | None = None,
) -> tuple[int, poselib.CameraPose | None]:
    """The hypothesis left after all rounds and its pose so far (None if there was only one hypothesis). A round drops
    hypotheses only if the best one has ``config.evidence`` inliers; otherwise it is repeated with more keypoints. Of
    equal hypotheses the one retrieved first stays. ``others`` and ``hint``: as for ``best_pose``."""
    pixels = pixels_N2[coordinates.order]
    left, keypoints = np.arange(coordinates.hypotheses), config.keypoints
    poses: list[poselib.CameraPose | None] = [None] * len(left)
    while len(left) > 1:
        keypoints = min(keypoints, len(pixels))
        xyz = coordinates.first(keypoints, left)
        clock.lap("head")

        def judged(i: int, xyz: np.ndarray = xyz, poses: list[poselib.CameraPose | None] = poses) -> Consensus:
            found = consensus(pixels[: xyz.shape[1]], xyz[i], K, threshold_px, config.iterations, seed, poses[i])
            excluded = hint is not None and found.pose is not None and not hint.allows(found.pose.Rt)
            return Consensus(0, 1.0, None) if excluded else found

        found = _each(judged, range(len(left)), threads)
        clock.lap("hypotheses")
        inliers, cost = (np.array(v) for v in zip(*((f.inliers, f.cost) for f in found), strict=True))
        if others is not None and not others:
            ranked = [found[i].pose for i in np.argsort(cost, kind="stable")]
            others += [np.asarray(pose.Rt, np.float64) for pose in ranked if pose is not None]
        kept = len(left)
        if keypoints == len(pixels):
            kept = 1
        elif inliers.max() >= config.evidence:
            kept = -(-kept // config.factor)
        best = np.sort(np.argsort(cost, kind="stable")[:kept])
        left, poses = left[best], [found[i].pose for i in best]
        keypoints *= config.factor
    return int(left[0]), poses[0]


def _each(function: Callable[[int], R], items: Iterable[int], threads: int) -> list[R]:
    if threads == 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))
