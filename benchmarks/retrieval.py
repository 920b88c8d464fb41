"""Measure retrieval features of config/config.yaml on scenes that were read, and print the table of docs/retrieval.md.

    snakemake --cores 1 results/redkitchen/scene/scene.json results/fox/scene/scene.json
    .venv/bin/python benchmarks/retrieval.py redkitchen fox --features vlad,efficientnet-lite0,fusion

Features are built and queries described as the workflow does it, in a temporary folder. Queries are used for nothing
but the measures. Recalls are those of scrflow.features.retrieval_index. CPU ms is the median over the queries of
describing one, of all threads together: what else the machine does hardly counts.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml

from scrflow.config import ExtractorConfig, RetrievalPart
from scrflow.core.images import read_rgb
from scrflow.features.encoders import build_encoder
from scrflow.features.retrieval import Retriever, build_describer
from scrflow.features.retrieval_index import ANGLE_DEG, build_retrieval, measure
from scrflow.features.views import encode_view
from scrflow.interop import hloc_files as hloc
from scrflow.pipeline.project import Project
from scrflow.scene.model import Scene, load_scene

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("scene", "feature", "dim", "MB in the map", "CPU ms a query",
           "queries R@1", "R@10", "P@10", "left out R@1", "R@10", "P@10", "PQ = exact @10")  # fmt: skip


class Bench:
    """Features of one scene; a part that several fusions share is built once."""

    def __init__(self, project: Project, scene: str, folder: Path, out: Path, threads: int):
        self.project, self.scene, self.folder, self.out, self.threads = project, scene, folder, out, threads
        self.loaded: Scene = load_scene(folder)
        self._encoders: dict[str, Any] = {}

    def files(self, feature: str) -> tuple[Path, Path]:
        """Descriptors and model of a feature, built when they are not there."""
        stem = self.out / self.scene / feature
        out, model, quality = (stem.with_name(f"{feature}{s}") for s in (".h5", ".safetensors", ".json"))
        if not quality.exists():
            stage = self.project.retrieval_stage(self.scene, feature)
            parts = [self.files(part) for part in stage.retrieval.parts]
            build_retrieval(stage, self.folder, out, model, quality, self.threads, parts)
        return out, model

    def part(self, feature: str) -> RetrievalPart:
        stage = self.project.retrieval_stage(self.scene, feature)
        return RetrievalPart(retrieval=stage.retrieval, extractor=stage.extractor)

    def encoder(self, extractor: ExtractorConfig) -> Any:
        key = extractor.model_dump_json()
        if key not in self._encoders:
            self._encoders[key] = build_encoder(extractor)
        return self._encoders[key]

    def row(self, feature: str, near: float | None) -> list[str]:
        """One line of the table."""
        descriptors, model = self.files(feature)
        retriever = Retriever.open(model)
        main = self.part(feature)
        members = [self.part(name) for name in main.retrieval.parts]
        describer = build_describer(main, retriever.description, members)
        queries: dict[str, np.ndarray] = {}
        seconds = []
        for query in self.loaded.queries:
            photo = read_rgb(self.loaded.image_path(query.name))

            def local(extractor: ExtractorConfig, count: int, photo=photo, camera=query.camera) -> torch.Tensor:
                return encode_view(photo, camera, self.encoder(extractor), extractor.short_side, count).descriptors

            if not queries:
                describer(photo, local)  # weights are loaded and kernels chosen: not counted
            began = time.process_time()
            queries[query.name] = describer(photo, local).numpy()
            seconds.append(time.process_time() - began)
        vectors = hloc.read_descriptors(descriptors, retriever.names)
        poses = np.stack([v.cam_from_world for v in self.loaded.mapping])
        distance = near or self.project.retrieval_stage(self.scene, feature).near
        result = measure(retriever, vectors, poses, distance, queries, self.loaded.query_poses)
        own, left = result["by_pose"].get("queries", {}), result["by_pose"]["mapping"]
        keys = ("recall@1", "recall@10", "precision@10")
        return [
            self.scene,
            feature,
            str(result["dim"]),
            f"{result['model_mb']:.2f}",
            f"{1000 * statistics.median(seconds):.0f}",
            *(_percent(own.get(k)) for k in keys),
            *(_percent(left.get(k)) for k in keys),
            _percent(result["quantised_vs_exact"]["mapping"]["recall@10"]),
        ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}"


def main(
    scenes: Annotated[list[str], typer.Argument(help="scenes whose scene.json is under --results")],
    features: Annotated[str, typer.Option(help="names in config.yaml, with commas between them")] = "vlad",
    results: Annotated[Path, typer.Option(help="folder results/ of a workflow")] = ROOT / "results",
    overrides: Annotated[str, typer.Option(help="YAML on top of config.yaml, to try other settings")] = "{}",
    near: Annotated[float | None, typer.Option(help="scene units, in place of 1/16 of the farthest depth")] = None,
    threads: int = 1,
) -> None:
    """Print a Markdown table: a row a scene and feature."""
    torch.set_num_threads(threads)
    project = Project(ROOT / "config", yaml.safe_load(overrides))
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    with tempfile.TemporaryDirectory(prefix="scrflow-retrieval-") as out:
        for scene in scenes:
            bench = Bench(project, scene, results / scene / "scene", Path(out), threads)
            for feature in features.split(","):
                print(f"| {' | '.join(bench.row(feature, near))} |", flush=True)
            distance = near or project.retrieval_stage(scene, features.split(",")[0]).near
            print(f"{scene}: near is {distance:g} {bench.loaded.unit}, {ANGLE_DEG:g} degrees", file=sys.stderr)


if __name__ == "__main__":
    with torch.inference_mode():
        typer.run(main)
