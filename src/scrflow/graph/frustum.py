"""Frustum overlap of posed images (R-SCoRe, arXiv 2501.01421): its definition, and the plain quadratic form.

Pixels and depths are sampled in image i and projected into image j; the score is the visible fraction, each sample
weighted by (1 + cos of the angle between the two viewing directions) / 2; the harmonic mean combines both directions.

The viewing direction of a sample is the ray from the camera's centre to it, not the optical axis. The paper weights
each sample, which only rays can do, and rays are what decides whether two photos show the same surface: cameras that
face each other across a square see its middle from opposite sides (weight near 0), cameras side by side that are
turned outwards still see one facade from one side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scrflow.core.cameras import pinhole_matrix
from scrflow.core.geometry import camera_centre
from scrflow.core.progress import track
from scrflow.scene.model import View

_PROJECTIONS_AT_ONCE = 1 << 13  # 64 KB temporaries stay in the cache and on the heap: 4 times as fast as 1 << 20


@dataclass(frozen=True)
class Frusta:
    """Views as arrays, with the recipe of their samples."""

    poses: np.ndarray  # [N, 3, 4] cam_from_world
    K: np.ndarray  # [N, 3, 3]
    sizes: np.ndarray  # [N, 2] width, height
    centres: np.ndarray  # [N, 3] in the world
    depth_range: tuple[float, float]
    samples: int  # an image
    stream: dict  # state of a PCG64 at the first sample of the first image

    @classmethod
    def of(
        cls, views: Sequence[View], samples: int, depth_range: tuple[float, float], rng: np.random.Generator
    ) -> Frusta:
        """Every image draws its samples once, in the order of ``views``; ``rng`` is left behind the last of them."""
        poses = np.stack([v.cam_from_world for v in views]).astype(np.float64)
        K = np.stack([pinhole_matrix(v.camera) for v in views])
        sizes = np.array([[v.camera.width, v.camera.height] for v in views], np.float64)
        stream = rng.bit_generator.state
        rng.bit_generator.advance(3 * samples * len(views))
        return cls(poses, K, sizes, camera_centre(poses), depth_range, samples, stream)

    def __len__(self) -> int:
        return len(self.poses)

    def unit_samples(self, begin: int, end: int) -> np.ndarray:
        """[end - begin, samples, 3] in 0..1 of images begin to end - 1: across, down, depth.

        PCG64 jumps to any place of its stream, so no sample needs to be kept.
        """
        bits = np.random.PCG64(0)
        bits.state = self.stream
        bits.advance(3 * self.samples * begin)
        return np.random.Generator(bits).random((end - begin, self.samples, 3))

    def world_samples(self, i: int) -> np.ndarray:
        """[samples, 3]: the samples of image i in the world."""
        points = _in_camera(self.unit_samples(i, i + 1)[0], self.K[i], *self.sizes[i], self.depth_range)
        return (points - self.poses[i, :, 3]) @ self.poses[i, :, :3]  # R^T (x - t), row by row


def sample_frustum(
    K: np.ndarray, width: int, height: int, depth_range: tuple[float, float], count: int, rng: np.random.Generator
) -> np.ndarray:
    """Points [count, 3] in the camera's frame: pixel uniform over the image, depth (z) uniform in ``depth_range``.

    The frustum is that of the pinhole matrix ``K`` and the image's bounds: lens distortion moves its edge by a few
    pixels and is left out here (and only here).
    """
    return _in_camera(rng.random((count, 3)), K, width, height, depth_range)


def _in_camera(
    unit_S3: np.ndarray, K: np.ndarray, width: float, height: float, depth_range: tuple[float, float]
) -> np.ndarray:
    depth = depth_range[0] + unit_S3[:, 2] * (depth_range[1] - depth_range[0])
    pixels = np.column_stack([unit_S3[:, 0] * width, unit_S3[:, 1] * height, np.ones(len(unit_S3))])
    return (pixels @ np.linalg.inv(K).T) * depth[:, None]


def frustum_overlap(
    views: Sequence[View], samples: int, depth_range: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Overlap [N, N] (float64, symmetric, 0..1, zero diagonal) of all pairs of posed views, each pair computed.

    A sample counts as visible in j when it lies in front of j and inside its image. The reference that
    ``frustum_pairs.frustum_graph`` equals to the last bit: use that one, this one is quadratic in the images.
    """
    frusta = Frusta.of(views, samples, depth_range, rng)
    count = len(frusta)
    seen = np.zeros((count, count))  # [i, j]: weighted share of i's samples that j sees
    for i in track(range(count), "frustum overlap", count):
        others = np.delete(np.arange(count), i)
        seen[i, others] = visible_shares(frusta, frusta.world_samples(i), i, others)
    return harmonic_mean(seen, seen.T)


def harmonic_mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """2 a b / (a + b), at most 1; 0 where both are 0."""
    total = a + b
    return np.minimum(np.divide(2 * a * b, total, out=np.zeros_like(total), where=total > 0), 1.0)


def visible_shares(frusta: Frusta, world_S3: np.ndarray, i: int, others: np.ndarray) -> np.ndarray:
    """Share [C] of i's samples [S, 3] (world) that each of the cameras ``others`` [C] sees, with the angle's weight.

    A value does not depend on what other cameras are asked for with it.
    """
    out = np.empty(len(others))
    ray = world_S3 - frusta.centres[i]  # [S, 3]
    squares = (ray * ray).sum(1)
    chunk = max(1, _PROJECTIONS_AT_ONCE // len(world_S3))
    for at in range(0, len(others), chunk):
        j = others[at : at + chunk]
        local = frusta.poses[j, :, :3] @ world_S3.T + frusta.poses[j, :, 3:]  # [C, 3, S]
        x, y, depth = np.moveaxis(frusta.K[j] @ local, 1, 0)  # homogeneous pixels: compared without dividing by depth
        width, height = frusta.sizes[j, :1], frusta.sizes[j, 1:]
        visible = (depth > 0) & (x >= 0) & (x < width * depth) & (y >= 0) & (y < height * depth)
        # in the world, j's ray is R^T local, as long as local, and i's ray plus the baseline; one product a camera:
        # the rounding of a joint one would depend on how many there are
        baseline = (frusta.centres[i] - frusta.centres[j])[:, None]  # [C, 1, 3]
        dot = squares + (baseline @ ray.T)[:, 0]  # [C, S]
        lengths = np.sqrt(squares * np.einsum("cks,cks->cs", local, local))
        cosine = np.divide(dot, lengths, out=np.ones_like(dot), where=lengths > 0)
        weight = (1 + np.clip(cosine, -1, 1)) / 2
        out[at : at + chunk] = (weight * visible).mean(1)
    return out
