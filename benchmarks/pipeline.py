"""What the stages of a run cost: wall clock, CPU time and memory of each job, and the ratio of two runs.

    snakemake --cores 2 results/redkitchen/rscore-cpu/metrics.json
    .venv/bin/python benchmarks/pipeline.py results/redkitchen
    .venv/bin/python benchmarks/pipeline.py ../before/results/redkitchen results/redkitchen --method rscore-cpu

Wall clock is from the benchmarks of Snakemake, CPU time and memory are what the job itself wrote at the end of its log.
Runs from before jobs did so have those of the benchmark: sampled, after the first 15 s of a job no more than twice a
minute, so that its CPU time is a lower bound, and marked so. Jobs run beside each other: the sum of their wall clocks
is more than the run's.
"""

from __future__ import annotations

import csv
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

_CPU = re.compile(r"CPU time ([\d.]+) s, at most (\d+) MB")
# in the order in which they run; what is not named here follows
STAGES = (
    "download_dataset", "reconstruct_scene", "build_scene", "triangulate_points", "build_graph", "embed_graph",
    "cluster_features", "build_retrieval", "fit_pca", "fill_buffer", "triangulate_samples", "find_point_depths",
    "read_depth_maps", "train_head", "write_map", "localize_queries", "evaluate_poses", "choose_poses",
)  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Of one job, or a sum."""

    wall_s: float
    cpu_s: float | None
    bound: bool  # cpu_s is a lower bound
    rss_mb: float | None

    def __add__(self, other: Cost) -> Cost:
        cpu = None if self.cpu_s is None or other.cpu_s is None else self.cpu_s + other.cpu_s
        rss = max((m for m in (self.rss_mb, other.rss_mb) if m is not None), default=None)
        return Cost(self.wall_s + other.wall_s, cpu, self.bound or other.bound, rss)


def read_costs(scene: Path, method: str | None) -> dict[tuple[str, str], Cost]:
    """Costs of the jobs of a scene's folder of results, by rule and wildcards.

    ``method``: of jobs of methods, only those of this one. Exits with a message where there are no benchmarks.
    """
    costs = {}
    for path in sorted((scene / "benchmarks").glob("**/*.tsv")):
        name = path.relative_to(scene / "benchmarks").with_suffix("")
        rule, wildcards = name.parts[0], "/".join(name.parts[1:])
        if method and (scene / wildcards).is_dir() and wildcards and wildcards != method:
            continue
        costs[rule, wildcards] = _read_cost(path, scene / "logs" / name.with_suffix(".log"))
    if not costs:
        sys.exit(f"{scene}: no benchmarks/*.tsv; give a folder results/SCENE of a run")
    return costs


def _read_cost(benchmark: Path, log: Path) -> Cost:
    with open(benchmark, newline="", encoding="utf-8") as file:
        row = list(csv.DictReader(file, delimiter="\t"))[-1]
    logged = _CPU.findall(log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else []
    if logged:
        cpu, rss = map(float, logged[-1])
        return Cost(float(row["s"]), cpu, False, rss)
    return Cost(float(row["s"]), _number(row["cpu_time"]), True, _number(row["max_rss"]))


def _number(text: str) -> float | None:
    """None for jobs that were over before they were looked at."""
    return None if text in ("NA", "-", "") else float(text)


def _order(key: tuple[str, str]) -> tuple[int, str, str]:
    rule, wildcards = key
    return (STAGES.index(rule) if rule in STAGES else len(STAGES), rule, wildcards)


def _cells(cost: Cost | None) -> list[str]:
    if cost is None:
        return ["-"] * 3
    cpu = "-" if cost.cpu_s is None else f"{'≥ ' if cost.bound else ''}{cost.cpu_s:.1f}"
    return [f"{cost.wall_s:.1f}", cpu, "-" if cost.rss_mb is None else f"{cost.rss_mb:.0f}"]


def _ratio(before: float | None, after: float | None) -> str:
    return f"{before / after:.2f}" if before and after else "-"


def main(
    folders: Annotated[list[Path], typer.Argument(help="results/SCENE of one run, or of two: before and after")],
    method: Annotated[str | None, typer.Option(help="leave out jobs of other methods")] = None,
) -> None:
    """Print a Markdown table: a row a job, and the sums with and without training."""
    if len(folders) > 2:
        sys.exit("one or two folders: before and after")
    runs = [read_costs(folder, method) for folder in folders]
    columns = ["stage"]
    for title in ("",) if len(runs) == 1 else (" before", " after"):
        columns += [f"wall s{title}", f"CPU s{title}", f"MB{title}"]
    if len(runs) == 2:
        columns += ["wall ratio", "CPU ratio"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    keys = sorted(set().union(*runs), key=_order)
    rows = [(" ".join(key).strip(), [run.get(key) for run in runs]) for key in keys]
    for title, kept in (
        ("all but training", [key for key in keys if key[0] != "train_head"]),
        ("sum", keys),
    ):
        sums = [[run[key] for key in kept if key in run] for run in runs]
        rows.append((title, [sum(parts[1:], parts[0]) if parts else None for parts in sums]))
    for title, costs in rows:
        cells = [cell for cost in costs for cell in _cells(cost)]
        if len(costs) == 2:
            before, after = costs
            both = before is not None and after is not None
            cells += [_ratio(before.wall_s, after.wall_s), _ratio(before.cpu_s, after.cpu_s)] if both else ["-", "-"]
        print(f"| {title} | {' | '.join(cells)} |")


if __name__ == "__main__":
    typer.run(main)
