"""Losses on scene coordinates: reprojection (GLACE eq. 2-4; R-SCoRe's coarse term, depth adjustment and pull; DESIGN:
Loss), and beyond the papers the distance to a triangulated point where there is one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scrflow.config import LossConfig


@dataclass(frozen=True)
class Targets:
    """What a batch is compared with."""

    pixel: Tensor  # [B, 2] undistorted, in the image of K
    K: Tensor  # [B, 3, 3]
    cam_from_world: Tensor  # [B, 3, 4]
    target: Tensor  # [B, 3] the point on the pixel's ray at the target depth, in the world
    depth: Tensor | None = None  # [B] triangulated depth, NaN where unknown
    relative_sigma: Tensor | None = None  # [B] of that depth for 1 px noise


@dataclass(frozen=True)
class Projection:
    """A batch of scene coordinates seen by its cameras."""

    error_px: Tensor  # [B] reprojection error, in the norm of the config
    depth: Tensor  # [B]
    valid: Tensor  # [B] bool: V of GLACE eq. 3


def project(xyz_world: Tensor, targets: Targets, config: LossConfig) -> Projection:
    """Reprojection error, depth and validity of scene coordinates [B, 3]."""
    R, t = targets.cam_from_world[:, :, :3], targets.cam_from_world[:, :, 3]
    xyz_cam = (R @ xyz_world[:, :, None])[:, :, 0] + t
    depth = xyz_cam[:, 2]
    xyz_px = (targets.K @ xyz_cam[:, :, None])[:, :, 0]
    pixel = xyz_px[:, :2] / depth.clamp(min=config.min_depth)[:, None]
    error = torch.linalg.vector_norm(pixel - targets.pixel, ord=config.norm, dim=1)
    valid = (depth > config.min_depth) & (depth < config.max_depth) & (error < config.max_error_px)
    return Projection(error, depth, valid)


def bandwidth(progress: float, largest: float, smallest: float) -> float:
    """tau(t) of GLACE eq. 4, the circle schedule; ``progress`` in 0..1."""
    return math.sqrt(max(0.0, 1 - progress**2)) * largest + smallest


def dynamic_tanh(error_px: Tensor, tau: float) -> Tensor:
    """tau tanh(e / tau): GLACE eq. 3, first line."""
    return tau * torch.tanh(error_px / tau)


def geman_mcclure(error_px: Tensor, tau: float) -> Tensor:
    """tau 9 u^2 / (9 u^2 + 4) with u = e / tau: R-SCoRe's kernel on y0; bounded by tau like the tanh."""
    u2 = 9 * (error_px / tau) ** 2
    return tau * u2 / (u2 + 4)


def depth_adjusted(error_px: Tensor, depth: Tensor, bias: float) -> Tensor:
    """e z / sqrt(z^2 + b^2): takes from near points the pixels that make far ones look better (R-SCoRe)."""
    return error_px * depth / torch.sqrt(depth**2 + bias**2)


def known_point_error(xyz_world: Tensor, targets: Targets, min_sigma: float) -> Tensor:
    """Distance [B] of scene coordinates to the triangulated points, in pixels: across the ray as it is seen in the
    image, along the ray in units of what one pixel of noise does to the triangulated depth. NaN where unknown."""
    R, t = targets.cam_from_world[:, :, :3], targets.cam_from_world[:, :, 3]
    xyz_cam = (R @ xyz_world[:, :, None])[:, :, 0] + t
    focal = torch.stack([targets.K[:, 0, 0], targets.K[:, 1, 1]], 1)
    ray = (targets.pixel - targets.K[:, :2, 2]) / focal
    across = (xyz_cam[:, :2] / targets.depth[:, None] - ray) * focal
    along = (xyz_cam[:, 2] / targets.depth - 1) / targets.relative_sigma.clamp(min=min_sigma)
    return torch.sqrt(across.pow(2).sum(1) + along**2 + 1e-6)


def log_loss(error_px: Tensor, tau: float) -> Tensor:
    """tau log(1 + e / tau): robust, yet it never stops pulling: triangulated points are rarely wrong."""
    return tau * torch.log1p(error_px / tau)


def pull_weight(progress: float) -> float:
    """Weight of the pull of y to y0: a cosine from 1 to 0 over the first half of training."""
    return 0.5 * (1 + math.cos(2 * math.pi * progress)) if progress < 0.5 else 0.0


def scene_coordinate_loss(
    xyz_world: Tensor,
    coarse: Tensor,
    targets: Targets,
    config: LossConfig,
    progress: float,
    depth_bias: float,
    base: Tensor | None = None,
) -> tuple[Tensor, Projection]:
    """Mean loss of a batch, and the projection of the final coordinates for the record.

    An invalid prediction pays its L1 distance to the target on the ray (GLACE eq. 3, second line). ``base`` is what y
    is pulled to: the head's, or y0 without its gradient where it is not given.
    """
    projection = project(xyz_world, targets, config)
    tau = bandwidth(progress, config.bandwidth_max, config.bandwidth_min)
    loss = _robust(xyz_world, projection, targets, dynamic_tanh(projection.error_px, tau))
    if config.known_depth:
        known = torch.isfinite(targets.depth)
        # where() hands NaN gradients through from the branch not taken: give it numbers
        filled = replace(
            targets, depth=targets.depth.nan_to_num(1.0), relative_sigma=targets.relative_sigma.nan_to_num(1.0)
        )
        loss = torch.where(known, log_loss(known_point_error(xyz_world, filled, config.min_depth_sigma), tau), loss)
    if config.coarse:
        first = project(coarse, targets, config)
        tau = bandwidth(progress, config.coarse_bandwidth_max, config.coarse_bandwidth_min)
        error = first.error_px
        if config.depth_adjusted:
            error = depth_adjusted(error, first.depth.clamp(min=0), depth_bias)
        coarse_loss = _robust(coarse, first, targets, geman_mcclure(error, tau))
        if config.known_depth:
            distance = known_point_error(coarse, filled, config.min_depth_sigma)
            coarse_loss = torch.where(known, log_loss(distance, tau), coarse_loss)
        loss = loss + coarse_loss
    if config.pull and progress < 0.5:
        if config.pull_to == "depth":
            pull = pull_to_depth(xyz_world, targets, config.pull_margin)
            if config.coarse:
                pull = pull + pull_to_depth(coarse, targets, config.pull_margin)
        else:
            distance = torch.linalg.vector_norm(xyz_world - (coarse.detach() if base is None else base), dim=1)
            pull = (distance - config.pull_margin).clamp(min=0)
        loss = loss + pull_weight(progress) * pull
    return loss.mean(), projection


def pull_to_depth(xyz_world: Tensor, targets: Targets, margin: float) -> Tensor:
    """How far beyond ``margin`` scene coordinates [B, 3] are from the samples' 3D points; 0 where no depth is known.

    R-SCoRe's depth supervision, as in its public code: in place of the pull of y to y0, and of y0 too.
    """
    known = torch.isfinite(targets.depth)
    depth = targets.depth.nan_to_num(1.0)[:, None]
    focal = torch.stack([targets.K[:, 0, 0], targets.K[:, 1, 1]], 1)
    xy = (targets.pixel - targets.K[:, :2, 2]) / focal * depth
    R, t = targets.cam_from_world[:, :, :3], targets.cam_from_world[:, :, 3]
    point = (R.transpose(1, 2) @ (torch.cat([xy, depth], 1) - t)[:, :, None])[:, :, 0]
    distance = torch.linalg.vector_norm(xyz_world - point, dim=1)
    return torch.where(known, (distance - margin).clamp(min=0), 0.0)


def _robust(xyz_world: Tensor, projection: Projection, targets: Targets, inlier_loss: Tensor) -> Tensor:
    distance = (xyz_world - targets.target).abs().sum(1)
    return torch.where(projection.valid, inlier_loss, distance)
