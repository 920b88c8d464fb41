"""Which of k hypotheses about a query's global encoding is right, without computing all of it for each: successive
halving (Karnin, Koren and Somekh, ICML 2013).

In a round, every hypothesis left has its scene coordinates of a few keypoints tested by a short RANSAC; the best ones
go on to the next round with more keypoints. The scene coordinates of earlier rounds are kept, so a keypoint passes the
head once for each hypothesis at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import poselib
import torch

from scrflow.config import HalvingConfig
from scrflow.localize.pose import Consensus, consensus
from scrflow.training.head import Head

# rows of a pass on a CPU: the activations of a larger one (2 MB each at a width of 256) leave the cache, and are big
# enough that the allocator gives their pages back and has them cleared anew layer by layer
_CPU_ROWS = 2048

Map = Callable[[Callable[[int], Consensus], Iterable[int]], Iterable[Consensus]]


class SceneCoordinates:
    """Scene coordinates of N keypoints under each of k hypotheses, computed when they are asked for, and once.

    Keypoints come in ``order``, in which the first m, whatever m is, are spread evenly over the order they were given
    in (best first): good and poor ones, in the share in which they occur.
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

        These must have come equally far before: they have, when each round's are among those of the round before.
        """
        known = int(self._known[of[0]])
        if (self._known[of] != known).any():
            raise ValueError("hypotheses that have come equally far are computed together")
        if count > known:
            self._xyz[of, known:count] = self._computed(self._local[known:count], of)
            self._known[of] = count
        return self._xyz[of, :count]

    def all(self, hypothesis: int) -> np.ndarray:
        """[N, 3] float64: every keypoint under one hypothesis, in the order in which they were given."""
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
    """A permutation [count] of which every beginning is spread evenly: the numbers by their bits read backwards."""
    bits = max(count - 1, 1).bit_length()
    numbers = np.arange(count)
    backwards = sum(((numbers >> bit) & 1) << (bits - 1 - bit) for bit in range(bits))
    return np.argsort(backwards, kind="stable")


def best_hypothesis(
    coordinates: SceneCoordinates,
    pixels_N2: np.ndarray,
    K: np.ndarray,
    config: HalvingConfig,
    threshold_px: float,
    seed: int,
    map_: Map = map,
) -> tuple[int, poselib.CameraPose | None]:
    """The hypothesis that is left after the rounds, and its pose as far as it is known (None where there was nothing to
    choose from); ``pixels_N2`` belong to the keypoints as they were given.

    Nobody is dropped on less evidence than ``config.evidence`` inliers of the best: a round that ends with fewer is
    repeated with more keypoints, in the end with all. Of equal hypotheses the one retrieved first stays. ``map_``
    applies a function to numbers, in threads, say.
    """
    pixels = pixels_N2[coordinates.order]
    left, keypoints = np.arange(coordinates.hypotheses), config.keypoints
    poses: list[poselib.CameraPose | None] = [None] * len(left)
    while len(left) > 1:
        keypoints = min(keypoints, len(pixels))
        xyz = coordinates.first(keypoints, left)

        def judged(i: int, xyz: np.ndarray = xyz, poses: list[poselib.CameraPose | None] = poses) -> Consensus:
            return consensus(pixels[: xyz.shape[1]], xyz[i], K, threshold_px, config.iterations, seed, poses[i])

        found = list(map_(judged, range(len(left))))
        inliers, cost = (np.array(v) for v in zip(*((f.inliers, f.cost) for f in found), strict=True))
        last, kept = keypoints == len(pixels), len(left)
        if last:
            kept = 1
        elif inliers.max() >= config.evidence:
            kept = -(-kept // config.factor)
        best = np.sort(np.argsort(cost, kind="stable")[:kept])
        left, poses = left[best], [found[i].pose for i in best]
        keypoints *= config.factor
    return int(left[0]), poses[0]
