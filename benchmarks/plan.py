"""Hold scrflow plan against finished runs: each scene predicted by rates that the other scenes were fitted to.

    .venv/bin/python benchmarks/plan.py                                          # the three scenes that are recorded
    .venv/bin/python benchmarks/plan.py record results/demo results/redkitchen   # such a file of one's own results

A rate is fixed + value * driver ** exponent (src/scrflow/cli/plan/rates.yaml). Its form, and the share of its fixed
part,
were chosen with all three scenes at hand; what is fitted to the other scenes alone is a factor a rule.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from scrflow.cli.plan import Rates, Workload, load_rates, stages_of  # noqa: E402
from scrflow.cli.plan.calibrate import Compared, compare, with_factors  # noqa: E402
from scrflow.cli.plan.limits import read_limits  # noqa: E402
from scrflow.cli.plan.schedule import elapsed_s  # noqa: E402
from scrflow.cli.plan.sizes import Sizes  # noqa: E402
from scrflow.cli.plan.workload import workload_of  # noqa: E402
from scrflow.pipeline.project import Project  # noqa: E402
from scrflow.report.costs import StageCost, costs_of  # noqa: E402

RECORDED = ROOT / "tests/cli/plan_costs.yaml"
METHOD = "rscore-cpu"

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", add_completion=False)


@dataclass(frozen=True)
class Run:
    """A scene that was finished."""

    work: Workload
    costs: tuple[StageCost, ...]
    disk_mb: float
    map_mb: float


@dataclass(frozen=True)
class Held:
    """A scene predicted by the others."""

    compared: tuple[Compared, ...]
    disk_mb: tuple[float, float]  # predicted, measured
    map_mb: tuple[float, float]
    elapsed_s: float  # predicted, on two cores

    @property
    def cpu_ratio(self) -> float:
        """Of all stages together, predicted over measured."""
        return sum(one.cpu_s[0] for one in self.compared) / sum(one.cpu_s[1] for one in self.compared)


def recorded(path: Path = RECORDED) -> dict[str, Run]:
    """Runs of a file that ``record`` wrote."""
    runs = {}
    for scene, values in yaml.safe_load(path.read_text("utf-8")).items():
        size, most = tuple(values["size"]), values["most_neighbours"]
        work = Workload(values["images"], values["queries"], size, values["degree"], most, told_by=str(path))
        costs = tuple(
            StageCost(rule, scene, wildcards, "mapping", wall, cpu, memory, None)
            for rule, wildcards, wall, cpu, memory in values["jobs"]
        )
        runs[scene] = Run(work, costs, values["disk_mb"], values["map_mb"])
    return runs


def leave_one_out(project: Project, runs: dict[str, Run], rates: Rates | None = None) -> dict[str, Held]:
    """Each scene predicted by rates fitted to the others."""
    rates = rates or load_rates()

    def compared(scene: str, with_: Rates) -> list[Compared]:
        return compare(stages_of(project, METHOD, runs[scene].work, with_), runs[scene].costs)

    out = {}
    for scene, run in runs.items():
        fitted = with_factors(rates, [one for other in runs if other != scene for one in compared(other, rates)])
        stages = stages_of(project, METHOD, run.work, fitted)
        limits = read_limits(ROOT / "rules", project.method(METHOD), None, 2)
        threads = {stage.name: limits.of(stage.rule).threads for stage in stages}
        map_mb = Sizes(project, run.work, project.method(METHOD)).map_bytes / 1e6
        disk = sum(stage.disk_mb for stage in stages)
        out[scene] = Held(
            tuple(compared(scene, fitted)), (disk, run.disk_mb), (map_mb, run.map_mb), elapsed_s(stages, threads, 2)
        )
    return out


@app.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    """Print the table of docs/scaling.md."""
    if context.invoked_subcommand is not None:
        return
    held = leave_one_out(Project(ROOT / "config"), recorded())
    names = list(dict.fromkeys(one.stage for found in held.values() for one in found.compared))
    print("| stage | " + " | ".join(f"{scene}: CPU s | MB" for scene in held) + " |\n|" + "---|" * (1 + 2 * len(held)))
    for name in names:
        cells = []
        for found in held.values():
            one = next((c for c in found.compared if c.stage == name), None)
            cells += ["", ""] if one is None else [_cell(one.cpu_s, 1), _cell(one.mem_mb, 0)]
        print(f"| {name} | " + " | ".join(cells) + " |")
    sums = [
        _cell((sum(c.cpu_s[0] for c in found.compared), sum(c.cpu_s[1] for c in found.compared)), 0)
        for found in held.values()
    ]
    print("| **all** | " + " | ".join(f"**{text}** | " for text in sums) + " |")
    print("| disk, MB | " + " | ".join(f"{_cell(found.disk_mb, 0)} | " for found in held.values()) + " |")
    print("| map, MB | " + " | ".join(f"{_cell(found.map_mb, 2)} | " for found in held.values()) + " |")
    print("| wall clock on two cores, s | " + " | ".join(f"{found.elapsed_s:.0f} | " for found in held.values()) + " |")


def _cell(pair: tuple[float, float], digits: int) -> str:
    predicted, measured = pair
    return f"{predicted:.{digits}f} / {measured:.{digits}f} = {predicted / measured:.2f}"


@app.command()
def record(folders: Annotated[list[Path], typer.Argument()]) -> None:
    """Print the costs of results/SCENE of finished runs, as tests/cli/plan_costs.yaml has them."""
    project = Project(ROOT / "config")
    for folder in folders:
        work = workload_of(project, folder.name, folder.parent)
        # not the report, which no target of the plan asks for
        files = [p for p in folder.rglob("*") if p.is_file() and p.name != "report.html"]
        kept = [p for p in files if p.relative_to(folder).parts[0] in _parts(folder)]
        values: dict[str, Any] = {
            "images": work.images,
            "queries": work.queries,
            "size": list(work.size),
            "degree": round(work.degree, 2),
            "most_neighbours": work.most_neighbours,
            "disk_mb": round(sum(p.stat().st_size for p in kept) / 1e6, 1),
            "map_mb": round((folder / METHOD / "map.safetensors").stat().st_size / 1e6, 3),
        }
        print(f"{folder.name}:")
        for key, value in values.items():
            print(f"  {key}: {json.dumps(value)}")
        print("  jobs:")
        for cost in costs_of(folder / METHOD).stages:
            print("    - " + json.dumps([cost.rule, cost.wildcards, cost.wall_s, cost.cpu_s, cost.max_rss_mb]))


def _parts(folder: Path) -> set[str]:
    return {"scene", "covisibility.npz", "encodings", "retrieval", "local", METHOD}


if __name__ == "__main__":
    app()
