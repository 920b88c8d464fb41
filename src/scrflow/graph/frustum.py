"""Frustum overlap of posed images (R-SCoRe, arXiv 2501.01421), computed only for pairs that can reach the threshold.

Definition. Pixels and depths are sampled in image i and projected into image j; the score is the visible fraction, each
sample weighted by (1 + cos of the angle between the two rays to it) / 2; the harmonic mean combines both directions.
The rays, not the optical axes, decide whether two photos show the same surface.

Bounds. Let a be the share of i's samples that j sees, b that of j's samples that i sees, and t the threshold of
their harmonic mean h(a, b), which grows with both. With upper bounds A >= a and B >= b, a pair with h(A, B) < t has no
edge. Two rounds of bounds follow, the second on the pairs that the first leaves:

1. Distance. Let d be the distance of the two centres, e the direction from i to j, and r v a sample of i seen from its
   centre (v of unit length, r <= R). In the triangle of both centres and the sample, with c = e.v and p = r / d < 1,
   the cosine of the angle at the sample is (p - c) / s with s^2 = 1 - 2 p c + p^2 = (1 - p c)^2 + p^2 (1 - c^2).
   From s >= 1 - p c and s <= 1 - p c + p^2 (1 - c^2) / (2 (1 - p c)) follows

       (p - c) / s <= -c + p (1 - c^2) k(R / d),    k(x) = (1 - x / 2) / (1 - x)^2,

   and the mean of the weights (1 + cosine) / 2 over all samples, seen or not, bounds a from above:

       A(e, d) = (1 - e.m) / 2 + k(R / d) (q - e.M e) / (2 d),    m = mean v,  q = mean r,  M = mean r v v^T.

   For b > 0, i sees a sample of j, so e lies within asin(R_j / d) of a ray of i's image; the largest A(e, d) over such
   e falls with d, and where it is below t is i's reach (infinite for very wide lenses). As h(A, B) <= max(A, B), a pair
   farther apart than both reaches has no edge. A k-d tree's order cuts the centres into blocks, and blocks farther
   apart than their reaches are skipped whole.
2. Balls. Some sample of i must lie inside j's pyramid, and the reverse: the ball around each bounded frustum against
   the five planes of the other's pyramid; then h(A, B) of this pair's own e and d.

The pairs that are left are computed exactly, so the result equals that of all pairs bit by bit; b is not computed where
h(a, B) < t.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import scipy.sparse
from scipy.spatial import cKDTree

from scrflow.core.geometry import camera_centre, pinhole_matrix
from scrflow.core.progress import track
from scrflow.scene.colmap_model import View

_PROJECTIONS_AT_ONCE = 1 << 13  # 64 KB temporaries stay in the cache and on the heap: 4 times as fast as 1 << 20
_BLOCK = 64  # images that are processed together
_BLOCKS_AT_ONCE = 128  # 64 x 8 192 pairs
# Rounding of a bound, relative and absolute: far above the last digits of float64, far below what decides
_SLACK = 1e-9


@dataclass(frozen=True)
class Frusta:
    """Views as arrays, with what their random samples are drawn from.

    Lens distortion moves a frustum's edge by a few pixels and is left out here (and only here). Pixels are uniform over
    the image, depth (z) is uniform in ``depth_range``.
    """

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
    ) -> Self:
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
        points = _points(self, slice(i, i + 1), self.unit_samples(i, i + 1))[0]
        return (points - self.poses[i, :, 3]) @ self.poses[i, :, :3]  # R^T (x - t), row by row


def harmonic_mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """2 a b / (a + b), at most 1; 0 where both are 0."""
    total = a + b
    return np.minimum(np.divide(2 * a * b, total, out=np.zeros_like(total), where=total > 0), 1.0)


def visible_shares(
    frusta: Frusta, world_S3: np.ndarray, i: int, others: np.ndarray, within: tuple[float, float] = (0.0, np.inf)
) -> np.ndarray:
    """Share [C] of i's samples [S, 3] (world) that each of the cameras ``others`` [C] sees at depths ``within`` these,
    with the angle's weight.

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
        visible = (depth > within[0]) & (x >= 0) & (x < width * depth) & (y >= 0) & (y < height * depth)
        if within[1] < np.inf:
            visible &= depth < within[1]
        # in the world, j's ray is R^T local, as long as local, and i's ray plus the baseline; one product a camera:
        # the rounding of a joint one would depend on how many there are
        baseline = (frusta.centres[i] - frusta.centres[j])[:, None]  # [C, 1, 3]
        dot = squares + (baseline @ ray.T)[:, 0]  # [C, S]
        lengths = np.sqrt(squares * np.einsum("cks,cks->cs", local, local))
        cosine = np.divide(dot, lengths, out=np.ones_like(dot), where=lengths > 0)
        weight = (1 + np.clip(cosine, -1, 1)) / 2
        out[at : at + chunk] = (weight * visible).mean(1)
    return out


def frustum_graph(
    views: Sequence[View],
    samples: int,
    depth_range: tuple[float, float],
    min_overlap: float,
    rng: np.random.Generator,
    parts: np.ndarray | None = None,
) -> scipy.sparse.csr_array:
    """The overlaps [N, N] of at least ``min_overlap``, and above 0: symmetric, sorted, without a diagonal.

    Equal to the last bit to the overlaps of all pairs with the smaller values set to 0. Images with different
    ``parts`` [N] have no edge. Memory grows with the images and the edges. One thread: two were no faster.
    """
    frusta = Frusta.of(views, samples, depth_range, rng)
    search = _Search(frusta, min_overlap, parts)
    edges = [search.edges_of_block(number) for number in track(range(len(search.blocks)), "frustum overlap")]
    i, j, overlap = (np.concatenate(part) for part in zip(*edges, strict=True))
    n = len(frusta)
    half = scipy.sparse.csr_array((overlap, (i, j)), shape=(n, n))
    whole = scipy.sparse.csr_array(half + half.T)  # no pair comes twice: nothing is added up
    whole.sort_indices()
    return whole


def tube_graph(
    views: Sequence[View],
    samples: int,
    depth_range: tuple[float, float],
    min_overlap: float,
    rng: np.random.Generator,
    parts: np.ndarray | None = None,
) -> scipy.sparse.csr_array:
    """The graph of R-SCoRe's public code (cvg/scrstudio, scripts/overlap_score.py), as ``frustum_graph`` but for:

    - the place of a sample on the plane z = 1 is not multiplied by its depth, so that samples fill a tube as wide as
      the image at depth 1 (in the scene's unit);
    - j sees a sample only where its depth in j is within the range;
    - all images have the same depths.
    """
    frusta = Frusta.of(views, samples, depth_range, rng)
    unit = frusta.unit_samples(0, 1)
    depth = depth_range[0] + unit[0, :, 2] * (depth_range[1] - depth_range[0])
    seen_to = np.linalg.norm(_points(frusta, slice(None), _CORNERS), axis=2).max(1)  # of each image
    reach = seen_to / depth_range[1] + depth_range[1] + seen_to.max()  # at least as far as i's samples and j's sight
    least = min_overlap / (2 - min_overlap)  # below it in one direction, 1 in the other is too little
    rows = []
    for i in track(range(len(frusta)), "frustum overlap"):
        unit = frusta.unit_samples(i, i + 1)
        plane = np.c_[unit[0, :, :2] * frusta.sizes[i], np.ones(samples)] @ np.linalg.inv(frusta.K[i]).T
        R, t = frusta.poses[i, :, :3], frusta.poses[i, :, 3]
        near = np.linalg.norm(frusta.centres - frusta.centres[i], axis=1) <= reach[i]
        near[i] = False
        if parts is not None:
            near &= parts == parts[i]
        others = np.flatnonzero(near)
        share = visible_shares(frusta, (np.c_[plane[:, :2], depth] - t) @ R, i, others, depth_range)
        kept = (share >= least) & (share > 0)
        rows.append((others[kept], share[kept]))
    ends = np.cumsum([0, *(len(columns) for columns, _ in rows)])
    columns, shares = (np.concatenate(found) for found in zip(*rows, strict=True))
    seen = scipy.sparse.csr_array((shares, columns, ends), shape=(len(frusta),) * 2)
    both = scipy.sparse.coo_array(seen.multiply(seen.T))
    overlap = 2 * both.data / scipy.sparse.csr_array(seen + seen.T)[both.row, both.col]
    kept = overlap >= min_overlap
    graph = scipy.sparse.csr_array((overlap[kept], (both.row[kept], both.col[kept])), shape=seen.shape)
    graph.sort_indices()
    return graph


class _Search:
    """The bounds of all images, and the rounds over one block of them."""

    def __init__(self, frusta: Frusta, threshold: float, parts: np.ndarray | None):
        self.frusta, self.threshold, self.parts = frusta, threshold, parts
        # rounding of a position, where world coordinates are large
        self._grain = 1e-12 * (1 + np.abs(frusta.poses[:, :, 3]).max())
        self._statistics()
        self._planes()
        self._reach = self._reaches()
        order = cKDTree(frusta.centres, leafsize=_BLOCK).indices.astype(np.int64)
        self.blocks = [order[at : at + _BLOCK] for at in range(0, len(order), _BLOCK)]
        self._middles = np.stack([frusta.centres[b].mean(0) for b in self.blocks])
        spread = (frusta.centres[b] - m for b, m in zip(self.blocks, self._middles, strict=True))
        self._radii = np.array([np.linalg.norm(offsets, axis=1).max() for offsets in spread])
        self._block_reach = np.array([self._reach[b].max() for b in self.blocks])

    def _statistics(self) -> None:
        """m, q, M, mean of r v, and the largest r, for every image."""
        f, n = self.frusta, len(self.frusta)
        self._m, self._n = np.empty((n, 3)), np.empty((n, 3))
        self._q, self._M = np.empty(n), np.empty((n, 3, 3))
        corners = _points(f, slice(None), _CORNERS)  # [N, 8, 3]
        self._farthest = np.linalg.norm(corners, axis=2).max(1)
        self._corners = corners
        for begin in range(0, n, _BLOCK):
            block = slice(begin, min(begin + _BLOCK, n))
            points = _points(f, block, f.unit_samples(block.start, block.stop))
            r = np.linalg.norm(points, axis=2)
            v = np.divide(points, r[..., None], out=np.zeros_like(points), where=r[..., None] > 0)
            R = f.poses[block, :, :3]
            self._m[block] = np.einsum("bji,bj->bi", R, v.mean(1))
            self._n[block] = np.einsum("bji,bj->bi", R, points.mean(1))
            self._q[block] = r.mean(1)
            local = np.einsum("bsi,bsj->bij", points, v, optimize=True) / f.samples
            self._M[block] = np.einsum("bki,bkl,blj->bij", R, local, R)

    def _planes(self) -> None:
        """The pyramids' five planes and the balls around the bounded frusta, in the world."""
        f = self.frusta
        middle = self._corners.mean(1)
        self._radius = np.linalg.norm(self._corners - middle[:, None], axis=2).max(1) * (1 + _SLACK) + self._grain
        R, t = f.poses[:, :, :3], f.poses[:, :, 3]
        self._balls = np.einsum("nji,nj->ni", R, middle - t)  # [N, 3]
        # inward normals: rows of K and of the bounds, as x_px >= 0 <=> k0 . p >= 0 and so on (for z > 0)
        k0, k1, k2 = f.K[:, 0], f.K[:, 1], f.K[:, 2]
        planes = np.stack([k0, f.sizes[:, :1] * k2 - k0, k1, f.sizes[:, 1:] * k2 - k1, k2], 1)  # [N, 5, 3]
        planes /= np.linalg.norm(planes, axis=2, keepdims=True)
        self._normals = planes @ R  # [N, 5, 3]
        self._offsets = np.einsum("npk,nk->np", planes, t)  # [N, 5]

    def _reaches(self) -> np.ndarray:
        """[N] distance beyond which the bound of round 1 is below the threshold for every direction."""
        f = self.frusta
        largest = self._farthest.max()
        rays = np.einsum("nji,nkj->nki", f.poses[:, :, :3], self._corners[:, 4:])  # of the image's corners
        rays /= np.linalg.norm(rays, axis=2, keepdims=True)

        def widest(direction_N3: np.ndarray) -> np.ndarray:
            unit = direction_N3 / np.linalg.norm(direction_N3, axis=1, keepdims=True)
            cosine = np.einsum("nki,ni->nk", rays, unit).min(1)
            # of a cone on one side of a plane, the ray farthest from a direction is a corner's
            return np.where(cosine > 0, np.arccos(np.clip(cosine, 0, 1)), np.pi)

        def bound(distance: np.ndarray) -> np.ndarray:
            beyond = np.arcsin(np.minimum(1, largest / distance))
            cosine = np.cos(np.minimum(np.pi, angle_m + beyond))
            along = np.maximum(0, np.cos(np.minimum(np.pi, angle_n + beyond))) * np.linalg.norm(self._n, axis=1)
            # e.M e = mean r (e.v)^2 >= (mean r e.v)^2 / mean r
            across = self._q - along**2 / self._q
            return (1 - np.linalg.norm(self._m, axis=1) * cosine) / 2 + _k(
                self._farthest / distance
            ) * across / 2 / distance

        angle_m, angle_n = widest(self._m), widest(self._n)
        limit = self.threshold * (1 - _SLACK) - 1e-12
        low, high = np.full(len(f), largest * (1 + 1e-6)), np.full(len(f), largest * 1e6)
        never = bound(high) >= limit
        for _ in range(60):
            middle = np.sqrt(low * high)
            open_ = bound(middle) >= limit
            low, high = np.where(open_, middle, low), np.where(open_, high, middle)
        return np.where(never, np.inf, high)

    def edges_of_block(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Edges i, j, overlap of block ``number`` with itself and later blocks."""
        i, j, back = self._candidates(number)
        a = self._shares(i, j)
        keep = self._reaches_threshold(a, back)
        i, j, a = i[keep], j[keep], a[keep]
        overlap = harmonic_mean(a, self._shares(j, i))
        keep = (overlap >= self.threshold) & (overlap > 0)
        return i[keep], j[keep], overlap[keep]

    def _reaches_threshold(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a > 0) & (b > 0) & (harmonic_mean(a, b) >= self.threshold * (1 - _SLACK))

    def _candidates(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs i, j that both rounds leave, and their bounds B."""
        mine = self.blocks[number]
        apart = np.linalg.norm(self._middles - self._middles[number], axis=1)
        reach = np.maximum(self._block_reach, self._block_reach[number])
        close = apart * (1 - _SLACK) <= self._radii + self._radii[number] + reach
        rows, columns = [], []
        later = np.flatnonzero(close[number:]) + number
        for at in np.split(later, range(_BLOCKS_AT_ONCE, len(later), _BLOCKS_AT_ONCE)):
            others = np.concatenate([self.blocks[b] for b in at])
            meets = self._meets(mine, others)
            if at[0] == number:  # the block with itself: each pair once
                meets[:, : len(mine)] &= np.triu(np.ones((len(mine), len(mine)), bool), 1)
            r, c = np.nonzero(meets)
            rows.append(mine[r])
            columns.append(others[c])
        i, j = np.concatenate(rows), np.concatenate(columns)
        if self.parts is not None:
            same = self.parts[i] == self.parts[j]
            i, j = i[same], j[same]
        back = self._far_bound(j, i)
        keep = self._reaches_threshold(self._far_bound(i, j), back)
        return i[keep], j[keep], back[keep]

    def _meets(self, mine: np.ndarray, others: np.ndarray) -> np.ndarray:
        """[mine, others] bool: the ball of each against the pyramid of the other."""
        meets = np.ones((len(mine), len(others)), bool)
        for plane in range(5):
            # ball of others against a plane of mine, and the reverse
            distance = self._normals[mine, plane] @ self._balls[others].T + self._offsets[mine, plane, None]
            meets &= distance >= -self._radius[others]
            distance = self._balls[mine] @ self._normals[others, plane].T + self._offsets[others, plane]
            meets &= distance >= -self._radius[mine, None]
        return meets

    def _far_bound(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """A(e, d) of round 1 for pairs i, j; 1 where j is nearer than i's farthest sample."""
        e = self.frusta.centres[j] - self.frusta.centres[i]
        d = np.linalg.norm(e, axis=1)
        far = d > self._farthest[i] * (1 + 1e-6)
        e, d, i_far = e[far] / d[far, None], d[far], i[far]
        across = self._q[i_far] - np.einsum("pi,pij,pj->p", e, self._M[i_far], e)
        bound = np.ones(len(i))
        bound[far] = (1 - np.einsum("pi,pi->p", e, self._m[i_far])) / 2 + _k(self._farthest[i_far] / d) * across / 2 / d
        return np.minimum(bound + _SLACK, 1.0)

    def _shares(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Share [P] of i's samples that j sees, for pairs i, j; the samples of each i are made once."""
        out = np.empty(len(i))
        order = np.argsort(i, kind="stable")
        for pairs in np.split(order, np.flatnonzero(np.diff(i[order])) + 1):
            if len(pairs):
                source = int(i[pairs[0]])
                out[pairs] = visible_shares(self.frusta, self.frusta.world_samples(source), source, j[pairs])
        return out


_CORNERS = np.array([(x, y, z) for z in (0, 1) for x, y in ((0, 0), (1, 0), (0, 1), (1, 1))], float)  # near, then far


def _points(frusta: Frusta, images: slice | np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Points [B, S, 3] in each camera's frame of ``unit`` ([S, 3] or [B, S, 3]; across, down, depth in 0..1)."""
    sizes, (near, far) = frusta.sizes[images], frusta.depth_range
    unit = np.broadcast_to(unit, (len(sizes), *unit.shape[-2:]))
    pixels = np.concatenate([unit[..., :2] * sizes[:, None], np.ones((*unit.shape[:2], 1))], 2)
    inverse = np.linalg.inv(frusta.K[images])
    return (pixels @ np.swapaxes(inverse, 1, 2)) * (near + unit[..., 2:] * (far - near))


def _k(x: np.ndarray) -> np.ndarray:
    return (1 - x / 2) / (1 - x) ** 2
