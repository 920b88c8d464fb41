"""Query time and recall against the number of landmarks: a scene's own, among those of other scenes and made-up ones.

    snakemake --cores 2 results/{demo,redkitchen,fox,southbuilding}/tracks/sift.h5
    .venv/bin/python benchmarks/landmarks.py demo --others redkitchen --others fox --others southbuilding

All points of the scene's tracks are landmarks, at 32 floats. Distractors are all points of the other scenes, then
made-up ones: the mean of two random real descriptors, with noise. They lie 1 000 units away. One thread; the time is
that of matching and pose, of the processor.
"""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer

from scrflow.config import LandmarkLocalizeConfig, LandmarksConfig, LandmarksPart
from scrflow.core.geometry import pose_error
from scrflow.features.encoders import build_encoder
from scrflow.features.pca import Pca
from scrflow.landmarks.codes import Landmarks
from scrflow.landmarks.select import mean_descriptors
from scrflow.landmarks.tracks import load_tracks
from scrflow.localize.landmarks import LandmarkMatcher
from scrflow.pipeline.project import Project
from scrflow.scene.model import load_scene

ROOT = Path(__file__).resolve().parents[1]


def main(
    scene: Annotated[str, typer.Argument()],
    others: Annotated[list[str] | None, typer.Option(help="Scenes whose landmarks stand among its own.")] = None,
    results: Annotated[Path, typer.Option()] = Path("results"),
    most: Annotated[int, typer.Option(help="Landmarks of the largest map.")] = 400_000,
    queries: Annotated[int, typer.Option(help="Photos localized.")] = 20,
) -> None:
    """Print a row for each number of landmarks."""
    torch.set_num_threads(1)
    project, rng = Project(ROOT / "config"), np.random.default_rng(1)
    own = load_tracks(results / scene / "tracks/sift.h5")
    unit = torch.from_numpy(mean_descriptors(own))
    projection = Pca.fit(unit, LandmarksConfig().dim)
    foreign = [mean_descriptors(load_tracks(results / name / "tracks/sift.h5")) for name in others or ()]
    real = torch.from_numpy(np.concatenate([unit.numpy(), *foreign]))
    pairs = torch.from_numpy(rng.integers(0, len(real), (2, max(0, most - len(real)))))
    noise = torch.from_numpy(rng.normal(0, 0.02, (pairs.shape[1], real.shape[1])).astype(np.float32))
    every = torch.cat([real, F.normalize((real[pairs[0]] + real[pairs[1]]) / 2 + noise, dim=1)])
    rows = F.normalize(projection(every), dim=1)
    xyz = np.concatenate([own.xyz.astype(np.float64), rng.normal(0, 1, (len(rows) - len(own.xyz), 3)) + 1000])
    features = project.config.tracks["sift"].features
    part = LandmarksPart(features=features, landmarks=LandmarksConfig())
    loaded = load_scene(results / scene / "scene")
    chosen = loaded.queries[:: max(1, len(loaded.queries) // queries)]
    encoder, views = build_encoder(features.extractor), None
    print("| landmarks | of the scene | within the thresholds | median | ms a query |\n|---|---|---|---|---|")
    for count in sorted({len(own.xyz), len(real), 100_000, 200_000, most}):
        if not len(own.xyz) <= count <= len(rows):
            continue
        landmarks = Landmarks(xyz[:count], np.zeros(count, np.int64), rows[:count], projection)
        matcher = LandmarkMatcher(landmarks, part, LandmarkLocalizeConfig(), encoder)
        views = views or [matcher.view(loaded.photo(q.name), q.camera) for q in chosen]
        began = time.process_time()
        found = [matcher.localize(view, 1).cam_from_world for view in views]
        ms = 1000 * (time.process_time() - began) / len(views)
        errors = np.array(
            [
                (np.inf, 180.0) if pose is None else pose_error(pose, loaded.query_poses[q.name])
                for pose, q in zip(found, chosen, strict=True)
            ]
        )
        within = [100 * np.mean((errors < limit).all(1)) for limit in project.scene(scene).thresholds]
        shares = " / ".join(f"{share:.0f}" for share in within)
        print(f"| {count} | {len(own.xyz)} | {shares} % | {np.median(errors[:, 0]):.4f} | {ms:.0f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
