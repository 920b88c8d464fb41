"""Make the synthetic demo scene: images, COLMAP text model, name lists, a preview; all from code and fixed seeds.

python demo/make_demo.py --queries 300 --out resources/demo-300      # the same map, other and more queries
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import multiprocessing
from pathlib import Path

import numpy as np
from PIL import Image
from render import Camera, Scene, Sun, generator, render
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from scene import build_scene
from scipy.spatial.transform import Rotation

CAMERAS = {
    1: Camera("PINHOLE", 512, 384, (400.0, 400.0, 256.0, 192.0)),
    2: Camera("SIMPLE_RADIAL", 512, 384, (432.0, 254.5, 193.5, -0.05)),
}
SUN = (0.45, -0.62, 0.75)


def look(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """cam_from_world rotation [3, 3] for a heading (rad, from +x to +y), a pitch up and a roll."""
    f = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    r = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    R = np.stack([r, np.cross(f, r), f])
    return Rotation.from_euler("z", roll).as_matrix() @ R


def free(scene: Scene, c: np.ndarray, yaw: float) -> bool:
    """Whether a person can stand at c and sees at least 2 m of free space ahead."""
    clear = all(np.hypot(c[0] - x, c[1] - y) > r for x, y, r in scene.obstacles)
    px = np.stack(np.meshgrid(np.linspace(60, 452, 9), np.linspace(60, 330, 7)), -1).reshape(-1, 2)
    depth = scene.depth_at(CAMERAS[1], look(yaw, 0.05, 0.0), c, px) if clear else np.zeros(1)
    return bool(clear and np.quantile(depth, 0.1) > 2.0 and np.median(depth) > 3.5)


def paths() -> list[np.ndarray]:
    """Walks as arrays [n, 3] of x, y (m) and heading (rad): two rings and two crossings; neighbours overlap."""
    walks = []

    def ring(radius: float, count: int, turn: float, sway: float) -> np.ndarray:
        s = np.arange(count) / count * 8
        side, along = (s // 2).astype(int), (s % 2 - 1) * radius
        right = np.stack([np.cos(-side * np.pi / 2), np.sin(-side * np.pi / 2)], -1)
        out = np.stack([-right[:, 1], right[:, 0]], -1)
        xy = out * radius + right * along[:, None]
        yaw = np.arctan2(xy[:, 1], xy[:, 0]) + turn + sway * np.sin(np.arange(count) * 2 * np.pi / 12)
        return np.column_stack([xy, yaw])

    walks.append(ring(12.6, 62, -0.45, 0.25))
    walks.append(ring(6.6, 40, np.pi + 0.35, 0.35))
    for k, (start, end) in enumerate((((-13, -15), (14.5, 13)), ((-14.5, 12), (13, -13.5)))):
        t = np.linspace(0, 1, 19)[:, None]
        xy = np.array(start) * (1 - t) + np.array(end) * t
        d = np.array(end, float) - start
        side = np.array([-d[1], d[0]]) / np.linalg.norm(d)
        xy = xy + side * 3.9 * np.sin(np.pi * t)  # around the fountain
        yaw = np.arctan2(d[1], d[0]) + np.where(k, -1, 1) * 0.8 * np.sin(np.arange(19) * np.pi / 9)
        walks.append(np.column_stack([xy, yaw]))
    return walks


def make_poses(scene: Scene, queries: int) -> dict[str, tuple[int, np.ndarray, np.ndarray, float]]:
    """All images: name to camera id, cam_from_world rotation [3, 3], centre [3] m and heading rad. Two thirds of the
    queries are by day."""
    poses, rng = {}, generator("mapping poses")
    for x, y, yaw in np.concatenate(paths()):
        for attempt in range(200):  # small steps aside until the way is free
            spread = 0.12 + 0.012 * attempt
            c = np.array([x + rng.normal() * spread, y + rng.normal() * spread, rng.uniform(1.5, 1.9)])
            heading = yaw + rng.normal() * (0.05 + 0.003 * attempt)
            if free(scene, c, heading):
                break
        R = look(heading, rng.uniform(0.02, 0.2), rng.normal() * 0.02)
        poses[f"mapping/{len(poses):03d}.jpg"] = (1, R, c, heading)
    mapping = list(poses.values())
    centres, headings = np.array([m[2] for m in mapping]), np.array([m[3] for m in mapping])
    for split, count in (("day", queries - queries // 3), ("night", queries // 3)):
        rng = generator(split, "query poses")
        strata = rng.permutation(np.linspace(0, len(mapping) - 1, count).astype(int))
        for k, base in enumerate(strata):
            hard = k % 8 == 7
            while True:
                step, way = rng.uniform(2.5, 4.0) if hard else rng.uniform(0.6, 2.6), rng.uniform(0, 2 * np.pi)
                turn = np.radians(rng.uniform(18, 32) if hard else rng.uniform(5, 20)) * rng.choice([-1, 1])
                c = np.array(
                    [*(centres[base, :2] + step * np.array([np.cos(way), np.sin(way)])), rng.uniform(1.5, 2.0)]
                )
                yaw = headings[base] + turn
                gap = np.linalg.norm(centres - c, axis=1)
                similar = np.abs((headings - yaw + np.pi) % (2 * np.pi) - np.pi) < np.radians(40)
                if np.abs(c[:2]).max() < 16 and gap[similar].min() > 0.5 and free(scene, c, yaw):
                    break
                base = (base + rng.integers(-1, 2)) % len(mapping)
            poses[f"{split}/{k:03d}.jpg"] = (2, look(yaw, rng.uniform(0, 0.2), rng.normal() * 0.03), c, yaw)
    return poses


def write_model(folder: Path, poses: dict) -> None:
    """COLMAP text model of all images, without points."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# Camera list with one line of data per camera:", "#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]",
             f"# Number of cameras: {len(CAMERAS)}"]  # fmt: skip
    lines += [
        f"{i} {c.model} {c.width} {c.height} " + " ".join(f"{p:.10g}" for p in c.params) for i, c in CAMERAS.items()
    ]
    (folder / "cameras.txt").write_text("\n".join(lines) + "\n")
    lines = ["# Image list with two lines of data per image:",
             "#   IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME", "#   POINTS2D[] as (X, Y, POINT3D_ID)",
             f"# Number of images: {len(poses)}, mean observations per image: 0"]  # fmt: skip
    for i, (name, (camera, R, c, _)) in enumerate(poses.items(), 1):
        q = Rotation.from_matrix(R).as_quat(canonical=True, scalar_first=True)
        lines += [f"{i} " + " ".join(f"{k:.12f}" for k in (*q, *(-R @ c))) + f" {camera} {name}", ""]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    (folder / "points3D.txt").write_text(
        "# 3D point list with one line of data per point:\n"
        "#   POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)\n"
        "# Number of points: 0, mean track length: 0\n"
    )


STATE: dict = {}


def work(item: tuple) -> str:
    """Render one image to its file."""
    name, (camera, R, c, _), path, quality = item
    image = render(STATE["scene"], STATE["sun"], CAMERAS[camera], STATE["grids"][camera], R, c,
                   name.startswith("night"), generator("sensor", name))  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=quality, optimize=True, progressive=True, subsampling=2)
    return name


def contact_sheet(images: Path, out: Path) -> None:
    """A small sheet of mapping, day and night images."""
    names = [f"mapping/{k:03d}.jpg" for k in (4, 25, 47, 80, 110, 130)]
    names += [f"day/{k:03d}.jpg" for k in range(2, 38, 6)] + [f"night/{k:03d}.jpg" for k in range(1, 19, 3)]
    sheet = Image.new("RGB", (6 * 170, 3 * 128))
    for k, name in enumerate(names):
        sheet.paste(Image.open(images / name).resize((170, 128), Image.Resampling.LANCZOS), (k % 6 * 170, k // 6 * 128))
    sheet.save(out, quality=80, optimize=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write (default: this one)")
    parser.add_argument("--queries", type=int, default=60, help="queries, a third of them by night (default: 60)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2); the result does not depend on it")
    parser.add_argument("--quality", type=int, default=71, help="JPEG quality (default: 71)")
    parser.add_argument("--only", nargs="*", help="render only these names (the model is written all the same)")
    args = parser.parse_args()
    scene = build_scene()
    poses = make_poses(scene, args.queries)
    write_model(args.out / "model", poses)
    for split, file in (("mapping", "mapping"), ("day", "queries_day"), ("night", "queries_night")):
        (args.out / f"{file}.txt").write_text("".join(f"{n}\n" for n in poses if n.startswith(split + "/")))
    STATE.update(scene=scene, sun=Sun(scene, SUN), grids={i: c.grid() for i, c in CAMERAS.items()})
    jobs = [(n, p, args.out / "images" / n, args.quality) for n, p in poses.items() if not args.only or n in args.only]
    columns = (TextColumn("rendering"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress, multiprocessing.get_context("fork").Pool(args.jobs) as pool:
        task = progress.add_task("", total=len(jobs))
        for _ in pool.imap_unordered(work, jobs):
            progress.advance(task)
    if not args.only and args.queries >= 60:
        contact_sheet(args.out / "images", args.out / "preview.jpg")
    size = sum(f.stat().st_size for f in (args.out / "images").rglob("*.jpg"))
    print(f"{len(jobs)} images, {size / 1e6:.2f} MB in all, {len(scene.o)} rectangles")


if __name__ == "__main__":
    main()
