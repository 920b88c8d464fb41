"""What the jobs of a run cost: wall clock, CPU time and memory, and the ratio of two runs.

    snakemake --cores 2 results/redkitchen/rscore-cpu/metrics.json
    .venv/bin/python benchmarks/pipeline.py results/redkitchen
    .venv/bin/python benchmarks/pipeline.py ../before/results/redkitchen results/redkitchen --method rscore-cpu

Wall clock is from Snakemake's benchmark files; CPU time and memory are what the job itself wrote at the end of its log.
Jobs run side by side, so the sum of their wall clocks is more than the run's.
"""

import csv
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

_CPU = re.compile(r"CPU time ([\d.]+) s, at most (\d+) MB")
Cost = tuple[float, float, float]  # wall s, CPU s, MB


def read_costs(scene: Path, method: str | None) -> dict[str, Cost]:
    """Costs by rule and wildcards, in the order in which the jobs ended; of jobs of methods, those of ``method``."""
    found = {}
    for path in (scene / "benchmarks").glob("**/*.tsv"):
        name = path.relative_to(scene / "benchmarks").with_suffix("")
        of = "/".join(name.parts[1:])
        log = scene / "logs" / name.with_suffix(".log")
        logged = _CPU.findall(log.read_text("utf-8", errors="replace")) if log.is_file() else []
        if not logged or (method and of and (scene / of).is_dir() and of != method):
            continue
        with open(path, newline="", encoding="utf-8") as file:
            wall = float(list(csv.DictReader(file, delimiter="\t"))[-1]["s"])
        found[f"{name.parts[0]} {of}".strip()] = (log.stat().st_mtime, (wall, *map(float, logged[-1])))
    if not found:
        sys.exit(f"{scene}: no benchmarks/*.tsv with logs; give a folder results/SCENE of a run")
    return {name: cost for name, (_, cost) in sorted(found.items(), key=lambda item: item[1][0])}


def total(costs: list[Cost]) -> Cost:
    """Sums of the times, the most memory."""
    wall, cpu, memory = zip(*costs, strict=True)
    return sum(wall), sum(cpu), max(memory)


def main(
    folders: Annotated[list[Path], typer.Argument(help="results/SCENE of one run, or of two: before and after")],
    method: Annotated[str | None, typer.Option(help="leave out jobs of other methods")] = None,
) -> None:
    """Print a Markdown table: a row a job, and the sums with and without training."""
    runs = [read_costs(folder, method) for folder in folders[:2]]
    titles = ("",) if len(runs) == 1 else (" before", " after")
    columns = ["stage", *(f"{column}{title}" for title in titles for column in ("wall s", "CPU s", "MB"))]
    columns += ["wall ratio", "CPU ratio"] if len(runs) == 2 else []
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    rows = {name: [run.get(name) for run in runs] for run in runs for name in run}
    for title, kept in (("all but training", lambda name: not name.startswith("train_head")), ("sum", bool)):
        rows[title] = [total([cost for name, cost in run.items() if kept(name)]) for run in runs]
    for name, costs in rows.items():
        cells = [f"{c[0]:.1f} | {c[1]:.1f} | {c[2]:.0f}" if c else "- | - | -" for c in costs]
        if len(costs) == 2:
            cells += [f"{costs[0][i] / costs[1][i]:.2f}" if all(costs) and costs[1][i] else "-" for i in (0, 1)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    typer.run(main)
