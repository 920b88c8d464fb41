"""Size of a map against recall: the map of a scene that was run, written with each way of shrinking it, and localized.

    snakemake --cores 2 results/redkitchen/poses.txt
    .venv/bin/python benchmarks/mapsize.py redkitchen --method rscore-cpu

Nothing is trained: head, PCA, encodings and retrieval model are those under --results, and the maps are written in a
temporary folder as rule write_map does it. A row has the size by part in kB (1 000 bytes), recall at the scene's
thresholds and median errors. The rows ``default, seed N`` are the default map localized with other seeds of RANSAC:
what differs between them is noise.
"""

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml
from safetensors.torch import load_file

from scrflow.config import LocalizeStage, MapStage
from scrflow.config.base import deep_merge
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pose_error
from scrflow.localize.localizer import localize_queries
from scrflow.map.file import write_map
from scrflow.map.format import sizes
from scrflow.pipeline.project import Project
from scrflow.scene.lists import read_poses
from scrflow.scene.model import Scene, load_scene

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("head", "encodings", "PCA", "retrieval describer", "retrieval index", "names and config")
# keys under ``map`` of the method
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "head int8": {"head": "int8"},
    "encodings int8": {"encodings": "int8"},
    "PCA fp16": {"pca": "fp16"},
    "retrieval int8": {"retrieval": "int8"},
    "retrieval_dim 64": {"retrieval_dim": 64},
    "retrieval_dim 32": {"retrieval_dim": 32},
    "retrieval_dim 16": {"retrieval_dim": 16},
    "pq_bytes 8": {"pq_bytes": 8},
    "merge 0.9": {"merge": 0.9},
    "merge 0.8": {"merge": 0.8},
    "merge 0.7": {"merge": 0.7},
    "all int8": {"head": "int8", "encodings": "int8", "pca": "fp16", "retrieval": "int8"},
}
SMALL = {**SETTINGS["all int8"], "retrieval_dim": 32}  # what docs/performance.md recommends
SETTINGS |= {
    "all int8, retrieval_dim 64": {**SMALL, "retrieval_dim": 64},
    "small": SMALL,
    "small, merge 0.9": {**SMALL, "merge": 0.9},
    "small, merge 0.8": {**SMALL, "merge": 0.8},
}


class Bench:
    """Artifacts of one scene and method."""

    def __init__(self, project: Project, results: Path, scene: str, method: str, threads: int):
        self.project, self.root, self.threads = project, results / scene, threads
        self.scene, self.method = scene, method
        self.config = project.method(method)
        self.loaded: Scene = load_scene(self.root / "scene")
        if not self.loaded.query_poses:
            raise ScrflowError(f"{self.root}/scene: no true poses of queries to measure by")

    def write(self, settings: dict[str, Any], out: Path) -> dict[str, int]:
        """Write the map with other values under ``map``, and give its bytes by part."""
        stage = self.project.map_stage(self.scene, self.method)
        encoding = self.config.global_encoding.name
        folder = "encodings" if encoding in self.project.config.encodings else "retrieval"
        write_map(
            MapStage.model_validate(deep_merge(stage.model_dump(), {"map": settings})),
            self.root / "scene",
            self.root / self.method / "head.safetensors",
            self.root / "local" / self.config.encoder / "pca.safetensors",
            self.root / folder / f"{encoding}.h5" if encoding else None,
            self.root / "retrieval" / f"{self.config.retrieval}.safetensors" if self.config.retrieval else None,
            out,
            self.root / "covisibility.npz" if "merge" in settings else None,
        )
        return sizes(out)

    def errors(self, map_path: Path, seed: int, folder: Path) -> np.ndarray:
        """Errors [Q, 2] in the scene's unit and degrees of the queries of known pose; infinite for one that is lost."""
        stage = LocalizeStage(localize=self.config.localize, seed=seed)
        poses = folder / "poses.txt"
        localize_queries(stage, self.root / "scene", map_path, poses, folder / "localization.json", self.threads)
        found = read_poses(poses)
        truth = self.loaded.query_poses
        return np.array([pose_error(found[n], truth[n]) if n in found else (np.inf, np.inf) for n in truth])


def main(
    scenes: Annotated[list[str], typer.Argument(help="scenes whose artifacts are under --results")],
    method: Annotated[str, typer.Option(help="a method that was run on them")] = "rscore-cpu",
    results: Annotated[Path, typer.Option(help="folder results/ of a workflow")] = ROOT / "results",
    overrides: Annotated[str, typer.Option(help="YAML on top of config.yaml, as the results were made with")] = "{}",
    only: Annotated[str, typer.Option(help="settings, with semicolons between them; all of them if not given")] = "",
    extra: Annotated[str, typer.Option(help="YAML of further settings: name: {keys under map}")] = "{}",
    seeds: Annotated[int, typer.Option(min=1, help="seeds that the default map is localized with")] = 3,
    threads: int = 1,
) -> None:
    """Print a Markdown table a scene."""
    project = Project(ROOT / "config", yaml.safe_load(overrides))
    chosen = {**SETTINGS, **yaml.safe_load(extra)}
    if only:
        chosen = {name: chosen[name] for name in map(str.strip, only.split(";"))}
    for scene in scenes:
        bench = Bench(project, results, scene, method, threads)
        marks = [f"{t:g} {bench.loaded.unit}, {r:g}°" for t, r in project.scene(scene).thresholds]
        header = ["setting", "images", "MB", *(f"{p}, kB" for p in PARTS), *marks, "median", "degrees"]
        print(f"\n{scene}, {method}, {len(bench.loaded.query_poses)} queries\n")
        print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)
        for name, settings in chosen.items():
            with tempfile.TemporaryDirectory(prefix="scrflow-mapsize-") as temporary:
                folder = Path(temporary)
                path = folder / "map.safetensors"
                found = bench.write(settings, path)
                tensors = load_file(path)
                images = len(tensors["encoding"]) if "encoding" in tensors else 0
                cells = [str(images), f"{path.stat().st_size / 1e6:.2f}"]
                cells += [f"{found.get(part, 0) / 1e3:.0f}" for part in PARTS]
                for seed in range(project.config.seed, project.config.seed + (seeds if not settings else 1)):
                    errors = bench.errors(path, seed, folder)
                    recall = [np.mean((errors < np.array(t)).all(1)) for t in project.scene(scene).thresholds]
                    median = np.median(errors, axis=0)
                    label = name if seed == project.config.seed else f"{name}, seed {seed}"
                    shown = [f"{100 * r:.1f}" for r in recall] + [f"{median[0]:.4f}", f"{median[1]:.3f}"]
                    print(f"| {' | '.join([label, *cells, *shown])} |", flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        try:
            typer.run(main)
        except ScrflowError as error:
            sys.exit(f"error: {error}")
