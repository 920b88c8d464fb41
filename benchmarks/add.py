"""Add every other query of a scene to its map (``scrflow add``) and localize the rest, before and after.

    snakemake --cores 2 results/southbuilding/landmarks/map.safetensors
    .venv/bin/python benchmarks/add.py southbuilding --method landmarks

One row for the map as it is, with the photos by their own poses, by their true poses, and within the landmarks it had.
Times are those of the processor, one thread.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from scrflow.core.geometry import pose_error  # noqa: E402
from scrflow.core.parallel import one_thread_each  # noqa: E402
from scrflow.localize.add import add_photos  # noqa: E402
from scrflow.localize.localizer import Localizer  # noqa: E402
from scrflow.scene.lists import pose_line, query_line  # noqa: E402
from scrflow.scene.model import Query, Scene, load_scene  # noqa: E402


def row(label: str, path: Path, scene: Scene, queries: list[Query], what: str) -> None:
    """Localize the queries and print recall and median error."""
    localizer, errors, confidences = Localizer.open(path), [], []
    for query in queries:
        found = localizer.localize_photo(scene.photo(query.name), query.camera)
        pose, truth = found.cam_from_world, scene.query_poses[query.name]
        errors.append((np.inf, 180.0) if pose is None else pose_error(pose, truth))
        confidences.append(found.confidence)
    e, map_ = np.array(errors), localizer.map
    recall = " / ".join(f"{100 * np.mean((e < limit).all(1)):.0f}" for limit in map_.config.thresholds)
    median = f"{np.median(e[:, 0]):.3g} {map_.config.unit}, {np.median(e[:, 1]):.3g}°"
    landmarks = 0 if map_.landmarks is None else len(map_.landmarks.xyz)
    size = f"{path.stat().st_size / 1e6:.3f}"
    print(f"| {label} | {what} | {landmarks} | {size} | {recall} | {median} | {np.mean(confidences):.2f} |", flush=True)


def main(
    scene: Annotated[str, typer.Argument()],
    method: Annotated[str, typer.Option()] = "landmarks",
    results: Annotated[Path, typer.Option()] = Path("results"),
) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    loaded, source = load_scene(results / scene / "scene"), results / scene / method / "map.safetensors"
    new, rest = loaded.queries[::2], list(loaded.queries[1::2])
    landmarks = Localizer.open(source).map.landmarks
    print(f"{scene}, {method}: {len(new)} photos added, {len(rest)} localized\n")
    print("| map | photos, seconds | landmarks | MB | recall, % | median | confidence |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, one_thread_each():
        at = Path(folder)
        for query in new:
            link = at / "photos" / query.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(loaded.image_path(query.name).resolve())
        cameras, poses = at / "cameras.txt", at / "poses.txt"
        cameras.write_text("".join(f"{query_line(q.name, q.camera)}\n" for q in new))
        poses.write_text("".join(f"{pose_line(q.name, loaded.query_poses[q.name])}\n" for q in new))
        row("before", source, loaded, rest, "")
        cases = {"added": {}, "added, true poses": {"poses": poses}}
        if landmarks is not None:
            cases["added, as many landmarks"] = {"budget": ("count", len(landmarks.xyz))}
        for label, options in cases.items():
            out, began = at / f"{label}.safetensors", time.process_time()
            done = add_photos(source, (at / "photos",), out, str(cameras), **options)
            seconds = time.process_time() - began
            row(label, out, loaded, rest, f"{len(done.added)} of {len(new)}, {seconds:.0f} s")


if __name__ == "__main__":
    typer.run(main)
