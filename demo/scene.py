"""The synthetic town square: procedural textures, houses of repeated modules, street furniture, lamps.

World axes: x east, y north, z up, metres; the square spans |x|, |y| <= 20.8 (13 modules of 3.2 m a side). Everything
drawn with the same module name is pixel-identical wherever it stands; signs, posters, the church and the town hall
are unique.
"""

from __future__ import annotations

import numpy as np
from render import Atlas, Scene, generator
from scipy import ndimage

PX = 100  # texels per metre on facades
M = 3.2  # width and height of a facade module, m
HALF = 6.5 * M  # half side of the square, m
INK = [np.array(c) for c in ([0.75, 0.12, 0.1], [0.1, 0.25, 0.6], [0.95, 0.9, 0.8], [0.08, 0.08, 0.1],
                             [0.9, 0.7, 0.1], [0.1, 0.45, 0.25], [0.5, 0.15, 0.45], [0.9, 0.45, 0.1])]  # fmt: skip


# ---- textures: float RGB [h, w, 3] in 0..1 ---------------------------------------------------------------------------
def noise(rng, h: int, w: int, cell: float, octaves: int = 3) -> np.ndarray:
    """Smooth noise [h, w], zero mean, unit deviation; cell is the coarsest period in texels."""
    out = np.zeros((h, w))
    for o in range(octaves):
        c = max(cell / 2**o, 1.0)
        small = rng.normal(size=(int(h / c) + 2, int(w / c) + 2))
        out += ndimage.zoom(small, c, order=1, grid_mode=False)[:h, :w] * 0.6**o if c > 1 else (
            rng.normal(size=(h, w)) * 0.6**o)  # fmt: skip
    return (out - out.mean()) / (out.std() + 1e-9)


def box(img, x0, y0, x1, y1, colour) -> None:
    """Fill a texel rectangle (clipped, fractions rounded)."""
    x0, y0, x1, y1 = (max(round(k), 0) for k in (x0, y0, x1, y1))
    img[y0:y1, x0:x1] = colour


def masonry(rng, h, w, bh, bw, colour, spread, joint=2, joint_colour=(0.62, 0.6, 0.56)) -> np.ndarray:
    """Courses of bricks or stones bh x bw texels, each with its own shade, bevelled."""
    y, x = np.mgrid[:h, :w]
    row = y // bh
    xs = x + (row % 2) * (bw // 2)
    col = xs // bw
    shade = rng.normal(size=(h // bh + 2, w // bw + 3)) * spread
    hue = rng.normal(size=(h // bh + 2, w // bw + 3, 3)) * spread * 0.08
    img = np.asarray(colour) * (1 + shade[row, col])[..., None] + hue[row, col]
    img[(y % bh == joint) | (xs % bw == joint)] *= 1.15
    img[(y % bh == bh - 1) | (xs % bw == bw - 1)] *= 0.8
    img[(y % bh < joint) | (xs % bw < joint)] = joint_colour
    img *= 1 + 0.05 * rng.normal(size=(h, w, 1)) + 0.05 * noise(rng, h, w, 60)[..., None]
    return img


def glyphs(rng, img, x0, y0, size, count, colour, gap=1.25) -> None:
    """A line of `count` letter-like random signs on a 4 x 6 stroke grid, height `size` texels."""
    cell = size / 6
    for k in range(count):
        x = x0 + k * size * gap * 0.75
        on = np.zeros((6, 4), bool)
        on[:, 0] = rng.random() < 0.8
        on[:, 3] |= rng.random() < 0.4
        on[[0, 2, 5][rng.integers(3)], :] = True
        on[[0, 3, 5][rng.integers(3)], 1:] = True
        on[rng.integers(6), rng.integers(4)] ^= True
        for r, c in zip(*np.nonzero(on), strict=True):
            box(img, x + c * cell, y0 + r * cell, x + (c + 1) * cell, y0 + (r + 1) * cell, colour)


def poster(name: str, h: int, w: int) -> np.ndarray:
    """A unique poster or sign [h, w, 3]: shapes, lettering, a border."""
    rng = generator("poster", name)
    ink = [INK[i] for i in rng.permutation(len(INK))]
    img = np.ones((h, w, 3)) * ink[0]
    y, x = np.mgrid[:h, :w]
    for k in range(9):
        cx, cy, r = rng.uniform(0, w), rng.uniform(0, h), rng.uniform(0.08, 0.35) * min(h, w)
        if rng.random() < 0.5:
            img[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = ink[1 + k % 4]
        else:
            t = rng.uniform(0, np.pi)
            p, q = (x - cx) * np.cos(t) + (y - cy) * np.sin(t), -(x - cx) * np.sin(t) + (y - cy) * np.cos(t)
            img[(abs(p) < r) & (abs(q) < r * rng.uniform(0.2, 1))] = ink[1 + k % 4]
    y0 = 0.06 * h
    while y0 < h * 0.9:
        s = rng.uniform(0.07, 0.2) * min(h, 1.6 * w)
        glyphs(rng, img, 0.07 * w, y0, s, int(w * 0.85 / (s * 0.94)), ink[5 + int(rng.integers(3))])
        y0 += s * rng.uniform(1.4, 3.2)
    b = max(int(0.02 * min(h, w)), 2)
    edge = (x < b) | (y < b) | (x >= w - b) | (y >= h - b)
    img[edge] = ink[7]
    return img * (1 + 0.04 * rng.normal(size=(h, w, 1)))


STYLES = {  # wall material, frame, shutter or trim, pane columns and rows
    "A": dict(wall="brick", colour=(0.55, 0.27, 0.2), frame=(0.92, 0.9, 0.85), trim=(0.8, 0.76, 0.68), panes=(2, 3)),
    "B": dict(wall="plaster", colour=(0.82, 0.71, 0.45), frame=(0.35, 0.2, 0.12), trim=(0.2, 0.38, 0.3), panes=(2, 4)),
    "C": dict(wall="stone", colour=(0.62, 0.6, 0.55), frame=(0.2, 0.23, 0.28), trim=(0.72, 0.7, 0.66), panes=(3, 3)),
    "D": dict(wall="timber", colour=(0.86, 0.82, 0.74), frame=(0.3, 0.17, 0.1), trim=(0.28, 0.16, 0.1), panes=(3, 4)),
}


def wall_texture(style: str, h: int, w: int, name: str) -> np.ndarray:
    """Bare wall of a style [h, w, 3]; the name picks the random details."""
    s, rng = STYLES[style], generator("wall", style, name)
    if s["wall"] == "brick":
        return masonry(rng, h, w, 8, 23, s["colour"], 0.16)
    if s["wall"] == "stone":
        return masonry(rng, h, w, 32, 64, s["colour"], 0.12, 2, (0.4, 0.39, 0.37))
    img = np.ones((h, w, 3)) * s["colour"]
    img *= 1 + 0.05 * noise(rng, h, w, 80, 5)[..., None] + 0.035 * rng.normal(size=(h, w, 1))
    img[noise(rng, h, w, 50, 4) > 1.75] *= 0.72  # chipped plaster
    if s["wall"] == "timber":
        y, x = np.mgrid[:h, :w]
        beam = (x % 320 < 18) | (x % 320 > 302) | (y % 320 < 20) | (abs((x % 320) - (y % 320) * 0.2 - 12) < 7)
        beam |= abs((320 - x % 320) - (y % 320) * 0.2 - 12) < 7
        img[beam] = np.array(s["trim"]) * (1 + 0.25 * noise(rng, h, w, 9, 2)[beam][:, None])
    return img


def module(style: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """One facade module: RGB [320, 320, 3] and pane mask [320, 320] (255 wall, 1 glass). Same name, same pixels."""
    s, rng, n = STYLES[style], generator("module", style, kind), 320
    img, mask = wall_texture(style, n, n, kind), np.full((n, n), 255, np.uint8)
    frame, trim = np.array(s["frame"]), np.array(s["trim"])

    def glass(x0, y0, x1, y1):
        x0, y0, x1, y1 = (int(k) for k in (x0, y0, x1, y1))
        h, w = y1 - y0, x1 - x0
        pane = np.ones((h, w, 3)) * (0.14, 0.18, 0.22) + np.linspace(0.16, 0, h)[:, None, None]
        fold = 0.55 + 0.2 * np.sin(np.arange(w) * rng.uniform(0.4, 0.8)) + 0.08 * rng.normal(size=w)
        cover = np.arange(w) < w * rng.uniform(0, 0.75)
        cover = cover if rng.random() < 0.5 else cover[::-1]
        pane[:, cover] = fold[cover, None] * np.array([0.9, 0.86, 0.78])
        pane[int(h * rng.uniform(0.5, 0.95)) :, :] *= 0.6
        img[y0:y1, x0:x1], mask[y0:y1, x0:x1] = pane, 1

    def window(x0, y0, x1, y1, cols, rows):
        box(img, x0 - 16, y0 - 22, x1 + 16, y1 + 8, trim * 0.95)
        for k in range(7):  # lintel stones
            xx = x0 - 16 + (x1 - x0 + 32) * k / 7
            box(img, xx, y0 - 22, xx + 2, y0 - 2, trim * 0.5)
        box(img, (x0 + x1) / 2 - 9, y0 - 30, (x0 + x1) / 2 + 9, y0 - 1, trim * 1.15)
        box(img, x0 - 24, y1 + 8, x1 + 24, y1 + 18, np.minimum(trim * 1.2, 1))
        box(img, x0 - 24, y1 + 18, x1 + 24, y1 + 24, trim * 0.35)
        box(img, x0, y0, x1, y1, frame)
        for c in range(cols):
            for r in range(rows):
                w, h = (x1 - x0 - 6) / cols, (y1 - y0 - 6) / rows
                glass(x0 + 6 + c * w, y0 + 6 + r * h, x0 + (c + 1) * w, y0 + (r + 1) * h)
        img[int(y0) : int(y0) + 7, int(x0) : int(x1)] *= 0.5  # reveal

    cols, rows = s["panes"]
    if kind == "window":
        window(100, 78, 220, 262, cols, rows)
        if style in "BC":  # shutters
            for x0 in (42, 226):
                box(img, x0, 72, x0 + 52, 268, trim * 0.8)
                for y0 in range(80, 262, 8):
                    box(img, x0 + 6, y0, x0 + 46, y0 + 4, trim * (0.45 if y0 % 96 else 1.3))
    elif kind == "twin":
        window(52, 84, 142, 256, 1 + cols // 2, rows)
        window(178, 84, 268, 256, 1 + cols // 2, rows)
        box(img, 150, 60, 170, 290, trim * 0.9)
        for y0 in range(64, 286, 22):
            box(img, 153, y0, 167, y0 + 12, trim * (0.5 + 0.5 * rng.random()))
    elif kind == "balcony":
        window(90, 50, 230, 318, 2, rows + 1)
        box(img, 84, 318, 236, 320, trim * 0.5)
    elif kind == "door":
        box(img, 78, 40, 242, 320, trim * 0.9)
        for y0 in range(44, 316, 28):
            box(img, 78, y0, 96, y0 + 2, trim * 0.45)
            box(img, 224, y0 + 14, 242, y0 + 16, trim * 0.45)
        box(img, 98, 100, 222, 320, frame * 0.7)
        for k in range(6):
            x0, y0 = 106 + (k % 2) * 58, 112 + (k // 2) * 68
            box(img, x0, y0, x0 + 50, y0 + 58, frame * 0.42)
            box(img, x0 + 5, y0 + 5, x0 + 45, y0 + 53, frame * (0.6 + 0.2 * rng.random()))
            box(img, x0 + 15, y0 + 18, x0 + 35, y0 + 40, frame * 0.95)
        glass(98, 52, 158, 94)
        glass(162, 52, 222, 94)
        box(img, 208, 214, 216, 222, (0.9, 0.75, 0.3))
        box(img, 112, 18, 208, 34, (0.1, 0.15, 0.3))
    else:  # shop
        box(img, 14, 40, 306, 312, frame * 0.85)
        for c in range(3):
            glass(24 + c * 96, 96, 110 + c * 96, 262)
            for _ in range(14):  # goods on display
                x0, y0 = 28 + c * 96 + rng.uniform(0, 62), rng.uniform(176, 240)
                box(img, x0, y0, x0 + rng.uniform(5, 18), 260, INK[rng.integers(8)] * rng.uniform(0.5, 1))
            glass(24 + c * 96, 52, 110 + c * 96, 88)
            box(img, 30 + c * 96, 272, 104 + c * 96, 304, frame * 0.5)
            box(img, 38 + c * 96, 278, 96 + c * 96, 298, trim * 0.8)
    return img * (1 + 0.03 * generator("grain", style, kind).normal(size=(n, n, 1))), mask


ROWS = {"A": "wtw", "B": "bwb", "C": "twt", "D": "wbt"}
KINDS = {"w": "window", "t": "twin", "b": "balcony", "d": "door", "s": "shop"}


def layout(style: str, cols: int, floors: int) -> list[str]:
    """Module letters, top floor first, one string a floor, ground floor last; the columns repeat a style's pattern."""
    pattern = ROWS[style]
    upper = ["".join(pattern[(c + f) % 3] if style in "AD" else pattern[c % 3] for c in range(cols))
             for f in range(floors - 1)]  # fmt: skip
    return [*upper, "".join("sds"[c % 3] for c in range(cols))]


def facade(style: str, cols: int, floors: int) -> tuple[np.ndarray, np.ndarray]:
    """Facade texture, numbered panes, with a cornice of 0.4 m on top and string courses."""
    grid = layout(style, cols, floors)
    modules = {k: module(style, KINDS[k]) for k in set("".join(grid))}
    rows, masks, pane = [], [], 0
    for line in grid:
        row, mrow = np.hstack([modules[k][0] for k in line]), []
        for k in line:
            pane += 1
            mrow.append(np.where(modules[k][1] == 1, pane, 255).astype(np.uint8))
        trim, x = np.array(STYLES[style]["trim"]), np.arange(row.shape[1])
        row[:14] = trim * np.where(x % 20 < 10, 1.1, 0.75)[None, :, None]
        row[14:18] *= 0.5
        rows.append(row)
        masks.append(np.hstack(mrow))
    x = np.arange(rows[0].shape[1])
    cornice = np.ones((40, len(x), 3)) * np.array(STYLES[style]["trim"])
    cornice[10:26] *= np.where(x % 32 < 14, 0.45, 1.1)[None, :, None]
    cornice[32:] *= 0.6
    return np.vstack([cornice, *rows]), np.vstack([np.full((40, len(x)), 255, np.uint8), *masks])


def landmark(name: str, cols: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A unique front (church or town hall) of cols modules and `height` texels, with numbered panes."""
    rng, w = generator("landmark", name), int(cols * M * PX)
    church = name == "church"
    img = masonry(rng, height, w, 40, 90, (0.72, 0.66, 0.55) if church else (0.66, 0.45, 0.36), 0.14, 3)
    mask = np.full((height, w), 255, np.uint8)
    y, x = np.mgrid[:height, :w]

    def arch(cx, top, half, bottom, pane):
        d = np.where(y < top + half, np.hypot(x - cx, y - top - half), abs(x - cx))
        inside = (y < bottom) & (y >= top - 20)
        ring = inside & (d < half + 18) & (d >= half)
        img[ring] = np.where(((y + (x > cx) * 9) // 18 % 2 == 0)[ring][:, None], (0.8, 0.76, 0.7), (0.5, 0.42, 0.38))
        glass = inside & (d < half)
        tile = rng.random((height // 14 + 1, w // 14 + 1, 3)) * 0.6
        img[glass] = tile[(y // 14)[glass], (x // 14)[glass]]
        img[glass & ((x % 14 < 2) | (y % 14 < 2))] = 0.05
        mask[glass] = pane

    if church:
        r = np.hypot(x - w / 2, y - 430)
        t = np.arctan2(y - 430, x - w / 2)
        rose = r < 210
        ring, sector = (r // 26).astype(int), ((t + np.pi) / (2 * np.pi) * 24).astype(int) % 24
        tile = rng.random((12, 24, 3)) * 0.75
        img[r < 250] = np.array([0.82, 0.78, 0.7])
        img[rose] = tile[ring[rose], sector[rose]]
        img[rose & ((r % 26 < 4) | ((t * 12 / np.pi) % 1 < 0.12))] = 0.12
        mask[rose] = 1
        arch(w / 2, height - 460, 150, height, 2)
        for k, cx in enumerate((200, w - 200, 400, w - 400)):
            arch(cx, 480 + 60 * (k // 2), 60 + 10 * (k // 2), height - 330, 3 + k)
        for k in range(14):
            box(img, 60 + k * (w - 120) / 14, 90, 120 + k * (w - 120) / 14, 150, rng.random(3) * 0.5 + 0.3)
    else:
        for k in range(cols * 2):
            arch(110 + k * (w - 220) / (cols * 2 - 1), height - 330, 55, height, 20 + k)
            arch(110 + k * (w - 220) / (cols * 2 - 1), 330 + 30 * (k % 3), 45 + 4 * (k % 2), 620, 40 + k)
        r, t = np.hypot(x - w / 2, y - 170), np.arctan2(y - 170, x - w / 2)
        img[r < 140] = (0.95, 0.93, 0.85)
        img[(r > 105) & (r < 130) & ((t * 6 / np.pi) % 1 < 0.25)] = 0.05
        img[(r < 95) & (abs(t + 0.9) < 0.09) | (r < 65) & (abs(t - 1.9) < 0.13) | (r > 134) & (r < 142)] = 0.05
        mask[r < 134] = 60
        box(img, 80, 690, w - 80, 800, (0.85, 0.8, 0.68))
        glyphs(rng, img, 110, 705, 78, int((w - 220) / 74), np.array([0.2, 0.12, 0.1]))
        for k in range(6):
            x0 = 40 + k * 130 + (k > 2) * (w - 780)
            img[100:300, x0 : x0 + 80] = poster(f"shield{k}", 200, 80)
    return img * (1 + 0.05 * noise(rng, height, w, 200, 4)[..., None]), mask


def paving(rng, n: int) -> np.ndarray:
    """Cobbles [n, n, 3] that tile."""
    img = masonry(rng, n, n, n // 20, n // 10, (0.5, 0.47, 0.44), 0.16, 2, (0.27, 0.26, 0.24))
    box(img, 0, 0, n, n // 20, (0.62, 0.58, 0.52))
    for k in range(8):
        box(img, k * n / 8, 0, k * n / 8 + 2, n // 20, (0.3, 0.29, 0.27))
    return img


def mosaic(rng, n: int) -> np.ndarray:
    """Round unique floor [n, n, 3]: coloured rings and sectors around the fountain."""
    y, x = np.mgrid[:n, :n]
    r, t = np.hypot(x - n / 2, y - n / 2) / (n / 2), (np.arctan2(y - n / 2, x - n / 2) / (2 * np.pi) + 0.5) % 1
    ring, sector = np.minimum((r * 14).astype(int), 19), (t * 48).astype(int) % 48
    shade = rng.choice([0.3, 0.42, 0.55, 0.68], size=(20, 48, 1)) * (1 + rng.normal(size=(20, 48, 3)) * 0.03)
    img = shade[ring, sector]
    img[((r * 14) % 1 < 0.08) | ((t * 48) % 1 < 0.05)] = 0.2
    return img * (1 + 0.06 * rng.normal(size=(n, n, 1)))


def build_textures(atlas: Atlas) -> None:
    """All textures but the facades and posters, which are added where they are first used."""
    for s in STYLES:
        atlas.add(f"wall{s}", wall_texture(s, 640, 640, "plain"))
        gable = wall_texture(s, 320, 320, "gable")
        y, x = np.mgrid[:320, :320]
        atlas.add(f"gable{s}", gable, np.where(y > x, 255, 0).astype(np.uint8))
    rng = generator("common")
    roof = masonry(rng, 320, 320, 16, 20, (0.5, 0.25, 0.18), 0.16, 2, (0.25, 0.13, 0.1))
    atlas.add("roof", roof)
    atlas.add("paving", paving(rng, 400))
    atlas.add("mosaic", mosaic(rng, 1100))
    grain = rng.normal(size=(200, 200))
    wood = np.array([0.45, 0.3, 0.17]) * (1 + 0.2 * ndimage.gaussian_filter(grain, (0, 8)) * 4)[..., None]
    wood[::25] = wood[1::25] = 0.12
    for k in range(8):
        box(wood, 12 + 170 * (k % 2), 6 + 50 * (k // 2), 16 + 170 * (k % 2), 10 + 50 * (k // 2), 0.1)
    atlas.add("wood", wood)
    metal = np.ones((200, 60, 3)) * (0.16, 0.22, 0.19) * (1 + 0.1 * rng.normal(size=(200, 60, 1)))
    metal[::40] = metal[1::40] = metal[20::80] = (0.42, 0.44, 0.4)
    atlas.add("metal", metal)
    atlas.add("globe", np.ones((32, 32, 3)) * (0.95, 0.93, 0.86))
    stone = masonry(rng, 300, 300, 30, 50, (0.68, 0.66, 0.62), 0.1, 2, (0.45, 0.43, 0.4))
    atlas.add("stone", stone)
    rail = np.ones((110, 220, 3)) * 0.1
    y, x = np.mgrid[:110, :220]
    bars = (y < 7) | (y > 100) | (x % 20 < 4) | (abs(np.hypot(x % 40 - 22, y - 54) - 14) < 3)
    atlas.add("rail", rail, np.where(bars, 255, 0).astype(np.uint8))
    stripes = np.where((np.arange(300) % 50 < 25)[None, :, None], (0.75, 0.15, 0.12), (0.92, 0.9, 0.84))
    atlas.add("awning", np.repeat(stripes, 120, 0) * (1 + 0.03 * rng.normal(size=(120, 300, 1))))
    leaf, m = np.ones((300, 300, 3)) * 0.2, np.zeros((300, 300), np.uint8)
    y, x = np.mgrid[:300, :300]
    for _ in range(520):
        r, t = 125 * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        cx, cy, s, e = 150 + r * np.cos(t), 150 + r * np.sin(t), rng.uniform(6, 13), rng.uniform(0, np.pi)
        p, q = (x - cx) * np.cos(e) + (y - cy) * np.sin(e), -(x - cx) * np.sin(e) + (y - cy) * np.cos(e)
        on = (p / s) ** 2 + (q / (s * 0.5)) ** 2 < 1
        leaf[on], m[on] = np.array([0.2, 0.36, 0.12]) * rng.uniform(0.5, 1.5) + rng.uniform(0, 0.08, 3), 255
    atlas.add("leaves", leaf, m)
    kiosk = np.repeat(np.repeat(wood[:96, :64], 3, 0)[:260], 4, 1)[:, :240]
    kiosk = kiosk * 0.4 + np.array([0.1, 0.3, 0.22])
    km = np.full(kiosk.shape[:2], 255, np.uint8)
    box(kiosk, 16, 60, 224, 160, 0.15)
    for k in range(30):
        x0, y0 = 20 + 20 * (k % 10), 66 + 32 * (k // 10)
        kiosk[y0 : y0 + 28, x0 : x0 + 18] = poster(f"paper{k % 12}", 28, 18)
    km[60:160, 16:224] = 1
    box(kiosk, 10, 8, 230, 50, (0.9, 0.85, 0.7))
    glyphs(rng, kiosk, 20, 14, 30, 7, np.array([0.6, 0.1, 0.1]))
    atlas.add("kiosk", kiosk, km)
    column = np.ones((300, 420, 3)) * 0.6
    for k in range(6):
        column[20:280, k * 70 + 2 : k * 70 + 68] = poster(f"column{k % 3}", 260, 66)
    atlas.add("column", column)


# ---- geometry --------------------------------------------------------------------------------------------------------
Z = np.array([0.0, 0.0, 1.0])


def panel(scene, base, normal, width, z0, z1, tex, **kw) -> None:
    """Vertical rectangle whose foot is centred at base [2], facing the horizontal normal [2]."""
    n = np.array([*normal, 0.0])
    right = np.cross(-n, Z)
    scene.rect(np.array([*base, z1]) - right * width / 2, right * width, -Z * (z1 - z0), tex, **kw)


def cuboid(scene, x, y, yaw, size, z0, z1, side, top="stone", uv=(0, 0, 1, 1), **kw) -> None:
    """Box with footprint size (w, d) m, rotated by yaw rad; the four sides wear `side`."""
    w, d = size
    for k in range(4):
        n = np.array([np.cos(yaw + k * np.pi / 2), np.sin(yaw + k * np.pi / 2)])
        half, width = (d, w) if k % 2 == 0 else (w, d)
        panel(scene, (x, y) + n * half / 2, n, width, z0, z1, side, uv=uv, **kw)
    ex = np.array([-np.sin(yaw), np.cos(yaw), 0]) * w
    ey = np.array([np.cos(yaw), np.sin(yaw), 0]) * d
    scene.rect(np.array([x, y, z1]) - ex / 2 + ey / 2, ex, -ey, top, two_sided=True)


def prism(scene, x, y, r, z0, z1, tex, sides=10, repeat=1.0, top=None, **kw) -> None:
    """Upright prism; the texture runs `repeat` times around."""
    for k in range(sides):
        t = 2 * np.pi * (k + 0.5) / sides
        n = np.array([np.cos(t), np.sin(t)])
        panel(scene, (x, y) + n * r * np.cos(np.pi / sides), n, 2 * r * np.sin(np.pi / sides), z0, z1, tex,
              uv=(k * repeat / sides, 0, (k + 1) * repeat / sides, 1), **kw)  # fmt: skip
    if top:
        scene.rect((x - r, y + r, z1), (2 * r, 0, 0), (0, -2 * r, 0), top, two_sided=True)


def house(scene, name, p0, p1, style, floors, signs) -> None:
    """A house whose front runs from p0 to p1 [2] (left to right, seen from outside), with roof, balconies and signs."""
    p0, p1 = np.array(p0, float), np.array(p1, float)
    length = np.linalg.norm(p1 - p0)
    right = (p1 - p0) / length
    normal = np.array([right[1], -right[0]])
    cols, rng = round(length / M), generator("house", name)
    unique = style in ("church", "hall")
    top = (15.0 if style == "church" else 13.0) if unique else floors * M + 0.4
    tex = style if unique else f"{style}{cols}{floors}"
    if tex not in scene.atlas.names:
        scene.atlas.add(tex, *(landmark(style, cols, int(top * PX)) if unique else facade(style, cols, floors)))
    panes = range(1, 90) if unique else range(1, cols * floors + 1)
    shops = cols * (floors - 1)
    lit = {p: rng.uniform(0.25, 0.7) for p in panes if rng.random() < (0.75 if unique or p > shops else 0.3)}
    mid = (p0 + p1) / 2
    panel(scene, mid, normal, length, 0, top, tex, lit=lit)
    wall, gable = ("wallC", "gableC") if unique else (f"wall{style}", f"gable{style}")
    back, rise = 8.0, 3.0
    for p, s in ((p0, -1), (p1, 1)):
        panel(scene, p - normal * back / 2, right * s, back, 0, top, wall, uv=(0, 0, back / 6.4, top / 6.4))
        start = np.array([*(p - normal * 3.5), top + rise])  # triangle under the roof, falling towards the front
        scene.rect(start, np.array([*normal, 0]) * 3.5, -Z * rise, gable,
                   two_sided=True)  # fmt: skip
    eave = np.array([*(p0 + normal * 0.25), top - 0.1])
    slope = np.array([*(-normal * 3.75), rise + 0.1])
    scene.rect(
        eave + slope, np.array([*right, 0]) * length, -slope, "roof", uv=(0, 0, length / 3.2, 1.5), two_sided=True
    )
    n3, r3 = np.array([*normal, 0]), np.array([*right, 0])
    if not unique:
        for f, line in enumerate(layout(style, cols, floors)[:-1]):
            for c, kind in enumerate(line):
                if kind == "b":
                    z = top - 0.4 - (f + 1) * M
                    left = np.array([*(p0 + right * (c * M + 0.5)), z])
                    scene.rect(left + n3 * 0.9 + Z * 1.05, r3 * 2.2, -Z * 1.05, "rail", two_sided=True)
                    for off in (0.0, 2.2):
                        scene.rect(
                            left + r3 * off + Z * 1.05, n3 * 0.9, -Z * 1.05, "rail", uv=(0, 0, 0.4, 1), two_sided=True
                        )
                    scene.rect(left + n3 * 0.9, r3 * 2.2, -Z * 0.14, "stone", uv=(0, 0, 1, 0.06))
                    scene.rect(left, r3 * 2.2, n3 * 0.9, "stone", uv=(0, 0, 1, 0.4), two_sided=True)
        for c in range(0, cols, 3):  # awnings over the shops of some styles
            if style in "AC":
                o = np.array([*(p0 + right * (c * M + 0.2)), 2.75])
                scene.rect(o, r3 * 2.8, n3 * 1.2 - Z * 0.5, "awning", two_sided=True)
    prism(scene, *(p1 + normal * 0.08), 0.07, 0, top - 0.3, "metal", 6)  # downpipe
    for k in range(signs):  # unique content
        tag = f"sign-{name}-{k}"
        if k % 2 == 0:  # shop sign above the ground floor
            w, h, z = rng.uniform(1.6, 2.6), rng.uniform(0.5, 0.85), 2.95
            s = (k // 2 + 0.5) * length / max((signs + 1) // 2, 1) + rng.uniform(-0.4, 0.4)
        else:  # poster on the wall or banner over upper floors
            w, z, s = rng.uniform(0.8, 1.3), 0.9, rng.uniform(0.8, length - 0.8)
            h = rng.uniform(1.1, 1.7)
            if k % 4 == 3:
                z, h = rng.uniform(4.2, 5.5), rng.uniform(2.2, 3.4)
        scene.atlas.add(tag, poster(tag, int(h * 160), int(w * 160)))
        foot = p0 + right * np.clip(s, w / 2 + 0.1, length - w / 2 - 0.1) + normal * 0.06
        panel(scene, foot, normal, w, z, z + h, tag, glow=0.22 if k % 2 == 0 else 0.0)
        if k == 0:  # sign hung across the pavement
            scene.atlas.add(tag + "x", poster(tag + "x", 130, 110))
            q = p0 + right * rng.uniform(0.5, length - 0.5)
            scene.rect(np.array([*q, 4.3]) + n3 * 0.15, n3 * 0.8, -Z * 0.95, tag + "x", two_sided=True, glow=0.15)


def lamp(scene, x, y, bright=True) -> None:
    """Lamp post of 4 m, one of many equal ones."""
    prism(scene, x, y, 0.16, 0, 0.6, "metal", 8)
    prism(scene, x, y, 0.06, 0.6, 3.9, "metal", 6)
    cuboid(scene, x, y, 0.4, (0.36, 0.36), 3.9, 4.4, "globe", "metal", glow=2.5 if bright else 0.02)
    if bright:
        scene.lamps.append(((x, y, 4.15), (2.6, 1.75, 0.85)))
    scene.obstacles.append((x, y, 0.7))


def tree(scene, x, y) -> None:
    """Trunk and four crossing leaf cards, the same for every tree."""
    prism(scene, x, y, 0.14, 0, 2.4, "wood", 7)
    for k in range(4):
        d = np.array([np.cos(k * np.pi / 4), np.sin(k * np.pi / 4), 0])
        scene.rect(np.array([x, y, 5.2]) - d * 1.6, d * 3.2, -Z * 3.2, "leaves", two_sided=True)
    scene.rect((x - 1.5, y + 1.5, 3.5), (3, 0, 0), (0, -3, 0), "leaves", two_sided=True)
    scene.obstacles.append((x, y, 1.3))


def build_scene(signs: int = 3) -> Scene:
    """The whole square; `signs` is the number of unique signs and posters on each front."""
    scene = Scene(Atlas())
    build_textures(scene.atlas)
    scene.rect((-80, 80, 0), (160, 0, 0), (0, -160, 0), "paving", uv=(0, 0, 40, 40))
    scene.rect((-5.5, 5.5, 0.006), (11, 0, 0), (0, -11, 0), "mosaic")
    rng = generator("patches")
    for k in range(16):  # unique patches in the paving
        x, y, w = *rng.uniform(-17, 17, 2), rng.uniform(1.0, 2.6)
        scene.atlas.add(f"patch{k}", poster(f"patch{k}", 220, 220) * 0.35 + 0.25)
        scene.rect((x, y, 0.004 + 0.0005 * k), (w, 0, 0), (0, -w, 0), f"patch{k}")
    sides = [  # per side: houses left to right as (style, columns, floors), None is a street two modules wide
        [("A", 3, 4), ("C", 3, 4), None, ("church", 5, 0)],
        [("C", 3, 4), ("A", 3, 4), None, ("B", 5, 4)],
        [("A", 3, 4), ("C", 3, 4), None, ("B", 5, 4)],
        [("C", 3, 4), ("A", 3, 4), None, ("hall", 5, 0)],
    ]
    for side, row in enumerate(sides):
        right = np.array([np.cos(-side * np.pi / 2), np.sin(-side * np.pi / 2)])
        out = np.array([-right[1], right[0]])
        s = -HALF
        for k, item in enumerate(row):
            if item is None:  # a street: three houses a side and one across its end
                a, b = s, s + 2 * M
                for j, (style, cols, floors, start) in enumerate((("ABCD"[side], 3, 4, 8.0), ("CDAB"[side], 3, 3, 17.6),
                                                                  ("BADC"[side], 4, 4, 27.2))):  # fmt: skip
                    near, far = out * (HALF + start), out * (HALF + start + cols * M)
                    house(scene, f"st{side}l{j}", near + right * a, far + right * a, style, floors, signs // 2)
                    house(scene, f"st{side}r{j}", far + right * b, near + right * b, style, floors, signs // 2)
                end = out * (HALF + 40.0)
                house(scene, f"st{side}e", end + right * (a - M), end + right * (b + M), "DCBA"[side], 4, signs)
                s = b
                continue
            style, cols, floors = item
            e = s + cols * M
            house(scene, f"sq{side}{k}", out * HALF + right * s, out * HALF + right * e, style, floors, signs)
            s = e
        for u in (-14.5, -5.0, 5.0, 14.5):
            lamp(scene, *(out * 16.3 + right * u), bright=(side + int(u > 0) + int(abs(u) > 9)) % 3 != 0)
        bench = out * 17.6 + right * (-9.6 + 1.3 * (side % 2))
        for q in (bench, bench + right * 17.0):  # two benches a side
            cuboid(scene, *q, np.arctan2(-out[1], -out[0]), (1.8, 0.5), 0.38, 0.46, "wood", "wood", uv=(0, 0, 1, 0.2))
            cuboid(scene, *(q + out * 0.25), np.arctan2(-out[1], -out[0]), (1.8, 0.06), 0.46, 0.95, "wood", "wood")
            for t in (-0.7, 0.7):
                cuboid(scene, *(q + right * t), np.arctan2(-out[1], -out[0]), (0.1, 0.4), 0, 0.38, "metal", "metal")
            scene.obstacles.append((*q, 1.2))
            cuboid(scene, *(q + right * 2.2), 0.0, (0.9, 0.9), 0, 0.55, "stone")
            prism(scene, *(q + right * 2.2), 0.42, 0.45, 1.15, "leaves", 8)
            scene.obstacles.append((*(q + right * 2.2), 1.0))
        kiosk = out * 10.3 + right * (-3.0 if side % 2 else 4.4)
        yaw = np.arctan2(-out[1], -out[0])
        cuboid(scene, *kiosk, yaw, (2.4, 2.4), 0, 2.6, "kiosk", "roof", lit={1: 0.5})
        cuboid(scene, *kiosk, yaw, (3.0, 3.0), 2.6, 2.85, "awning", "roof", uv=(0, 0, 1, 0.3))
        scene.obstacles.append((*kiosk, 2.4))
        scene.lamps.append(((*(kiosk - out * 1.9), 2.4), (0.7, 0.55, 0.35)))
        column = out * 10.0 + right * (-9.5 if side != 2 else 8.4)
        prism(scene, *column, 0.65, 0, 3.0, "column", 14, glow=0.10)
        prism(scene, *column, 0.75, 3.0, 3.3, "metal", 14, top="stone")
        scene.obstacles.append((*column, 1.5))
        for u in (-6.2, 8.8 if side != 2 else -9.3):
            tree(scene, *(out * 9.3 + right * u))
    prism(scene, 0, 0, 2.2, 0, 0.6, "stone", 16, 4.0)  # fountain with a statue, unique
    prism(scene, 0, 0, 1.95, 0, 0.45, "globe", 16)
    scene.rect((-2.0, 2.0, 0.45), (4, 0, 0), (0, -4, 0), "mosaic", uv=(0.3, 0.3, 0.45, 0.45))
    for k, (w, z0, z1) in enumerate(
        ((1.3, 0.3, 1.2), (0.9, 1.2, 2.2), (0.55, 2.2, 3.2), (0.8, 3.2, 3.6), (0.35, 3.6, 4.1))
    ):
        scene.atlas.add(f"statue{k}", poster(f"statue{k}", 200, 200) * 0.5 + 0.2)
        cuboid(scene, 0, 0, 0.5 * k, (w, w), z0, z1, f"statue{k}")
    scene.obstacles.append((0, 0, 3.2))
    scene.lamps.append(((0.0, -2.4, 1.0), (0.5, 0.5, 0.6)))
    scene.freeze()
    return scene
