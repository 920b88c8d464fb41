"""Camera pose from scene coordinates by PoseLib (LO-RANSAC with P3P, then robust non-linear refinement)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import poselib

from scrflow.config import LocalizeConfig


@dataclass(frozen=True)
class PoseEstimate:
    """A pose and what speaks for it."""

    cam_from_world: np.ndarray  # [3, 4]
    inliers: np.ndarray  # [N] bool


def estimate_pose(
    pixels_N2: np.ndarray,
    xyz_world_N3: np.ndarray,
    K: np.ndarray,
    config: LocalizeConfig,
    threshold_px: float,
    seed: int,
) -> PoseEstimate | None:
    """Pose from undistorted pixels [N, 2] in the image of K and scene coordinates [N, 3]; None without a consensus.

    ``threshold_px`` is the inlier threshold in this image's pixels. With config.refine_px the pose is refined once more
    on all correspondences near it, under a Cauchy loss of that scale.
    """
    finite = np.isfinite(xyz_world_N3).all(1)
    if finite.sum() < 4:
        return None
    camera = {
        "model": "PINHOLE",
        "width": int(2 * K[0, 2]) + 1,
        "height": int(2 * K[1, 2]) + 1,
        "params": [K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
    }
    points2, points3 = pixels_N2[finite], xyz_world_N3[finite]
    ransac = {
        "max_reproj_error": threshold_px,
        "max_iterations": config.iterations,
        "min_iterations": min(100, config.iterations),
        "seed": seed,
    }
    pose, info = poselib.estimate_absolute_pose(
        points2, points3, camera, ransac, {"loss_type": "CAUCHY", "loss_scale": 1.0}
    )
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


def reprojection_error(
    pixels_N2: np.ndarray, xyz_world_N3: np.ndarray, K: np.ndarray, cam_from_world: np.ndarray
) -> np.ndarray:
    """Distance [N] in pixels; infinite for points behind the camera or not finite."""
    xyz = xyz_world_N3 @ cam_from_world[:, :3].T + cam_from_world[:, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        seen = xyz[:, :2] / xyz[:, 2:] * [K[0, 0], K[1, 1]] + K[:2, 2]
        error = np.linalg.norm(seen - pixels_N2, axis=1)
    return np.where((xyz[:, 2] > 0) & np.isfinite(error), error, np.inf)
