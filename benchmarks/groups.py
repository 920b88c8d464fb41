"""Localize the queries of a scene alone and in groups of known relative poses (docs/api.md).

    snakemake --cores 2 results/redkitchen/poses.txt results/redkitchen/landmarks/map.safetensors
    .venv/bin/python benchmarks/groups.py redkitchen --method rscore-cpu

A group is N queries that follow each other in the scene's list. Its relative poses are the true ones, with Gaussian
noise on each photo's position and rotation if asked for. ``--shrink`` makes queries harder: photos are reduced by it
and enlarged again. Times are those of the processor, one thread, features left out.
"""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from scipy.spatial.transform import Rotation

from scrflow.core.geometry import invert_pose, pose_error
from scrflow.localize.group import composed
from scrflow.localize.localizer import Localizer
from scrflow.scene.model import load_scene


def reduced(photo: Image.Image, factor: float) -> Image.Image:
    """The photo as if it were taken out of focus."""
    small = photo.resize([max(1, round(side / factor)) for side in photo.size], Image.Resampling.BOX)
    return small.resize(photo.size, Image.Resampling.BICUBIC)


def noisy(pose: np.ndarray, noise: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """A pose in the rig with an error of its camera's position (per axis) and of its rotation (degrees, per axis)."""
    turn = Rotation.from_euler("xyz", rng.normal(0, noise[1], 3), degrees=True).as_matrix()
    return composed(np.column_stack([turn, rng.normal(0, noise[0], 3)]), pose)


def main(
    scene: Annotated[str, typer.Argument()],
    method: Annotated[str, typer.Option()] = "rscore-cpu",
    results: Annotated[Path, typer.Option()] = Path("results"),
    sizes: Annotated[str, typer.Option(help="Photos in a group, by commas.")] = "1,2,4,8",
    noise: Annotated[tuple[float, float], typer.Option(help="Of relative poses: scene's unit, degrees.")] = (0, 0),
    shrink: Annotated[float, typer.Option(min=1, help="How much photos are reduced.")] = 1,
    only: Annotated[str, typer.Option(help="Queries whose names begin so.")] = "",
) -> None:
    """Print a row for each size of group."""
    torch.set_num_threads(1)
    loaded, localizer = (
        load_scene(results / scene / "scene"),
        Localizer.open(results / scene / method / "map.safetensors"),
    )
    queries = [q for q in loaded.queries if q.name.startswith(only)]
    features = [localizer.features(reduced(loaded.photo(q.name), shrink), q.camera) for q in queries]
    truth = [loaded.query_poses[q.name] for q in queries]
    limits, unit = localizer.map.config.thresholds, localizer.map.config.unit
    print(
        f"{scene}, {method}, {len(queries)} queries reduced by {shrink:g}, noise {noise[0]:g} {unit}, {noise[1]:g}°\n"
    )
    print(f"| photos | {', '.join(f'{t:g} {unit} {r:g}°' for t, r in limits)}, % | median | confidence | ms a photo |")
    print("|---|---|---|---|---|")
    for size in map(int, sizes.split(",")):
        rng, errors, confidences, began = np.random.default_rng(1), [], [], time.process_time()
        for at in range(0, len(queries), size):
            rows = range(max(0, min(at, len(queries) - size)), min(at + size, len(queries)))
            if size == 1:
                found = [localizer.localize_features(features[at])]
            else:
                base = invert_pose(truth[rows[0]])
                rig = [noisy(composed(truth[i], base), noise, rng) for i in rows]
                found = localizer.localize_group_features([features[i] for i in rows], rig).photos
            for i, one in list(zip(rows, found, strict=True))[at - rows[0] :]:  # the last group overlaps the one before
                pose = one.cam_from_world
                errors.append((np.inf, 180.0) if pose is None else pose_error(pose, truth[i]))
                confidences.append(one.confidence)
        ms = 1000 * (time.process_time() - began) / len(queries)
        e = np.array(errors)
        recall = " / ".join(f"{100 * np.mean((e < limit).all(1)):.0f}" for limit in limits)
        median = f"{np.median(e[:, 0]):.3g} {unit}, {np.median(e[:, 1]):.3g}°"
        print(f"| {size} | {recall} | {median} | {np.mean(confidences):.2f} | {ms:.0f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
