"""Photos with known relative poses, of a rig or by odometry, localized together: PoseLib's generalized absolute pose
(the minimal solver is gP3P: Nister and Stewenius, JMIV 2007) on the correspondences of all photos."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import poselib

from scrflow.config import LandmarkLocalizeConfig, LocalizeConfig
from scrflow.core.geometry import invert_pose, reprojection_error
from scrflow.localize.pose import LOSS, poselib_camera, ransac_options
from scrflow.localize.result import Clock, Localization

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


def localized_group(
    found: Sequence[Localization],
    cams_from_rig: Sequence[np.ndarray],
    config: LocalizeConfig | LandmarkLocalizeConfig,
    seed: int,
    judged: Callable[[Localization], Localization],
    under: Callable[[Sequence[np.ndarray]], list[Localization]] | None = None,
) -> Group:
    """The group of photos whose own best attempts are ``found``. ``under`` matches the photos again under poses of
    theirs, for a map of landmarks; ``judged`` adds a result's confidence."""
    own, clock = found, Clock()
    rig = group_pose(found, cams_from_rig, config, seed)
    if rig is not None and under is not None:
        near = under([composed(cam, rig) for cam in cams_from_rig])
        again = group_pose(near, cams_from_rig, config, seed, rig)
        count = inlier_count(found, cams_from_rig, rig, config.threshold_px)
        if again is not None and inlier_count(near, cams_from_rig, again, config.threshold_px) >= count:
            found, rig = near, again
    agreeing = 0 if rig is None else inlier_count(found, cams_from_rig, rig, config.threshold_px)
    if agreeing < config.min_inliers:
        return Group(None, tuple(found), None, f"{agreeing} inliers, {config.min_inliers} are needed")
    posed = []
    for f, cam in zip(found, cams_from_rig, strict=True):
        pose = composed(cam, rig)
        inliers = reprojection_error(f.view.pixels, f.xyz_world, f.view.K, pose) < config.threshold_px
        posed.append(judged(replace(f, cam_from_world=pose, inliers=inliers, reason=None)))
    each = [f.confidence for f in posed]
    # a pose that one photo alone makes likely is that of all
    confidence = None if None in each else max(each)
    clock.lap("group")
    share = clock.laps()["group"] / len(posed)
    times = [{**f.ms, "group": round(share, 2), "total": round(f.ms["total"] + share, 2)} for f in own]
    photos = (replace(f, confidence=confidence, ms=ms) for f, ms in zip(posed, times, strict=True))
    disagreeing = (
        i
        for i, (alone, f) in enumerate(zip(own, posed, strict=True))
        if (alone.confidence or 0) >= CONFIDENT and not fits(f.cam_from_world, alone, config.threshold_px)
    )
    return Group(rig, tuple(photos), confidence, disagreeing=tuple(disagreeing))


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
