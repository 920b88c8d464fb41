"""Software renderer of the synthetic demo scene: textured rectangles, exact per-ray lens model, NumPy only.

World: metres, z up. Camera: OpenCV axes (x right, y down, z forward). Pixels as in COLMAP: the centre of the top-left
pixel is (0.5, 0.5). Every pixel is the mean of SS x SS rays, and each ray reads a mip-mapped texture.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

SS = 3  # rays per pixel side
NEAR = 0.05  # m


def generator(*names: object) -> np.random.Generator:
    """A random generator that depends on nothing but its name."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


@dataclass(frozen=True)
class Camera:
    """Pinhole camera with at most one radial coefficient, in COLMAP's parameters (px)."""

    model: str  # PINHOLE (fx fy cx cy) or SIMPLE_RADIAL (f cx cy k)
    width: int
    height: int
    params: tuple[float, ...]

    @property
    def focal(self) -> float:
        """Focal length (px)."""
        return self.params[0]

    def rays(self, px: np.ndarray) -> np.ndarray:
        """Pixels [..., 2] to undistorted normalised image coordinates [..., 2] (the ray is (x, y, 1))."""
        if self.model == "PINHOLE":
            fx, fy, cx, cy = self.params
            return (px - (cx, cy)) / (fx, fy)
        f, cx, cy, k = self.params
        xy = (px - (cx, cy)) / f
        rd = np.linalg.norm(xy, axis=-1)
        r = rd.copy()
        for _ in range(8):  # Newton on r (1 + k r^2) = rd
            r -= (r * (1 + k * r * r) - rd) / (1 + 3 * k * r * r)
        return xy * (r / np.maximum(rd, 1e-12))[..., None]

    def grid(self) -> np.ndarray:
        """Normalised coordinates of all sub-pixel rays [H * SS, W * SS, 2]."""
        x = (np.arange(self.width * SS) + 0.5) / SS
        y = (np.arange(self.height * SS) + 0.5) / SS
        return self.rays(np.stack(np.meshgrid(x, y), axis=-1)).astype(np.float32)


@dataclass
class Atlas:
    """All textures and their mip levels in one flat buffer of RGB + mask texels.

    The mask is 0 where a texel is cut out, 255 where it is plain surface, and 1 .. 250 in numbered window panes.
    """

    names: dict[str, int] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # width, height in texels
    chunks: list[np.ndarray] = field(default_factory=list)
    offset: list[list[int]] = field(default_factory=list)
    levels: int = 8
    used: int = 0

    def add(self, name: str, rgb: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Store texture [h, w, 3] in 0..1 (sRGB) with mask [h, w] (uint8); sides are padded by nothing."""
        h, w = rgb.shape[:2]
        mask = np.full((h, w), 255, np.uint8) if mask is None else mask
        level, offsets = np.clip(rgb, 0, 1).astype(np.float32), []
        self.names[name] = len(self.sizes)
        self.sizes.append((w, h))
        for _ in range(self.levels):
            texels = np.dstack([np.round(level * 255).astype(np.uint8), mask])
            self.chunks.append(np.ascontiguousarray(texels).view(np.uint32).reshape(-1))
            offsets.append(self.used)
            self.used += texels.shape[0] * texels.shape[1]
            h2, w2 = max(h // 2, 1), max(w // 2, 1)
            if h >= 2 and w >= 2:
                level = level[: h2 * 2, : w2 * 2].reshape(h2, 2, w2, 2, 3).mean((1, 3))
                mask = mask[: h2 * 2 : 2, : w2 * 2 : 2]
                h, w = h2, w2
        self.offset.append(offsets)

    def freeze(self) -> None:
        """Build the flat arrays that look-ups read."""
        self.flat = np.concatenate(self.chunks)
        self.chunks.clear()
        self.off = np.array(self.offset, np.int64)
        size = np.array(self.sizes)
        steps = np.arange(self.levels)
        self.w = np.ones((len(size), self.levels), np.int32)
        self.h = np.ones_like(self.w)
        for i, (w, h) in enumerate(size):
            for s in steps:
                self.w[i, s], self.h[i, s] = w, h
                if w >= 2 and h >= 2:
                    w, h = w // 2, h // 2

    def mask_at(self, tex: np.ndarray | int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Nearest mask value (uint8) at texture coordinates u, v (1 is one repeat)."""
        w, h = self.w[tex, 0], self.h[tex, 0]
        x, y = ((u - np.floor(u)) * w).astype(np.int32), ((v - np.floor(v)) * h).astype(np.int32)
        return (self.flat[self.off[tex, 0] + np.minimum(y, h - 1) * w + np.minimum(x, w - 1)] >> 24).astype(np.uint8)

    def colour(self, tex: np.ndarray, level: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Bilinear, wrapping look-up at mip levels; arrays [n] to linear RGB [n, 3]."""
        w, h, off = self.w[tex, level], self.h[tex, level], self.off[tex, level]
        x = (u - np.floor(u)) * w - np.float32(0.5)
        y = (v - np.floor(v)) * h - np.float32(0.5)
        x0, y0 = np.floor(x), np.floor(y)
        fx, fy = (x - x0).astype(np.float32)[:, None], (y - y0).astype(np.float32)[:, None]
        xa, ya = x0.astype(np.int32) % w, y0.astype(np.int32) % h
        xb, yb = (xa + 1) % w, (ya + 1) % h

        def texel(yy: np.ndarray, xx: np.ndarray) -> np.ndarray:
            return TO_LINEAR[self.flat[off + yy * w + xx].view(np.uint8).reshape(-1, 4)[:, :3]]

        top = texel(ya, xa) * (1 - fx) + texel(ya, xb) * fx
        return top * (1 - fy) + (texel(yb, xa) * (1 - fx) + texel(yb, xb) * fx) * fy


TO_LINEAR = ((np.arange(256) / 255) ** 2.2).astype(np.float32)


@dataclass
class Scene:
    """Rectangles: top-left corner `o`, edges `u` (right) and `v` (down) [n, 3] m, seen from the side of the normal."""

    atlas: Atlas
    rows: list[tuple] = field(default_factory=list)
    lamps: list[tuple] = field(default_factory=list)  # position xyz m, linear RGB strength
    obstacles: list[tuple] = field(default_factory=list)  # x, y, radius m: no camera stands there

    def rect(self, o, u, v, tex: str, uv=(0.0, 0.0, 1.0, 1.0), two_sided=False, glow=0.0, lit=None) -> None:
        """Add a rectangle; uv is (left, top, right, bottom) in repeats; glow emits at night; lit: pane ids alight."""
        self.rows.append((np.asarray(o, float), np.asarray(u, float), np.asarray(v, float),
                          self.atlas.names[tex], uv, two_sided, glow, lit))  # fmt: skip

    def freeze(self) -> None:
        """Build the arrays that the renderer reads."""
        self.atlas.freeze()
        self.o, self.u, self.v = (np.stack([r[i] for r in self.rows]) for i in range(3))
        self.lu, self.lv = np.linalg.norm(self.u, axis=1), np.linalg.norm(self.v, axis=1)
        n = np.cross(self.v, self.u)
        self.n = n / np.linalg.norm(n, axis=1, keepdims=True)
        self.tex = np.array([r[3] for r in self.rows])
        self.uv = np.array([r[4] for r in self.rows], np.float32)
        self.two_sided = np.array([r[5] for r in self.rows])
        self.glow = np.array([r[6] for r in self.rows], np.float32)
        self.lit = np.zeros((len(self.rows), 256), np.float32)
        for i, r in enumerate(self.rows):
            for pane, strength in (r[7] or {}).items():
                self.lit[i, pane] = strength
        self.n32 = self.n.astype(np.float32)
        size = np.array(self.atlas.sizes, float)[self.tex]
        self.density = np.sqrt(size[:, 0] * np.abs(self.uv[:, 2] - self.uv[:, 0]) / self.lu
                               * size[:, 1] * np.abs(self.uv[:, 3] - self.uv[:, 1]) / self.lv)  # fmt: skip
        self.density32 = self.density.astype(np.float32)
        self.cutout = np.array([bool((self.atlas.flat[o[0] : o[1]] >> 24 == 0).any()) for o in self.atlas.off])

    def hit(self, i: int, A: np.ndarray, x: np.ndarray, y: np.ndarray, best: np.ndarray):
        """Intersect rays of rectangle i closer than `best`: rows of A give (1/t, a/t, b/t) as linear forms in x, y, 1.

        Returns a mask of hits and t, a, b (0..1 along u and v) in arrays of the shape of x.
        """
        inv = A[0, 0] * x + A[0, 1] * y + A[0, 2]
        t = 1 / np.where(inv > 1e-6, inv, np.float32(1e-6))
        ok = (inv > 1e-6) & (t < best) & (t > NEAR)
        a = (A[1, 0] * x + A[1, 1] * y + A[1, 2]) * t
        ok &= (a >= 0) & (a < 1)
        b = (A[2, 0] * x + A[2, 1] * y + A[2, 2]) * t
        ok &= (b >= 0) & (b < 1)
        if self.cutout[self.tex[i]] and ok.any():
            u0, v0, u1, v1 = self.uv[i]
            ok[ok] = self.atlas.mask_at(self.tex[i], u0 + a[ok] * (u1 - u0), v0 + b[ok] * (v1 - v0)) > 0
        return ok, t, a, b

    def forms(self, i: int, R: np.ndarray, c: np.ndarray) -> np.ndarray | None:
        """Linear forms [3, 3] for `hit` of rectangle i from camera centre c and R (cam_from_world); None if behind."""
        h = (self.o[i] - c) @ self.n[i]
        if abs(h) < 1e-6 or (h > 0 and not self.two_sided[i]):
            return None
        plane = R @ self.n[i] / h
        uc, vc = R @ self.u[i] / self.lu[i] ** 2, R @ self.v[i] / self.lv[i] ** 2
        rel = c - self.o[i]
        a = uc + rel @ self.u[i] / self.lu[i] ** 2 * plane
        b = vc + rel @ self.v[i] / self.lv[i] ** 2 * plane
        return np.stack([plane, a, b]).astype(np.float32)

    def raster(self, grid: np.ndarray, R: np.ndarray, c: np.ndarray):
        """Nearest rectangle per ray: arrays of grid's shape [h, w]: index (-1 sky), depth (m), a, b."""
        x, y = np.ascontiguousarray(grid[..., 0]), np.ascontiguousarray(grid[..., 1])
        x_lo, x_hi, y_lo, y_hi = x.min(0), x.max(0), y.min(1), y.max(1)
        index = np.full(x.shape, -1, np.int32)
        depth, aa, bb = np.full(x.shape, np.inf, np.float32), np.zeros_like(x), np.zeros_like(x)
        for i in np.argsort(np.linalg.norm(self.o + (self.u + self.v) / 2 - c, axis=1)):
            A = self.forms(i, R, c)
            if A is None:
                continue
            corners = (self.o[i] + np.array([0, 1, 1, 0])[:, None] * self.u[i] + np.array([0, 0, 1, 1])[:, None]
                       * self.v[i] - c) @ R.T  # fmt: skip
            poly = []
            for p, q in zip(corners, np.roll(corners, -1, 0), strict=True):  # clip to z > NEAR
                if p[2] > NEAR:
                    poly.append(p)
                if (p[2] > NEAR) != (q[2] > NEAR):
                    poly.append(p + (q - p) * (NEAR - p[2]) / (q[2] - p[2]))
            if not poly:
                continue
            xy = np.array(poly)[:, :2] / np.array(poly)[:, 2:]
            (lx, ly), (hx, hy) = xy.min(0), xy.max(0)
            cols, rows = np.flatnonzero((x_hi >= lx) & (x_lo <= hx)), np.flatnonzero((y_hi >= ly) & (y_lo <= hy))
            if not len(cols) or not len(rows):
                continue
            box = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
            ok, t, a, b = self.hit(i, A, x[box], y[box], depth[box])
            np.copyto(depth[box], t, where=ok)
            np.copyto(aa[box], a, where=ok)
            np.copyto(bb[box], b, where=ok)
            np.copyto(index[box], np.int32(i), where=ok)
        return index, depth, aa, bb

    def depth_at(self, camera: Camera, R: np.ndarray, c: np.ndarray, px: np.ndarray) -> np.ndarray:
        """Depth z (m, inf for sky) of single pixels [n, 2]."""
        xy = camera.rays(px).astype(np.float32)
        best = np.full(len(xy), np.inf, np.float32)
        for i in range(len(self.o)):
            A = self.forms(i, R, c)
            if A is not None:
                ok, t, _, _ = self.hit(i, A, xy[:, 0], xy[:, 1], best)
                best[ok] = t[ok]
        return best


class Sun:
    """Directional light with a depth map for its shadows."""

    def __init__(self, scene: Scene, towards: tuple[float, float, float], extent: float = 36.0, size: int = 2000):
        """Depth map of size x size texels over +-extent m, for light from the direction `towards`."""
        self.d = np.array(towards) / np.linalg.norm(towards)
        self.right = np.cross([0, 0, 1], self.d)
        self.right /= np.linalg.norm(self.right)
        self.up = np.cross(self.d, self.right)
        self.extent, self.size = extent, size
        self.map = np.full((size, size), -1e3, np.float32)  # height towards the sun, m
        s = ((np.arange(size) + 0.5) / size * 2 - 1) * extent
        for i in range(len(scene.o)):
            dn = self.d @ scene.n[i]
            if abs(dn) < 1e-3:
                continue
            o, u, v = scene.o[i], scene.u[i], scene.v[i]
            flat = np.array([[e @ self.right, e @ self.up] for e in (u, v)]).T
            if abs(np.linalg.det(flat)) < 1e-6:
                continue
            start = np.array([o @ self.right, o @ self.up])
            quad = start + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) @ flat.T
            (lx, ly), (hx, hy) = quad.min(0), quad.max(0)
            cols, rows = np.flatnonzero((s >= lx) & (s <= hx)), np.flatnonzero((s >= ly) & (s <= hy))
            if not len(cols) or not len(rows):
                continue
            X, Y = np.meshgrid(s[cols], s[rows])
            a, b = np.einsum("ij,jhw->ihw", np.linalg.inv(flat), np.stack([X - start[0], Y - start[1]]))
            ok = (a >= 0) & (a < 1) & (b >= 0) & (b < 1)
            if scene.cutout[scene.tex[i]]:
                u0, v0, u1, v1 = scene.uv[i]
                ok &= scene.atlas.mask_at(scene.tex[i], u0 + a * (u1 - u0), v0 + b * (v1 - v0)) > 0
            height = (o @ self.d + a * (u @ self.d) + b * (v @ self.d)).astype(np.float32)
            box = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
            np.copyto(self.map[box], height, where=ok & (height > self.map[box]))

    def visible(self, p: np.ndarray, n: np.ndarray) -> np.ndarray:
        """Share of sun (0 or 1, float32 [k]) at points p [k, 3] with normals n [k, 3]."""
        p = p + n * np.float32(0.08)
        ix = ((p @ self.right / self.extent + 1) / 2 * self.size).astype(np.int32)
        iy = ((p @ self.up / self.extent + 1) / 2 * self.size).astype(np.int32)
        inside = (ix >= 0) & (iy >= 0) & (ix < self.size) & (iy < self.size)
        top = self.map[np.clip(iy, 0, self.size - 1), np.clip(ix, 0, self.size - 1)]
        return (~inside | (p @ self.d + 0.03 >= top)).astype(np.float32)


def shade(scene: Scene, sun: Sun, camera: Camera, c, d, i, t, a, b, night: bool) -> np.ndarray:
    """Linear RGB [k, 3] of rays d [k, 3] from c that meet rectangle i at depth t and coordinates a, b (all [k])."""
    p = c + d * t[:, None]
    n = scene.n32[i]
    facing = -(d * n).sum(1)
    n *= np.sign(facing)[:, None]
    cos = np.maximum(np.abs(facing) / np.linalg.norm(d, axis=1), 0.02)
    foot = scene.density32[i] * t / (camera.focal * SS) / cos**0.65
    level = np.clip(np.ceil(np.log2(np.maximum(foot, 1e-6)) - 0.25), 0, scene.atlas.levels - 1).astype(np.int32)
    uv = scene.uv[i]
    tu, tv = uv[:, 0] + a * (uv[:, 2] - uv[:, 0]), uv[:, 1] + b * (uv[:, 3] - uv[:, 1])
    albedo = scene.atlas.colour(scene.tex[i], level, tu, tv)
    ground_near = 0.72 + 0.28 * np.clip(p[:, 2] / 1.5 + (n[:, 2] > 0.5), 0, 1)  # ambient occlusion at the foot of walls
    if night:
        e = np.float32([0.005, 0.0065, 0.011]) * ground_near[:, None]
        for position, strength in scene.lamps:
            to = np.float32(position) - p
            r2 = (to**2).sum(1) + 0.15
            e += (np.maximum((to * n).sum(1), 0) / r2**1.5)[:, None] * np.float32(strength)
        glow = scene.glow[i]
        pane = scene.atlas.mask_at(scene.tex[i], tu, tv)
        inside = scene.lit[i, pane][:, None] * np.float32([1.0, 0.72, 0.38])
        return albedo * (e + glow[:, None] * np.float32([1.0, 0.92, 0.8])) + inside * (0.25 + 1.2 * albedo)
    sunlit = np.maximum(n @ sun.d.astype(np.float32), 0) * sun.visible(p, n)
    e = np.float32([0.62, 0.66, 0.72]) * (ground_near * (0.8 + 0.2 * n[:, 2]))[:, None]
    return albedo * (e + sunlit[:, None] * np.float32([0.75, 0.70, 0.60]))


def render(scene: Scene, sun: Sun, camera: Camera, grid: np.ndarray, R: np.ndarray, c: np.ndarray, night: bool,
           rng: np.random.Generator) -> np.ndarray:  # fmt: skip
    """An image uint8 [H, W, 3] from centre c (m) and rotation R (cam_from_world), with sensor effects."""
    index, depth, a, b = scene.raster(grid, R, c)
    directions = np.dstack([grid, np.ones(grid.shape[:2], np.float32)]) @ R.astype(np.float32)
    light = np.empty((*index.shape, 3), np.float32)
    up = directions[..., 2] / np.linalg.norm(directions, axis=-1)
    k = np.clip(up, 0, 1)[..., None] ** 0.6
    horizon, zenith = (
        ([0.020, 0.024, 0.040], [0.004, 0.007, 0.02]) if night else ([0.85, 0.9, 0.95], [0.30, 0.48, 0.80])
    )
    light[:] = np.float32(horizon) * (1 - k) + np.float32(zenith) * k
    flat, dirs = light.reshape(-1, 3), directions.reshape(-1, 3)
    hits = [k.reshape(-1) for k in (index, depth, a, b)]
    seen = np.flatnonzero(hits[0] >= 0)
    for chunk in np.array_split(seen, max(len(seen) // 40000, 1)):  # small enough for the cache
        flat[chunk] = shade(scene, sun, camera, c.astype(np.float32), dirs[chunk], *(k[chunk] for k in hits), night)
    image = light.reshape(camera.height, SS, camera.width, SS, 3).mean((1, 3))
    r2 = ((np.arange(camera.width) + 0.5 - camera.width / 2) ** 2 + (np.arange(camera.height)[:, None] + 0.5
          - camera.height / 2) ** 2) / (camera.width / 2) ** 2  # fmt: skip
    image *= (1 - 0.13 * r2)[..., None]  # vignette
    image *= rng.uniform(0.85, 1.15) * rng.uniform(0.97, 1.03, 3)  # exposure, tint
    if night:
        image *= 2.0
        image += rng.normal(size=image.shape) * np.sqrt(1.2e-5 + 6e-4 * np.maximum(image, 0))
    else:
        image *= 0.95
        image += rng.normal(size=image.shape) * np.sqrt(4e-6 + 6e-5 * np.maximum(image, 0))
    image = np.maximum(image, 0)
    image = np.where(image > 0.7, 0.7 + 0.3 * np.tanh((image - 0.7) / 0.3), image)  # soft highlights
    return np.round(np.clip(image ** (1 / 2.2), 0, 1) * 255).astype(np.uint8)
