"""Depth of buffer samples by explicit triangulation: matches between covisible mapping images under their known poses.

The samples of the plain copies are matched (mutual nearest neighbours, epipolar check), and the consensus of a sample's
matches gives the depth along its ray. Training may hold the sample to that 3D point (beyond the papers).
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel

from scrflow.config import SampleDepthConfig, SampleDepthStage
from scrflow.core.errors import ScrflowError
from scrflow.core.parallel import mapped
from scrflow.core.progress import log, track
from scrflow.core.seeds import torch_generator
from scrflow.features.matching import Nearest
from scrflow.graph.covisibility import Graph, load_graph, neighbour_pairs
from scrflow.pipeline.stages import code_of
from scrflow.storage.artifact import Stamp, create_h5, read_stamp
from scrflow.training.buffer import SAMPLE_DEPTH, Buffer, load_buffer

_CANDIDATES = 6  # depths tried for a sample before refinement, each from one of its matches
_HELD_VIEWS = 256  # whose descriptors are kept in float32: pairs come in the order of their first image
_ITERATIONS = 3  # Gauss-Newton steps on the depth
# of plain samples; four scenes of config/scenes gave 38 to 64 %, and wrong poses leave only chance matches
_STOP_SHARE, _WARN_SHARE = 0.01, 0.1
_MIN_PARALLAX_PX = 5.0  # pixels that a match moves for a doubling of the inverse depth; with fewer the depth is unknown


@dataclass(frozen=True)
class SampleDepth:
    """Per sample of a buffer: depth in its view, its relative sigma for 1 px noise, and matched samples."""

    depth: torch.Tensor  # [N] float32, NaN where unknown
    relative_sigma: torch.Tensor  # [N] float32, NaN where unknown
    matches: torch.Tensor  # [N, M] int64, -1 where there are fewer


def estimate_sample_depths(config: SampleDepthStage, graph: Path, shards: list[Path], out: Path, threads: int) -> None:
    """Match, triangulate, and write the depths (``write_sample_depth``). ScrflowError when hardly any plain sample gets
    a depth: poses or intrinsics are wrong then."""
    buffer = load_buffer(shards)
    result = triangulate_samples(buffer, load_graph(graph, buffer.names), config.depth, config.seed, threads)
    share = float(torch.isfinite(result.depth[buffer.plain[buffer.view]]).float().mean())
    log.info("depth known for %.0f %% of the plain samples", 100 * share)
    if share < _STOP_SHARE:
        raise ScrflowError(
            f"{shards[0].parent}: only {100 * share:.1f} % of the samples could be triangulated: poses and intrinsics "
            "of the mapping images do not fit together; correct them (camera-to-world? of another image size?)"
        )
    if share < _WARN_SHARE:
        log.warning(
            "few samples could be triangulated: the mapping images overlap little, or their poses are inaccurate; "
            "the map will be less precise where they are few"
        )
    write_sample_depth(out, result, "triangulate_samples", config, shards, graph=graph)


def write_sample_depth(
    out: Path, depths: SampleDepth, stage: str, config: BaseModel, shards: list[Path], **inputs: Path | str
) -> None:
    """HDF5 columns ``depth``, ``relative_sigma`` [N] and ``matches`` [N, M], stamped as made by ``stage``."""
    known, sigma = torch.isfinite(depths.depth).float().mean(), depths.relative_sigma.nanmedian()
    log.info("depth known for %.1f %% of all samples; median relative sigma %.4f", 100 * known, sigma)
    digests = {f"shard{i}": read_stamp(p, "buffer").digest for i, p in enumerate(shards)}
    with create_h5(out, Stamp.make(SAMPLE_DEPTH, config, code_of(stage, config), **inputs, **digests)) as f:
        f["depth"] = depths.depth.numpy()
        f["relative_sigma"] = depths.relative_sigma.numpy()
        f["matches"] = depths.matches.numpy().astype(np.int32)


def triangulate_samples(
    buffer: Buffer, graph: Graph, config: SampleDepthConfig, seed: int, threads: int = 1
) -> SampleDepth:
    """Depths of a buffer's samples by matching the plain copies of images that are neighbours in the graph."""
    rays = buffer.rays()
    first, second = _match(buffer, rays, neighbour_pairs(graph, config.neighbours), config.max_epipolar_px, threads)
    # each match counts for both its samples
    a, b = torch.cat([first, second]), torch.cat([second, first])
    order = torch.argsort(a, stable=True)
    a, b = a[order], b[order]
    geometry = _TwoView.of(buffer, rays, a, b)
    samples = len(buffer.view)
    inverse_depth = _consensus(geometry, a, samples, config.max_residual_px)
    inverse_depth, information = _refine(geometry, a, inverse_depth, config.max_residual_px)
    residual, depth_b = geometry.residual(inverse_depth[a])
    agree = (residual < config.max_residual_px) & (depth_b > 0)
    support = torch.zeros(samples).index_add_(0, a, agree.float())
    relative_sigma = 1 / information.clamp(min=1e-12).sqrt() / inverse_depth
    known = (support >= config.min_support) & (inverse_depth > 1e-6) & (relative_sigma < config.max_relative_sigma)
    depth = torch.where(known, 1 / inverse_depth, torch.nan)
    sigma = torch.where(known, relative_sigma, torch.nan)
    matches = _match_table(a[agree & known[a]], b[agree & known[a]], samples, config.matches, seed)
    return _to_augmented(buffer, rays, SampleDepth(depth, sigma, matches), config.transfer_px)


def _match(
    buffer: Buffer, rays: torch.Tensor, pairs: list[tuple[int, int]], max_epipolar_px: float, threads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples [M] and [M] matched between the first plain copies of the paired images."""
    views = len(buffer.image)
    start = torch.searchsorted(buffer.view, torch.arange(views + 1))
    plain_view: dict[int, int] = {}
    for v in torch.nonzero(buffer.plain).flatten().tolist():
        plain_view.setdefault(int(buffer.image[v]), v)
    if len(plain_view) < len(buffer.names):
        raise ScrflowError(
            "depths need a plain copy of every mapping image: set buffer.plain_copies to 1 in the encoder's config"
        )
    R, t = buffer.cam_from_world[:, :, :3], buffer.cam_from_world[:, :, 3]
    nearest = Nearest(None, None)

    @functools.lru_cache(_HELD_VIEWS)
    def samples(view: int) -> tuple[int, torch.Tensor]:
        begin, end = start[view : view + 2].tolist()
        return begin, F.normalize(buffer.descriptor[begin:end].float(), dim=1)

    def matched(pair: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        vi, vj = plain_view[pair[0]], plain_view[pair[1]]
        (i0, unit_i), (j0, unit_j) = samples(vi), samples(vj)
        in_i, in_j = torch.from_numpy(nearest.rows(unit_i, unit_j)).unbind(1)
        relative = R[vj] @ R[vi].T
        shift = t[vj] - relative @ t[vi]
        error = _sampson(rays[i0 + in_i], rays[j0 + in_j], relative, shift) * buffer.K[vi, 0, 0]
        good = error < max_epipolar_px
        return i0 + in_i[good], j0 + in_j[good]

    none = (torch.zeros(0, dtype=torch.long),) * 2
    found = [none, *mapped(matched, track(pairs, "matching covisible images"), threads)]
    return torch.cat([first for first, _ in found]), torch.cat([second for _, second in found])


def _sampson(x_N3: torch.Tensor, y_N3: torch.Tensor, R: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Sampson distance [N] of rays under [R | t] from the first camera to the second, on the plane z = 1."""
    zero = torch.zeros((), dtype=t.dtype)
    cross = torch.stack([zero, -t[2], t[1], t[2], zero, -t[0], -t[1], t[0], zero]).view(3, 3)
    E = cross @ R
    Ex, Ety = x_N3 @ E.T, y_N3 @ E
    squares = Ex[:, :2].pow(2).sum(1) + Ety[:, :2].pow(2).sum(1)
    return (y_N3 * Ex).sum(1).abs() / squares.clamp(min=1e-24).sqrt()


@dataclass(frozen=True)
class _TwoView:
    """Each match as a problem in one unknown, the inverse depth w = 1 / depth of its first sample: the point is
    centre_a + ray_a / w; in camera b it is proportional to q + w p, and is seen at ``target``."""

    q: torch.Tensor  # [M, 3]
    p: torch.Tensor  # [M, 3]
    target: torch.Tensor  # [M, 2]
    focal: torch.Tensor  # [M]

    @classmethod
    def of(cls, buffer: Buffer, rays: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> Self:
        R, t = buffer.cam_from_world[:, :, :3], buffer.cam_from_world[:, :, 3]
        va, vb = buffer.view[a], buffer.view[b]
        world_ray = (R[va].transpose(1, 2) @ rays[a][:, :, None])[:, :, 0]
        q = (R[vb] @ world_ray[:, :, None])[:, :, 0]
        p = (R[vb] @ buffer.centres()[va][:, :, None])[:, :, 0] + t[vb]
        return cls(q, p, rays[b][:, :2], buffer.K[vb, 0, 0])

    def residual(self, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reprojection error [M] in pixels of camera b, and the sign-carrying depth term [M] there."""
        u = self.q + w[:, None] * self.p
        seen = u[:, :2] / u[:, 2:].clamp(min=1e-6)
        return torch.linalg.vector_norm(seen - self.target, dim=1) * self.focal, u[:, 2]

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Inverse depth [M] by each match alone (linear least squares), and its parallax [M] in px per unit."""
        slope = self.p[:, :2] - self.target * self.p[:, 2:]
        value = self.target * self.q[:, 2:] - self.q[:, :2]
        w = (slope * value).sum(1) / slope.pow(2).sum(1).clamp(min=1e-24)
        parallax = torch.linalg.vector_norm(slope, dim=1) * self.focal / self.q[:, 2].clamp(min=0.1)
        return w, parallax


def _consensus(geometry: _TwoView, a: torch.Tensor, samples: int, max_residual_px: float) -> torch.Tensor:
    """For each sample the inverse depth [N] of one of its matches that most of its matches agree with; NaN if none."""
    own, parallax = geometry.solve()
    count = torch.bincount(a, minlength=samples)
    begin = torch.cat([torch.zeros(1, dtype=torch.long), count.cumsum(0)[:-1]])
    best = torch.full((samples,), torch.nan, dtype=torch.float64)
    best_votes = torch.zeros(samples)
    for c in range(_CANDIDATES):
        some = count > c
        pick = (begin + count * c // _CANDIDATES).clamp(max=max(0, len(own) - 1))
        candidate = torch.where(some, own[pick] if len(own) else torch.zeros(samples, dtype=torch.float64), torch.nan)
        residual, depth = geometry.residual(candidate[a])
        # parallax is per unit of inverse depth; times the inverse depth it is scale-free
        vote = (
            (residual < max_residual_px)
            & (depth > 0)
            & (candidate[a] > 0)
            & (parallax * candidate[a] > _MIN_PARALLAX_PX)
        )
        votes = torch.zeros(samples).index_add_(0, a, vote.float())
        better = some & (votes > best_votes)
        best = torch.where(better, candidate, best)
        best_votes = torch.where(better, votes, best_votes)
    return best


def _refine(
    geometry: _TwoView, a: torch.Tensor, inverse_depth: torch.Tensor, max_residual_px: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Robust Gauss-Newton on each sample's inverse depth [N]; also its information [N] for 1 px noise."""
    information = torch.zeros_like(inverse_depth)
    for _ in range(_ITERATIONS):
        u = geometry.q + inverse_depth[a].nan_to_num(1.0)[:, None] * geometry.p
        z = u[:, 2:].clamp(min=1e-6)
        error = (u[:, :2] / z - geometry.target) * geometry.focal[:, None]
        slope = (geometry.p[:, :2] / z - u[:, :2] * geometry.p[:, 2:] / z**2) * geometry.focal[:, None]
        norm = error.pow(2).sum(1)
        weight = (norm < (1.6 * max_residual_px) ** 2) / (1 + norm)  # Cauchy of 1 px, cut off where no inlier can be
        information = torch.zeros_like(inverse_depth).index_add_(0, a, weight * slope.pow(2).sum(1))
        gradient = torch.zeros_like(inverse_depth).index_add_(0, a, weight * (slope * error).sum(1))
        inverse_depth = inverse_depth - gradient / information.clamp(min=1e-12)
    return inverse_depth, information


def _match_table(a: torch.Tensor, b: torch.Tensor, samples: int, width: int, seed: int) -> torch.Tensor:
    """[N, width]: up to ``width`` of each sample's matches, a random choice; -1 beyond."""
    shuffle = torch.randperm(len(a), generator=torch_generator(seed, "sampledepth.matches"))
    a, b = a[shuffle], b[shuffle]
    order = torch.argsort(a, stable=True)
    a, b = a[order], b[order]
    count = torch.bincount(a, minlength=samples)
    rank = torch.arange(len(a)) - (count.cumsum(0) - count)[a]
    table = torch.full((samples, width), -1)
    kept = rank < width
    table[a[kept], rank[kept]] = b[kept]
    return table


def _to_augmented(buffer: Buffer, rays: torch.Tensor, plain: SampleDepth, transfer_px: float) -> SampleDepth:
    """Hand depth and matches to samples of augmented copies that see (nearly) the same ray of the same photo."""
    from scipy.spatial import cKDTree

    depth, sigma, matches = plain.depth.clone(), plain.relative_sigma.clone(), plain.matches.clone()
    R = buffer.cam_from_world[:, :, :3]
    length = torch.linalg.vector_norm(rays, dim=1)
    direction = (R[buffer.view].transpose(1, 2) @ (rays / length[:, None])[:, :, None])[:, :, 0]  # [N, 3] in the world
    image_of = buffer.image[buffer.view]
    for image in torch.unique(buffer.image).tolist():
        rows = torch.nonzero(image_of == image).flatten()
        is_plain = buffer.plain[buffer.view[rows]]
        source = rows[is_plain & torch.isfinite(plain.depth[rows])]
        target = rows[~is_plain]
        if not len(source) or not len(target):
            continue
        focal = buffer.K[buffer.view[source[0]], 0, 0]
        # the bound, a little beyond what counts as near, spares the tree the search for those that have none
        distance, nearest = cKDTree(direction[source].numpy()).query(
            direction[target].numpy(), distance_upper_bound=1.01 * transfer_px / float(focal)
        )
        near = torch.from_numpy(distance) * focal < transfer_px
        target, s = target[near], source[torch.from_numpy(nearest)[near]]
        # the copies share the camera's centre and axis: roll and zoom leave the depth of a point as it is
        depth[target] = plain.depth[s] * length[s] / length[target]
        sigma[target] = plain.relative_sigma[s]
        matches[target] = plain.matches[s]
    return SampleDepth(depth.float(), sigma.float(), matches)
