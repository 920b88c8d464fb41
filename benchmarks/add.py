"""Add every other query of a scene to its map (``scrflow add``) and localize the rest, before and after.

    snakemake --cores 2 results/southbuilding/landmarks/map.safetensors
    .venv/bin/python benchmarks/add.py southbuilding --method landmarks

One row for the map as it is, with the photos by their own poses, by their true poses, and within the landmarks it had.
``--mapped N`` begins with a map of the first N mapping photos, made of the scene's tracks. Times are those of the
processor, one thread.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from scrflow.config import MapStage, TracksConfig
from scrflow.core.geometry import pose_error, rays_from_pixels
from scrflow.core.parallel import one_thread_each
from scrflow.features.matching import reduction
from scrflow.landmarks.codes import encode
from scrflow.landmarks.tracks import Tracks, load_tracks
from scrflow.landmarks.triangulate import Observations, triangulate
from scrflow.localize.add import add_photos
from scrflow.localize.localizer import Localizer
from scrflow.map.file import load_map
from scrflow.scene.lists import pose_line, query_line
from scrflow.scene.model import Query, Scene, load_scene
from scrflow.storage.artifact import read_safetensors_metadata, read_stamp, write_safetensors


def partial_map(source: Path, tracks_path: Path, scene: Scene, count: int, out: Path) -> None:
    """A map of the first ``count`` mapping photos, like that in ``source``: their share of the tracks, triangulated
    again."""
    stamp, metadata, tracks = read_stamp(source, "map"), read_safetensors_metadata(source), load_tracks(tracks_path)
    config = MapStage.model_validate(stamp.config)
    views, limits = scene.mapping[:count], TracksConfig(features=config.landmarks.features)
    rows = np.flatnonzero(tracks.image < count)
    rays = [
        rays_from_pixels(v.camera, tracks.pixel[a:b])
        for v, a, b in zip(views, tracks.start, tracks.start[1:], strict=False)
    ]
    order = np.lexsort((tracks.image[rows], tracks.point[rows]))
    rows, label = rows[order], np.unique(tracks.point[rows[order]], return_inverse=True)[1]
    seen = Observations(label, tracks.image[rows], np.concatenate(rays)[rows])
    focal = [
        v.camera.mean_focal_length() * reduction((v.camera.width, v.camera.height), limits.features) for v in views
    ]
    poses = np.array([v.cam_from_world for v in views])
    points = triangulate(seen, poses, np.array(focal), limits.max_error_px, limits.min_angle_deg)
    order = np.lexsort((rows[points.observation], seen.view[points.observation]))
    rows, point = rows[points.observation[order]], points.point[order]
    names = tracks.names[:count]
    start = np.searchsorted(tracks.image[rows], np.arange(count + 1))
    part = Tracks(names, points.xyz.astype(np.float32), start, point, tracks.descriptor[rows], tracks.pixel[rows])
    tensors = encode(part, config.landmarks.landmarks, config.seed)
    held = {key: metadata[key] for key in ("format", "output_unit", "weights")} | {"names": json.dumps(names)}
    write_safetensors(out, {f"landmark.{k}": v for k, v in tensors.items()}, stamp, held)


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
    mapped: Annotated[int | None, typer.Option(min=2, help="Mapping photos of the first map; default: all.")] = None,
) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    loaded, source = load_scene(results / scene / "scene"), results / scene / method / "map.safetensors"
    new, rest = loaded.queries[::2], list(loaded.queries[1::2])
    print(f"{scene}, {method}: {len(new)} photos added, {len(rest)} localized\n")
    print("| map | photos, seconds | landmarks | MB | recall, % | median | confidence |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, one_thread_each():
        at = Path(folder)
        if mapped is not None:
            whole, source = source, at / "part.safetensors"
            partial_map(whole, results / scene / "tracks/sift.h5", loaded, mapped, source)
        landmarks = load_map(source).landmarks
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
