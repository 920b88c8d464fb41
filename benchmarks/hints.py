"""Recall and milliseconds of a map's queries with and without hints: the true position, moved by up to the radius, and
the true viewing direction, turned by up to the angle.

    .venv/bin/python benchmarks/hints.py results/demo/rscore-cpu/map.safetensors --radius 2 5 10 --angle 180 30
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from scrflow.core.geometry import camera_centre, pose_error
from scrflow.localize.hint import Hint
from scrflow.localize.localizer import Localizer
from scrflow.localize.result import Clock
from scrflow.scene.model import load_scene


def hint_near(pose: np.ndarray, radius: float, angle_deg: float, rng: np.random.Generator) -> Hint:
    """A hint whose errors are spread evenly in the ball of the radius, and in the cone of the angle."""
    way, axis = rng.normal(size=3), np.cross(rng.normal(size=3), pose[2, :3])
    position = camera_centre(pose) + way / np.linalg.norm(way) * radius * rng.uniform() ** (1 / 3)
    if angle_deg == 180:
        return Hint(position, radius)
    turn = np.arccos(rng.uniform(np.cos(np.radians(angle_deg)), 1))
    return Hint(
        position, radius, Rotation.from_rotvec(axis / np.linalg.norm(axis) * turn).apply(pose[2, :3]), angle_deg
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("map", type=Path)
    parser.add_argument("--scene", type=Path, help="default: ../scene from the map's folder")
    parser.add_argument("--radius", type=float, nargs="+", default=[2, 5, 10])
    parser.add_argument("--angle", type=float, nargs="+", default=[180, 30], help="180: no direction")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    Clock.now = staticmethod(__import__("time").process_time)
    localizer = Localizer.open(args.map)
    scene = load_scene(args.scene or args.map.resolve().parents[1] / "scene")
    queries = [q for q in scene.queries if q.name in scene.query_poses]
    photos = [scene.photo(q.name) for q in queries]
    localizer.localize_photo(photos[0], queries[0].camera)  # the first one is slower
    within = localizer.map.config.thresholds
    for radius, angle in [(None, None)] + [(r, a) for r in args.radius for a in args.angle]:
        rng, errors, ms = np.random.default_rng(1), [], []
        for query, photo in zip(queries, photos, strict=True):
            true = scene.query_poses[query.name]
            hint = None if radius is None else hint_near(true, radius, angle, rng)
            found = localizer.localize_photo(photo, query.camera, hint=hint)
            ms.append(found.ms)
            pose = found.cam_from_world
            errors.append((np.inf, np.inf) if pose is None else pose_error(pose, true))
        t, r = np.array(errors).T
        recall = " / ".join(f"{100 * np.mean((t <= a) & (r <= b)):.0f}" for a, b in within)
        parts = {name: np.median([m[name] for m in ms]) for name in ms[0]}
        laps = ", ".join(f"{name} {value:.0f}" for name, value in parts.items())
        what = "no hint" if radius is None else f"{radius:g} {scene.unit}, {angle:g}°"
        print(f"{what:14s} {recall} %, median {np.median(t):.4g} {scene.unit}, ms: {laps}", flush=True)


if __name__ == "__main__":
    main()
