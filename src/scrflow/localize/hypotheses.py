"""The best of k hypotheses about a query's global encoding: by a pose for each, or by successive halving (Karnin, Koren
and Somekh, ICML 2013), which computes only a part of each.

In every round of halving a short RANSAC tests each remaining hypothesis on the scene coordinates of a few keypoints;
the best ones go on to the next round with more keypoints. Scene coordinates of earlier rounds are kept, so each
keypoint passes the head at most once for each hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import poselib
import torch

from scrflow.config import HalvingConfig, LocalizeConfig
from scrflow.localize.pose import Consensus, PoseEstimate, consensus, estimate_pose
from scrflow.localize.result import Clock
from scrflow.training.head import Head

# rows of a pass on a CPU: the activations of a larger one (2 MB each at a width of 256) leave the cache, and are so
# large that the allocator returns their pages and the system clears them again for each layer
_CPU_ROWS = 2048

R = TypeVar("R")


class SceneCoordinates:
    """Scene coordinates of N keypoints under each of k hypotheses, computed on demand and only once.

    Keypoints are in ``order``: the first m of them, for any m, are spread evenly over the given order (best first), so
    they contain good and poor ones in the same shares.
    """

    def __init__(self, head: Head, local_Nd: torch.Tensor, encodings_kD: torch.Tensor | None):
        """``local_Nd``: local encodings, on the head's device. ``encodings_kD`` None: one hypothesis, without g."""
        self.hypotheses = 1 if encodings_kD is None else len(encodings_kD)
        self.order = spread_order(len(local_Nd))
        self._head, self._local, self._encodings = head, local_Nd[self.order], encodings_kD
        self._xyz = np.empty((self.hypotheses, len(local_Nd), 3))
        self._known = np.zeros(self.hypotheses, np.int64)

    def first(self, count: int, of: np.ndarray) -> np.ndarray:
        """[h, count, 3] float64: the first ``count`` keypoints under the hypotheses ``of`` [h].

        ValueError if different numbers of keypoints are known of these hypotheses: they are computed in one pass.
        """
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
        return xyz.view(len(of), len(local_md), 3).double().cpu().numpy()


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
) -> tuple[int, PoseEstimate | None]:
    """The hypothesis whose pose has the most inliers (with ``config.halving``: the one that halving leaves), and its
    pose. ``threads`` hypotheses are judged at a time."""
    left, start = np.arange(coordinates.hypotheses), None
    if config.halving is not None:
        chosen, start = best_hypothesis(
            coordinates, pixels_N2, K, config.halving, config.threshold_px, seed, clock, threads
        )
        left = left[[chosen]]
    coordinates.first(len(pixels_N2), left)
    clock.lap("head")

    def pose(hypothesis: int) -> PoseEstimate | None:
        xyz = coordinates.all(hypothesis)
        return estimate_pose(pixels_N2, xyz, K, config, config.threshold_px, seed, start)

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
) -> tuple[int, poselib.CameraPose | None]:
    """The hypothesis left after all rounds and its pose so far (None if there was only one hypothesis); ``pixels_N2``
    are those of the keypoints in the given order.

    A round drops hypotheses only if the best one has ``config.evidence`` inliers; otherwise it is repeated with more
    keypoints, in the end with all. Of equal hypotheses the one retrieved first stays.
    """
    pixels = pixels_N2[coordinates.order]
    left, keypoints = np.arange(coordinates.hypotheses), config.keypoints
    poses: list[poselib.CameraPose | None] = [None] * len(left)
    while len(left) > 1:
        keypoints = min(keypoints, len(pixels))
        xyz = coordinates.first(keypoints, left)
        clock.lap("head")

        def judged(i: int, xyz: np.ndarray = xyz, poses: list[poselib.CameraPose | None] = poses) -> Consensus:
            return consensus(pixels[: xyz.shape[1]], xyz[i], K, threshold_px, config.iterations, seed, poses[i])

        found = _each(judged, range(len(left)), threads)
        clock.lap("hypotheses")
        inliers, cost = (np.array(v) for v in zip(*((f.inliers, f.cost) for f in found), strict=True))
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
    """``function`` of each item, ``threads`` at a time."""
    if threads == 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))
