"""The loss on scene coordinates: the sum of three terms, each switched by the config.

``reprojection_term``: GLACE eq. 3 on the final coordinate y; with ``known_depth`` a sample of known depth is held to
its 3D point instead (beyond the papers). ``coarse_term``: R-SCoRe's term on the coarse coordinate y0. ``pull_term``:
R-SCoRe's pull of y towards y0, or of both towards the known depth, in the first half of training.
"""

import math
from dataclasses import dataclass

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

    def focal(self) -> Tensor:
        """Focal lengths [B, 2] in pixels."""
        return torch.stack([self.K[:, 0, 0], self.K[:, 1, 1]], 1)

    def ray(self) -> Tensor:
        """Points [B, 2] of the pixels on the plane z = 1 of the camera."""
        return (self.pixel - self.K[:, :2, 2]) / self.focal()

    def in_camera(self, xyz_world: Tensor) -> Tensor:
        """World points [B, 3] in the samples' cameras."""
        R, t = self.cam_from_world[:, :, :3], self.cam_from_world[:, :, 3]
        return transformed(R, xyz_world) + t


def transformed(matrices_B33: Tensor, vectors_B3: Tensor) -> Tensor:
    """Products [B, 3]. A GPU has no fast kernel for so many small ones; on a CPU the sum's order stays as it was."""
    if vectors_B3.device.type == "cpu":
        return (matrices_B33 @ vectors_B3[:, :, None])[:, :, 0]
    return (matrices_B33 * vectors_B3[:, None]).sum(2)


@dataclass(frozen=True)
class Projection:
    """A batch of scene coordinates seen by its cameras."""

    error_px: Tensor  # [B] reprojection error, in the norm of the config
    depth: Tensor  # [B]
    valid: Tensor  # [B] bool: V of GLACE eq. 3


def scene_coordinate_loss(
    xyz_world: Tensor,
    coarse: Tensor,
    targets: Targets,
    config: LossConfig,
    progress: float,
    depth_bias: float,
    base: Tensor | None = None,
) -> tuple[Tensor, Projection]:
    """Mean loss of a batch, and the projection of its final coordinates, for the record.

    ``xyz_world`` [B, 3] is y, ``coarse`` [B, 3] is y0, ``base`` [B, 3] what y is pulled to: by default y0 without its
    gradient. ``progress`` in 0..1, ``depth_bias`` in the scene's unit.
    """
    projection = project(xyz_world, targets, config)
    loss = reprojection_term(xyz_world, projection, targets, config, progress)
    if config.coarse:
        loss = loss + coarse_term(coarse, targets, config, progress, depth_bias)
    if config.pull and progress < 0.5:
        base = coarse.detach() if base is None else base
        weight = 0.5 * (1 + math.cos(2 * math.pi * progress))  # from 1 to 0 over the first half of training (R-SCoRe)
        loss = loss + weight * pull_term(xyz_world, coarse, base, targets, config)
    return loss.mean(), projection


def project(xyz_world: Tensor, targets: Targets, config: LossConfig) -> Projection:
    """Reprojection error (GLACE eq. 2), depth and validity of scene coordinates [B, 3]."""
    xyz_cam = targets.in_camera(xyz_world)
    depth = xyz_cam[:, 2]
    xyz_px = transformed(targets.K, xyz_cam)
    pixel = xyz_px[:, :2] / depth.clamp(min=config.min_depth)[:, None]
    error = torch.linalg.vector_norm(pixel - targets.pixel, ord=config.norm, dim=1)
    valid = (depth > config.min_depth) & (depth < config.max_depth) & (error < config.max_error_px)
    return Projection(error, depth, valid)


def reprojection_term(
    xyz_world: Tensor, projection: Projection, targets: Targets, config: LossConfig, progress: float
) -> Tensor:
    """The loss [B] of y: GLACE eq. 3, with tau tanh(e / tau) in its first line."""
    tau = bandwidth(progress, config.bandwidth_max, config.bandwidth_min)
    return sample_loss(tau * torch.tanh(projection.error_px / tau), xyz_world, projection, targets, config, tau)


def coarse_term(coarse: Tensor, targets: Targets, config: LossConfig, progress: float, depth_bias: float) -> Tensor:
    """The loss [B] of y0: R-SCoRe's kernel tau 9 u^2 / (9 u^2 + 4), bounded by tau like the tanh, of u = e / tau. The
    depth-adjusted error e z / sqrt(z^2 + b^2) lowers those of near points, which are large in pixels."""
    projection = project(coarse, targets, config)
    tau = bandwidth(progress, config.coarse_bandwidth_max, config.coarse_bandwidth_min)
    error = projection.error_px
    if config.depth_adjusted:
        depth = projection.depth.clamp(min=0)
        error = error * depth / torch.sqrt(depth**2 + depth_bias**2)
    u2 = 9 * (error / tau) ** 2
    return sample_loss(tau * u2 / (u2 + 4), coarse, projection, targets, config, tau)


def pull_term(xyz_world: Tensor, coarse: Tensor, base: Tensor, targets: Targets, config: LossConfig) -> Tensor:
    """How far [B] beyond the margin y is from y0 (R-SCoRe); or with ``pull_to: depth`` y and y0 from the 3D point."""
    if config.pull_to == "depth":
        pull = pull_to_depth(xyz_world, targets, config.pull_margin)
        return pull + pull_to_depth(coarse, targets, config.pull_margin) if config.coarse else pull
    return (torch.linalg.vector_norm(xyz_world - base, dim=1) - config.pull_margin).clamp(min=0)


def bandwidth(progress: float, largest: float, smallest: float) -> float:
    """tau(t) of GLACE eq. 4, the circle schedule; ``progress`` in 0..1."""
    return math.sqrt(max(0.0, 1 - progress**2)) * largest + smallest


def pull_to_depth(xyz_world: Tensor, targets: Targets, margin: float) -> Tensor:
    """How far [B] beyond ``margin`` coordinates are from known 3D points (R-SCoRe's public code); 0 without a point."""
    known = torch.isfinite(targets.depth)
    depth = targets.depth.nan_to_num(1.0)[:, None]
    R, t = targets.cam_from_world[:, :, :3], targets.cam_from_world[:, :, 3]
    point = (R.transpose(1, 2) @ (torch.cat([targets.ray() * depth, depth], 1) - t)[:, :, None])[:, :, 0]
    distance = torch.linalg.vector_norm(xyz_world - point, dim=1)
    return torch.where(known, (distance - margin).clamp(min=0), 0.0)


def to_target(xyz_world: Tensor, targets: Targets, config: LossConfig) -> Tensor:
    """Distance [B] to the target on the ray, by the norm and in the axes that ``config.invalid`` names."""
    if config.invalid == "l1-world":
        return (xyz_world - targets.target).abs().sum(1)
    if config.invalid == "l2":
        return torch.linalg.vector_norm(xyz_world - targets.target, dim=1)
    return (targets.in_camera(xyz_world) - targets.in_camera(targets.target)).abs().sum(1)


def sample_loss(
    inlier_loss: Tensor, xyz_world: Tensor, projection: Projection, targets: Targets, config: LossConfig, tau: float
) -> Tensor:
    """``inlier_loss`` [B] for valid predictions, the distance to the target on the ray for others: GLACE eq. 3.

    With ``known_depth`` the loss of samples of known depth is tau log(1 + e / tau), whose pull never ends, as known
    points are rarely wrong. e is the distance to the 3D point in pixels: across the ray as seen in the image, along the
    ray in units of what one pixel of noise does to the depth.
    """
    loss = torch.where(projection.valid, inlier_loss, to_target(xyz_world, targets, config))
    if not config.known_depth:
        return loss
    known = torch.isfinite(targets.depth)
    # where() passes NaN gradients on from the branch that is not taken: give it numbers
    depth, sigma = targets.depth.nan_to_num(1.0), targets.relative_sigma.nan_to_num(1.0)
    xyz_cam = targets.in_camera(xyz_world)
    across = (xyz_cam[:, :2] / depth[:, None] - targets.ray()) * targets.focal()
    along = (xyz_cam[:, 2] / depth - 1) / sigma.clamp(min=config.min_depth_sigma)
    error = torch.sqrt(across.pow(2).sum(1) + along**2 + 1e-6)
    return torch.where(known, tau * torch.log1p(error / tau), loss)
