"""Photos with known relative poses, of a rig or by odometry, localized together: PoseLib's generalized absolute pose
(the minimal solver is gP3P: Nister and Stewenius, JMIV 2007) on the correspondences of all photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import poselib

from scrflow.config import LandmarkLocalizeConfig, LocalizeConfig
from scrflow.core.geometry import invert_pose, reprojection_error
from scrflow.localize.pose import LOSS, poselib_camera, ransac_options
from scrflow.localize.result import Localization

CONFIDENT = 0.1  # right poses of the scenes of docs/api.md had more
_FITS = 0.5  # least share of the inliers of a photo's own pose that fit a given one


@dataclass(frozen=True)
class Group:
    """The result of photos that were localized together."""

    rig_from_world: np.ndarray | None  # [3, 4]; None if the group could not be localized
    photos: tuple[Localization, ...]  # poses by the group, inliers under them; without a group's pose each one's own
    confidence: float | None  # the highest of the photos' under the group's pose; every photo has it
    reason: str | None = None  # why there is no pose
    disagreeing: tuple[int, ...] = ()  # photos with a confident pose of their own that is not where the rig has them


def composed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The pose [3, 4] that applies ``second``, then ``first``."""
    return np.column_stack([first[:, :3] @ second[:, :3], first[:, :3] @ second[:, 3] + first[:, 3]])


def fits(pose: np.ndarray, found: Localization, threshold_px: float) -> bool:
    """Whether the inliers of a photo's own pose agree with a given one [3, 4]."""
    view, inside = found.view, found.inliers
    error = reprojection_error(view.pixels[inside], found.xyz_world[inside], view.K, pose)
    return float((error < threshold_px).mean()) >= _FITS


def group_pose(
    found: Sequence[Localization],
    cams_from_rig: Sequence[np.ndarray],
    config: LocalizeConfig | LandmarkLocalizeConfig,
    seed: int,
    start: np.ndarray | None = None,
) -> np.ndarray | None:
    """rig_from_world [3, 4] from the scene coordinates (NaN: none) of keypoints of several photos. ``start``: a pose to
    begin from; by default the best of the photos' own. With ``config.refine_px`` it is refined on its inliers."""
    if start is None:
        own = [
            composed(invert_pose(cam), f.cam_from_world)
            for f, cam in zip(found, cams_from_rig, strict=True)
            if f.cam_from_world is not None
        ]
        start = max(own, key=lambda rig: inlier_count(found, cams_from_rig, rig, config.threshold_px), default=None)
    known = [np.isfinite(f.xyz_world).all(1) for f in found]
    if sum(k.sum() for k in known) < 4:
        return None
    pixels = [f.view.pixels[k] for f, k in zip(found, known, strict=True)]
    xyz = [f.xyz_world[k] for f, k in zip(found, known, strict=True)]
    extrinsics, cameras = [_pose(cam) for cam in cams_from_rig], [poselib_camera(f.view.K) for f in found]
    options = ransac_options(config.threshold_px, config.iterations, 100, seed)
    pose, info = poselib.estimate_generalized_absolute_pose(
        pixels, xyz, extrinsics, cameras, options, LOSS, None if start is None else _pose(start)
    )
    if info["num_inliers"] < 4:
        return None
    if config.refine_px is not None:
        inside = [np.asarray(i, bool) for i in info["inliers"]]
        pose, _ = poselib.refine_generalized_absolute_pose(
            [p[i] for p, i in zip(pixels, inside, strict=True)],
            [x[i] for x, i in zip(xyz, inside, strict=True)],
            pose,
            extrinsics,
            cameras,
            {"loss_type": "CAUCHY", "loss_scale": config.refine_px},
        )
    estimate = np.asarray(pose.Rt, np.float64)
    return estimate if np.isfinite(estimate).all() else None


def inlier_count(
    found: Sequence[Localization], cams_from_rig: Sequence[np.ndarray], rig: np.ndarray, threshold_px: float
) -> int:
    """Inliers of all photos under a pose of the rig."""
    return sum(
        int((reprojection_error(f.view.pixels, f.xyz_world, f.view.K, composed(cam, rig)) < threshold_px).sum())
        for f, cam in zip(found, cams_from_rig, strict=True)
    )


def _pose(matrix: np.ndarray) -> poselib.CameraPose:
    pose = poselib.CameraPose()
    pose.R, pose.t = matrix[:, :3], matrix[:, 3]
    return pose
