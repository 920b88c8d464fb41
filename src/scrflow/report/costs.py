"""What a map cost: time and memory of every job that it needed, and of localizing the queries with it.

Which jobs those are follows from the stamps of the artifacts (scrflow.pipeline.lineage). Wall clock is from the
benchmark files
of Snakemake; CPU time and memory are what the job itself wrote at the end of its log, or else the benchmark's, which
samples a job that lasts no more than twice a minute. A job whose results can come out of a cache writes its benchmark
file itself (scrflow.pipeline.job.Usage), and the cache keeps it with the results.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scrflow.core.errors import ScrflowError
from scrflow.pipeline.lineage import MAPS, Artifact, results_in, upstream

Phase = Literal["scene", "mapping", "localization"]
PHASES: dict[Phase, str] = {
    "scene": "posed images",  # reading a dataset, or structure from motion
    "mapping": "map",
    "localization": "localization",
}
HEAD = "head.safetensors"
HISTORY = "train.jsonl"
_USAGE = re.compile(r"CPU time ([\d.]+) s, at most (\d+) MB(?:, GPU at most (\d+) MB)?")


@dataclass(frozen=True)
class StageCost:
    """Of one job. Memory is in MB (10^6 bytes on a GPU; 2^20, as Snakemake has it, elsewhere)."""

    rule: str
    scene: str  # of a combined scene: also its parts
    wildcards: str  # as in the names of logs and benchmarks; empty for a rule with one job a scene
    phase: Phase
    wall_s: float
    cpu_s: float | None  # of all threads and child processes; None for a job that was over before it was looked at
    max_rss_mb: float | None
    gpu_mb: float | None  # most that torch had allocated at once; None where no GPU was used
    cpu_is_bound: bool = False  # sampled by Snakemake: cpu_s is a lower bound
    cached: bool = False  # out of the cache between workflows: these are the costs of the job that filled it


@dataclass(frozen=True)
class Costs:
    """Jobs in an order in which they could have run. Where ``unknown`` names any, the sums are not whole."""

    stages: tuple[StageCost, ...]
    unknown: tuple[str, ...]

    def seconds(self, *phases: Phase) -> float | None:
        """Sum of the wall clocks of the jobs of these phases; None where a job of them is not known."""
        return None if self.unknown or not self.stages else sum(s.wall_s for s in self.stages if s.phase in phases)


def costs_of(folder: Path) -> Costs:
    """Costs of results/SCENE/METHOD: of the jobs that its map needed, each once, and of localization.

    Nothing of a folder without a map. ScrflowError where a map, a benchmark file or a log is damaged.
    """
    folder = Path(folder).absolute()
    roots = results_in(folder)
    if not roots or roots[0].name not in MAPS:
        return Costs((), (f"{folder}: no map",))
    found = upstream(roots)
    phases = _phases(found, roots[0].relative_to(folder.parents[1]).as_posix())
    stages: dict[tuple[str, str, str], StageCost] = {}
    unknown = []
    for path, artifact in found.items():
        unknown += [f"{path}: its input {key} is gone, or was made anew" for key in artifact.lost]
        if artifact.job is None:
            unknown.append(f"{path}: no rule is known to make it (scrflow.pipeline.lineage.JOBS)")
            continue
        job, wildcards = artifact.job
        name = "-".join(value for key, value in wildcards.items() if key != "scene")
        if (job.rule, artifact.scene, name) in stages:
            continue
        benchmark = Path("benchmarks", job.rule, name) if name else Path("benchmarks", job.rule)
        cost = _cost(folder.parents[1] / artifact.scene, benchmark.relative_to("benchmarks"))
        if cost is None:
            unknown.append(f"{artifact.scene}/{benchmark}.tsv: no such benchmark file")
            continue
        if path.endswith(f"/{HEAD}"):
            cost = _whole_training(cost, folder.parents[1] / path)
        stages[job.rule, artifact.scene, name] = StageCost(job.rule, artifact.scene, name, phases[path], **cost)
    return Costs(tuple(stages.values()), tuple(dict.fromkeys(unknown)))


def stage_costs(folder: Path) -> tuple[StageCost, ...]:
    """The jobs of ``costs_of``."""
    return costs_of(folder).stages


def mapping_seconds(folder: Path) -> float | None:
    """Wall-clock seconds from the photos to the map in ``folder``: GLACE's mapping time (Table 7).

    The paper lists no stages; its mapping takes posed photos to a trained head by encoding them globally and locally
    and training (Supplementary B). Here that is every job upstream of the map, down to the scene, SfM where it made the
    poses, but not a download. Jobs that ran side by side are added up, and what several methods share counts for each.
    None where the cost of any of these jobs is not known.
    """
    return costs_of(folder).seconds("scene", "mapping")


def _phases(found: dict[str, Artifact], map_name: str) -> dict[str, Phase]:
    """Phase of every artifact: before the scene, before the map, or neither."""
    scenes = [path for path, a in found.items() if a.stamp is not None and a.stamp.kind == "scene"]
    of_scene, of_map = _before(found, scenes), _before(found, [map_name])
    return {p: "scene" if p in of_scene else "mapping" if p in of_map else "localization" for p in found}


def _before(found: dict[str, Artifact], paths: Iterable[str]) -> set[str]:
    """``paths`` and everything upstream of them."""
    seen: set[str] = set()
    todo = list(paths)
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo.extend(found[path].inputs.values())
    return seen


# --------------------------------------------------------------------------------------------------------------- files


def _cost(scene: Path, name: Path) -> dict[str, Any] | None:
    """The numbers of a StageCost, of the job whose benchmark and log bear this name; None without a benchmark file."""
    benchmark, log = scene / "benchmarks" / f"{name}.tsv", scene / "logs" / f"{name}.log"
    if not benchmark.exists():
        return None
    wall, cpu, rss, gpu, sampled = _benchmark(benchmark)
    logged = _USAGE.findall(log.read_text(encoding="utf-8", errors="replace")) if log.exists() else []
    if logged:
        cpu, rss, gpu = (float(value) if value else None for value in logged[-1])
    # Snakemake empties the log before it looks into the cache, and puts links there
    cached = benchmark.is_symlink() and not logged
    bound = sampled and not logged
    return {"wall_s": wall, "cpu_s": cpu, "max_rss_mb": rss, "gpu_mb": gpu, "cpu_is_bound": bound, "cached": cached}


def _benchmark(path: Path) -> tuple[float, float | None, float | None, float | None, bool]:
    """Seconds, CPU seconds, MB and MB on a GPU: means of the repeats (one row each), the largest memory; and whether
    Snakemake sampled them, rather than the job itself counted."""
    try:
        with open(path, encoding="utf-8", newline="") as f:
            rows = list(csv.DictReader(f, delimiter="\t"))
        seconds = [float(row["s"]) for row in rows]
        cpu = [_number(row.get("cpu_time")) for row in rows]
        rss = [value for row in rows if (value := _number(row.get("max_rss"))) is not None]
        gpu = [value for row in rows if (value := _number(row.get("gpu_mb"))) is not None]
        mean_cpu = None if None in cpu else sum(cpu) / len(cpu)
        sampled = "gpu_mb" not in rows[0]  # scrflow.pipeline.job.Usage has this column, Snakemake does not
        return sum(seconds) / len(seconds), mean_cpu, max(rss, default=None), max(gpu, default=None), sampled
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError):
        raise ScrflowError(f"{path}: no benchmark file of Snakemake (column s, in seconds); delete it") from None


def _number(text: str | None) -> float | None:
    """None for what Snakemake did not measure."""
    return None if text in (None, "", "NA", "-") else float(text)


def _whole_training(cost: dict[str, Any], head: Path) -> dict[str, Any]:
    """The benchmark of a training that was killed and gone on with is that of its last run: the history counts all.
    Several processes' memory is in the history too, not in the log of the job that started them."""
    history = head.with_name(HISTORY)
    if not history.exists():
        return cost
    try:
        last = json.loads(history.read_text(encoding="utf-8").rstrip("\n").split("\n")[-1])
        seconds, gpu = float(last["seconds"]), (last.get("ran") or {}).get("gpu_mb")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ScrflowError(f"{history}: last line of the training log cannot be used; train again") from None
    gpu = max((mb for mb in (gpu, cost["gpu_mb"]) if mb is not None), default=None)
    return {**cost, "wall_s": max(cost["wall_s"], seconds), "gpu_mb": gpu}


# --------------------------------------------------------------------------------------------------------------- print


def print_costs(folders: list[Path]) -> None:
    """Print the costs of ``folders`` (results/SCENE/METHOD), a table each, with sums a phase.

    ScrflowError where there is no such folder, or no job of it is known.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for folder in folders:
        if not Path(folder).is_dir():
            raise ScrflowError(f"{folder}: no such folder; give results/SCENE/METHOD of a finished run")
        costs = costs_of(folder)
        if not costs.stages:
            raise ScrflowError(f"{folder}: no costs ({costs.unknown[0]}); give results/SCENE/METHOD of a finished run")
        table = Table(title=f"{folder}", title_justify="left", box=SIMPLE_HEAD, title_style="bold", pad_edge=False)
        table.add_column("stage")
        for header in ("wall s", "CPU s", "MB", "GPU MB"):
            table.add_column(header, justify="right")
        own = {stage.scene for stage in costs.stages} == {Path(folder).absolute().parent.name}
        for phase, title in PHASES.items():
            members = [stage for stage in costs.stages if stage.phase == phase]
            for stage in members:
                where = "" if own else f"{stage.scene}: "
                cached = ", from the cache" if stage.cached else ""
                table.add_row(f"{where}{stage.rule} {stage.wildcards}".rstrip() + cached, *_cells(stage))
            if members:
                table.add_row(f"{title}, sum", *_cells(_sum(members)), style="bold", end_section=True)
        console.print(table)
        seconds = costs.seconds("scene", "mapping")
        if seconds is not None:
            console.print(f"mapping time: {seconds:.1f} s ({seconds / 60:.1f} min), from the photos to the map\n")
        for line in costs.unknown:
            console.print(f"not known: {line}", soft_wrap=True, markup=False)


def _cells(cost: StageCost) -> list[str]:
    bound = "≥ " if cost.cpu_is_bound and cost.cpu_s is not None else ""
    numbers = (f"{cost.wall_s:.1f}", _cell(cost.cpu_s, 1, bound), _cell(cost.max_rss_mb, 0), _cell(cost.gpu_mb, 0))
    return list(numbers)


def _cell(value: float | None, digits: int, prefix: str = "") -> str:
    return "-" if value is None else f"{prefix}{value:.{digits}f}"


def _sum(stages: list[StageCost]) -> StageCost:
    """Seconds added up, the largest memory. CPU time is not known where that of one job is not."""
    first = stages[0]
    cpu = [s.cpu_s for s in stages]
    rss = max((s.max_rss_mb for s in stages if s.max_rss_mb is not None), default=None)
    gpu = max((s.gpu_mb for s in stages if s.gpu_mb is not None), default=None)
    total = None if None in cpu else sum(cpu)
    bound = any(s.cpu_is_bound for s in stages)
    return StageCost("", first.scene, "", first.phase, sum(s.wall_s for s in stages), total, rss, gpu, bound)
