"""The confidence of a pose: a calibrated probability that it is within a threshold (distance, angle) of the truth.

The evidence means the same in every scene: how many keypoints agree, what share of all, and the uncertainty of the pose
in units of the threshold. Errors of neighbouring scene coordinates are correlated, which the covariance s^2 (J^T J)^-1
ignores; so gradients are summed by blocks of the image, and their disagreement is added (the cluster-robust "sandwich"
covariance: Liang and Zeger, Biometrika 1986).

The probability is the product of two logistic terms: whether the consensus is not one of chance, and whether it is
precise enough. The coefficients and their provenance are in confidence.json; benchmarks/confidence.py fits them.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scrflow.core.geometry import camera_points

FEATURES = ("log_inliers", "logit_share", "log_room")  # is it a consensus (two), is it precise enough (one)?
ALIKE = 0.7  # cosine of a keypoint and its landmark: of those that lie near by chance, 3 % have more
_BLOCKS = 4  # the image is divided into 4 x 4
_ROOM = 5.0  # log(threshold / sigma) is clipped to +-5


@dataclass(frozen=True)
class ConfidenceModel:
    """Two logistic terms on standardised features z = (x - mean) / scale; their product is the probability."""

    bias: np.ndarray  # [2], of the two terms
    weights: np.ndarray  # [F]
    mean: np.ndarray  # [F]
    scale: np.ndarray  # [F]

    def probability(self, features: np.ndarray) -> np.ndarray:
        """Probabilities [...] of FEATURES [..., F]."""
        parts = (features - self.mean) / self.scale * self.weights
        logits = np.stack([parts[..., :2].sum(-1), parts[..., 2]], -1) + self.bias
        return (1 / (1 + np.exp(-np.clip(logits, -30, 30)))).prod(-1)


def confidence_of(
    pixels_N2: np.ndarray,
    xyz_world_N3: np.ndarray,
    inliers_N: np.ndarray,
    K: np.ndarray,
    cam_from_world: np.ndarray | None,
    within: tuple[float, float],
    kind: str = "head",
) -> float:
    """Probability that the pose is within ``within`` = (distance in the scene's unit, degrees) of the true one; 0
    without a pose. Fitted mostly at the scenes' finest thresholds; heads are too careful for wider ones.
    ``pixels_N2`` are undistorted, in the image of ``K``; ``inliers_N`` (bool) are those that agree with the pose;
    ``kind`` of pose: ``head`` or ``landmarks``."""
    if cam_from_world is None:
        return 0.0
    features = evidence(pixels_N2, xyz_world_N3, inliers_N, K, cam_from_world, within)
    return float(shipped_model(kind).probability(features))


def evidence(
    pixels_N2: np.ndarray,
    xyz_world_N3: np.ndarray,
    inliers_N: np.ndarray,
    K: np.ndarray,
    cam_from_world: np.ndarray,
    within: tuple[float, float],
) -> np.ndarray:
    """FEATURES [F] of a pose, all finite; arguments as for ``confidence_of``."""
    inside = np.asarray(inliers_N, bool)
    count = int(inside.sum())
    share = np.clip(count / max(len(inside), 1), 1e-3, 1 - 1e-3)
    residuals, jacobians = linearised(pixels_N2[inside], xyz_world_N3[inside], K, cam_from_world)
    spread = pose_spread(residuals, jacobians, image_blocks(pixels_N2)[inside])
    with np.errstate(divide="ignore"):
        room = np.log(np.divide(within, spread)).min()
    return np.array([np.log(max(count, 1)), np.log(share / (1 - share)), np.clip(room, -_ROOM, _ROOM)])


def linearised(
    pixels_N2: np.ndarray, xyz_world_N3: np.ndarray, K: np.ndarray, cam_from_world: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Residuals [N, 2] (px) and their derivatives [N, 2, 6] by a motion of the camera's frame: 3 of translation (in its
    axes), 3 of rotation. Points must be in front of the camera."""
    x, y, z = camera_points(xyz_world_N3, cam_from_world).T
    fx, fy = K[0, 0], K[1, 1]
    residuals = np.stack([fx * x / z + K[0, 2], fy * y / z + K[1, 2]], 1) - pixels_N2
    zero = np.zeros_like(z)
    by_point = np.stack(
        [np.stack([fx / z, zero, -fx * x / z**2], 1), np.stack([zero, fy / z, -fy * y / z**2], 1)], 1
    )  # [N, 2, 3]
    turn = np.stack(
        [np.stack([zero, z, -y], 1), np.stack([-z, zero, x], 1), np.stack([y, -x, zero], 1)], 1
    )  # [N, 3, 3]: -[p]x
    return residuals, np.concatenate([by_point, by_point @ turn], 2)


def focal_motion(
    pixels_N2: np.ndarray,
    xyz_world_N3: np.ndarray,
    inliers_N: np.ndarray,
    K: np.ndarray,
    cam_from_world: np.ndarray,
    focal_spread: float,
) -> np.ndarray:
    """The motion [6] of the camera's frame (see ``linearised``) that an error of an estimated focal length causes, of
    one standard deviation ``focal_spread`` of its logarithm."""
    pixels = pixels_N2[inliers_N]
    residuals, jacobians = linearised(pixels, xyz_world_N3[inliers_N], K, cam_from_world)
    by_focal = residuals + pixels - K[:2, 2]
    return np.linalg.lstsq(jacobians.reshape(-1, 6), -focal_spread * by_focal.ravel())[0]


def share_within(motion_6: np.ndarray, within: tuple[float, float]) -> float:
    """Probability that a normal error along ``motion_6``, its standard deviation, is within (distance, degrees)."""
    lengths = np.linalg.norm(motion_6[:3]), np.degrees(np.linalg.norm(motion_6[3:]))
    room = min(limit / max(length, 1e-12) for limit, length in zip(within, lengths, strict=True))
    return math.erf(room / math.sqrt(2))


def image_blocks(pixels_N2: np.ndarray) -> np.ndarray:
    """The block [N] of each pixel; the blocks divide the rectangle that the pixels fill."""
    if len(pixels_N2) == 0:
        return np.zeros(0, np.int64)
    low, high = pixels_N2.min(0), pixels_N2.max(0)
    cell = np.floor(_BLOCKS * (pixels_N2 - low) / np.maximum(high - low, 1e-9)).astype(np.int64)
    cell = np.minimum(cell, _BLOCKS - 1)
    return cell[:, 1] * _BLOCKS + cell[:, 0]


def pose_spread(residuals_N2: np.ndarray, jacobians_N26: np.ndarray, blocks_N: np.ndarray) -> tuple[float, float]:
    """Standard deviations of the centre (scene units) and of the rotation (degrees), from linearised inliers; infinite
    if they do not fix the pose."""
    covariance = pose_covariance(residuals_N2, jacobians_N26, blocks_N)
    if covariance is None:
        return np.inf, np.inf
    variances = np.diag(covariance)
    return float(np.sqrt(variances[:3].sum())), float(np.degrees(np.sqrt(variances[3:].sum())))


def pose_covariance(residuals_N2: np.ndarray, jacobians_N26: np.ndarray, blocks_N: np.ndarray) -> np.ndarray | None:
    """Covariance [6, 6] of a motion of the camera's frame (see ``linearised``; scene units, radians), from inliers
    under a Cauchy loss; None if they do not fix the pose."""
    if len(residuals_N2) < 4:
        return None
    lengths = np.linalg.norm(residuals_N2, axis=1)
    sigma = max(float(np.median(lengths)) / 1.1774, 1e-6)  # of one coordinate: the median of a Rayleigh distribution
    weights = 1 / (1 + (lengths / (2.3849 * sigma)) ** 2)  # 95 % efficient on Gaussian residuals
    hessian = np.einsum("n,nij,nik->jk", weights, jacobians_N26, jacobians_N26)
    gradients = np.einsum("n,nij,ni->nj", weights, jacobians_N26, residuals_N2)
    by_block = np.zeros((_BLOCKS**2, 6))
    np.add.at(by_block, blocks_N, gradients)
    by_block = by_block[np.bincount(blocks_N, minlength=len(by_block)) > 0]
    try:
        inverse = np.linalg.inv(hessian)
    except np.linalg.LinAlgError:
        return None
    covariance = sigma**2 * inverse
    if len(by_block) > 1:
        by_block -= by_block.mean(0)  # the refinement stops near the minimum, not at it
        meat = by_block.T @ by_block * len(by_block) / (len(by_block) - 1)
        covariance += inverse @ meat @ inverse
    variances = np.diag(covariance)
    if not (np.isfinite(variances).all() and (variances > 0).all()):
        return None
    return covariance


def covariance_of(
    pixels_N2: np.ndarray, xyz_world_N3: np.ndarray, inliers_N: np.ndarray, K: np.ndarray, cam_from_world: np.ndarray
) -> np.ndarray | None:
    """``pose_covariance`` of a pose; arguments as for ``confidence_of``."""
    residuals, jacobians = linearised(pixels_N2[inliers_N], xyz_world_N3[inliers_N], K, cam_from_world)
    return pose_covariance(residuals, jacobians, image_blocks(pixels_N2)[inliers_N])


@functools.cache
def shipped_model(kind: str) -> ConfidenceModel:
    """The coefficients of the package for a kind of pose."""
    return read_model(Path(__file__).with_name("confidence.json"), kind)


def read_model(path: Path, kind: str) -> ConfidenceModel:
    """Coefficients of a kind of pose, written by benchmarks/confidence.py; ValueError if they are of other features."""
    values = json.loads(path.read_text(encoding="utf-8"))[kind]
    if tuple(values["features"]) != FEATURES:
        raise ValueError(f"{path}: features {values['features']}, not {list(FEATURES)}; fit them again")
    return ConfidenceModel(*(np.array(values[key], np.float64) for key in ("bias", "weights", "mean", "scale")))
