"""Localize the queries of a scene that was run, with successive halving of the hypotheses and with a full evaluation of
each, and print the tables of docs/performance.md.

    snakemake --cores 2 results/redkitchen/poses.txt
    .venv/bin/python benchmarks/localize.py redkitchen --method rscore-cpu

One table has, for each number of hypotheses, recall at the scene's thresholds, median errors and mean milliseconds a
query by part. Times are those of one thread: the processor's, which other work on the machine hardly changes, or with
--device cuda the clock's. The other table has queries a second for several queries side by side, by the clock.
"""

import os
import resource
import time
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import typer

from scrflow.config import LocalizeConfig
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pose_error
from scrflow.core.images import read_rgb
from scrflow.core.parallel import mapped, one_thread_each
from scrflow.core.seeds import derived_seed
from scrflow.localize.localizer import Localizer
from scrflow.localize.result import Clock, Localization
from scrflow.map.file import Map, load_map
from scrflow.pipeline.project import Project
from scrflow.scene.model import Query, Scene, load_scene

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("encode", "retrieve", "head", "hypotheses", "pose", "total")


def build(map_: Map, hypotheses: int, halving: bool, device: str) -> Localizer:
    """As the map says, but for the number of hypotheses, and how the best is found."""
    config: LocalizeConfig = map_.config.localize
    update = {"hypotheses": hypotheses, "halving": config.halving if halving else None}
    return Localizer(map_, config.model_copy(update=update), derived_seed(map_.config.seed, "localize"), device=device)


def accuracy(scene: Scene, queries: list[Query], poses: list[np.ndarray | None], thresholds) -> str:
    """Cells of the table: recall at each threshold, median errors."""
    known = [(p, scene.query_poses[q.name]) for q, p in zip(queries, poses, strict=True) if q.name in scene.query_poses]
    if not known:
        raise ScrflowError(f"{scene.folder}: no query has a reference pose; name a scene with reference poses")
    errors = np.array([(np.inf, np.inf) if p is None else pose_error(p, truth) for p, truth in known])
    recall = [f"{100 * np.mean((errors[:, 0] < t) & (errors[:, 1] < r)):.1f}" for t, r in thresholds]
    median = np.median(errors, axis=0)
    return f"{' / '.join(recall)} | {median[0]:.4f} | {median[1]:.3f}"


def compare(scene: Scene, queries: list[Query], map_: Map, hypotheses: list[int], device: str) -> None:
    """The table of halving against full evaluation."""
    photos = {q.name: read_rgb(scene.image_path(q.name)) for q in queries}
    thresholds = map_.config.thresholds
    where = "processor" if device == "cpu" else "clock"
    unit = map_.config.unit
    names = ", ".join(f"{t:g} {unit} {r:g}°" for t, r in thresholds)
    print(f"| hypotheses | evaluated | recall, % ({names}) | median, {unit} | median, ° "
          f"| {' | '.join(PARTS)}, ms ({where}) | full / halving |")  # fmt: skip
    print(f"|---|---|---|---|---|{'---|' * len(PARTS)}---|")
    for count in hypotheses:
        totals = {}
        for halving in (True, False) if count > 1 else (False,):
            localizer = build(map_, count, halving, device)
            with one_thread_each():
                localizer.localize_photo(
                    photos[queries[0].name], queries[0].camera
                )  # nothing is made ready in the timing
                results = [localizer.localize_photo(photos[q.name], q.camera) for q in queries]
            ms = [np.mean([r.ms.get(part, 0.0) for r in results]) for part in PARTS]
            totals[halving] = ms[-1]
            cells = accuracy(scene, queries, [r.cam_from_world for r in results], thresholds)
            ratio = f"{totals[False] / totals[True]:.2f}" if len(totals) == 2 else ""
            how = "halving" if halving else "full"
            print(f"| {count} | {how} | {cells} | {' | '.join(f'{v:.0f}' for v in ms)} | {ratio} |", flush=True)


def rates(scene: Scene, queries: list[Query], map_: Map, threads: list[int], repeat: int, device: str) -> None:
    """The table of queries a second, photos read from disk."""
    localizer = build(map_, map_.config.localize.hypotheses, True, device)

    def one(query: Query) -> Localization:
        return localizer.localize_photo(read_rgb(scene.image_path(query.name)), query.camera)

    print("| threads | queries | clock, s | queries/s | processor, s a query | of one thread | peak memory, MB |")
    print("|---|---|---|---|---|---|---|")
    first = None
    for count in threads:
        list(mapped(one, queries[:count], count))
        began, used = time.perf_counter(), time.process_time()
        done = sum(1 for _ in mapped(one, queries * repeat, count))
        seconds, processor = time.perf_counter() - began, time.process_time() - used
        first = first or done / seconds
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {count} | {done} | {seconds:.1f} | {done / seconds:.2f} | {processor / done:.3f} "
              f"| {done / seconds / first:.2f} | {peak:.0f} |", flush=True)  # fmt: skip


def main(
    scene: Annotated[str, typer.Argument(help="a scene of the results folder")],
    method: Annotated[str | None, typer.Option(help="default: the scene's")] = None,
    results: Annotated[Path, typer.Option(help="folder that the workflow wrote")] = Path("results"),
    hypotheses: Annotated[str, typer.Option(help="how many, by commas; empty: no such table")] = "1,5,10,20",
    threads: Annotated[str, typer.Option(help="numbers of threads, by commas; empty: no such table")] = "1,2",
    limit: Annotated[int | None, typer.Option(help="queries, evenly spread; default: all")] = None,
    repeat: Annotated[int, typer.Option(help="times over the queries for queries a second")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda where there is one")] = None,
) -> None:
    """Print recall and milliseconds of halving against a full evaluation, and queries a second."""
    torch.set_num_threads(1)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        folder = results / scene
        loaded = load_scene(folder / "scene")
        map_ = load_map(folder / (method or Project(ROOT / "config").scene(scene).method) / "map.safetensors")
        step = max(1, len(loaded.queries) // limit) if limit else 1
        queries = list(loaded.queries)[::step][:limit]
        if device == "cpu":
            Clock.now = staticmethod(time.process_time)
        name = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} cores"
        print(f"{scene}, {len(queries)} queries, {name}, {torch.__version__}; load {os.getloadavg()[0]:.1f}\n")
        if hypotheses:
            compare(loaded, queries, map_, [int(v) for v in hypotheses.split(",")], device)
            print()
        if threads:
            rates(loaded, queries, map_, [int(v) for v in threads.split(",")], repeat, device)
    except ScrflowError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    typer.run(main)
