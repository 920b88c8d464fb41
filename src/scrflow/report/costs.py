"""What a map cost: time and memory of every job that it needed, and of localizing the queries with it.

The stamps say which jobs those are (scrflow.pipeline.provenance). Wall-clock time is from Snakemake's benchmark files;
CPU time and memory are what the job wrote at the end of its log, or else the benchmark's samples.
"""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scrflow.core.errors import ScrflowError
from scrflow.pipeline.provenance import MAPS, RAN, Artifact, last_of_history, results_in, upstream

Phase = Literal["scene", "mapping", "localization"]
# scene: reading a dataset, or structure from motion
PHASES: dict[Phase, str] = {"scene": "posed images", "mapping": "map", "localization": "localization"}
HEAD, HISTORY = "head.safetensors", "train.jsonl"
_USAGE = re.compile(r"CPU time ([\d.]+) s, at most (\d+) MB(?:, GPU at most (\d+) MB)?")


@dataclass(frozen=True)
class StageCost:
    """Of one job. Memory is in MB (10^6 bytes on a GPU; elsewhere 2^20, as Snakemake has it)."""

    rule: str
    scene: str  # of a combined scene: also its parts
    wildcards: str  # as in the names of logs and benchmarks; empty for a rule with one job a scene
    phase: Phase
    wall_s: float
    cpu_s: float | None  # of all threads and child processes; None if the job ended before it was sampled
    max_rss_mb: float | None
    gpu_mb: float | None  # most that torch allocated at once; None without a GPU
    cpu_is_bound: bool = False  # Snakemake sampled it: cpu_s is a lower bound
    cached: bool = False  # from the cache between workflows: the cost of the job that filled it


@dataclass(frozen=True)
class Costs:
    """Jobs in an order in which they can run. If ``unknown`` names any, the sums are incomplete."""

    stages: tuple[StageCost, ...]
    unknown: tuple[str, ...]

    def seconds(self, *phases: Phase) -> float | None:
        """Wall-clock time of the jobs of these phases; None if any job is unknown."""
        return None if self.unknown or not self.stages else sum(s.wall_s for s in self.stages if s.phase in phases)


def costs_of(folder: Path) -> Costs:
    """Costs of results/SCENE/METHOD; empty without a map. ScrflowError for a damaged map, benchmark file or log."""
    folder = Path(folder).absolute()
    roots = results_in(folder)
    if not roots or roots[0].name not in MAPS:
        return Costs((), (f"{folder}: no map",))
    results, found = folder.parents[1], upstream(roots)
    scenes = [path for path, a in found.items() if a.stamp is not None and a.stamp.kind == "scene"]
    of_scene, of_map = _before(found, scenes), _before(found, [roots[0].relative_to(results).as_posix()])
    stages: dict[tuple[str, str, str], StageCost] = {}
    unknown = [f"{path}: its input {key} is gone, or was made again" for path, a in found.items() for key in a.lost]
    for path, artifact in found.items():
        if artifact.job is None:
            unknown.append(f"{path}: no rule of the workflow makes it")
            continue
        rule, wildcards = artifact.job
        name = "-".join(wildcards.values())
        if (rule, artifact.scene, name) in stages:
            continue
        benchmark = results / artifact.scene / "benchmarks" / (f"{rule}/{name}.tsv" if name else f"{rule}.tsv")
        if not benchmark.exists():
            unknown.append(f"{benchmark.relative_to(results)}: no such benchmark file")
            continue
        phase: Phase = "scene" if path in of_scene else "mapping" if path in of_map else "localization"
        cost = StageCost(rule, artifact.scene, name, phase, **usage(benchmark))
        history = (results / path).with_name(HISTORY)
        if path.endswith(f"/{HEAD}") and history.exists():
            # after a resume the benchmark covers the last run only; several processes' memory is in no log
            last = last_of_history(history)
            gpu = _largest([cost.gpu_mb, (last[RAN] or {}).get("gpu_mb")])
            cost = replace(cost, wall_s=max(cost.wall_s, last["seconds"]), gpu_mb=gpu)
        stages[rule, artifact.scene, name] = cost
    return Costs(tuple(stages.values()), tuple(dict.fromkeys(unknown)))


def mapping_seconds(folder: Path) -> float | None:
    """Wall-clock seconds from the photos to the map in ``folder``: GLACE's mapping time (Table 7, Supplementary B).

    The sum of every job upstream of the map, down to the scene, with SfM if it made the poses, but not a download;
    what several methods share counts for each. None if the cost of any job is unknown.
    """
    return costs_of(folder).seconds("scene", "mapping")


def _before(found: dict[str, Artifact], paths: Iterable[str]) -> set[str]:
    """``paths`` and everything upstream of them."""
    seen = set(paths)
    for path in reversed(found):  # inputs stand before what was made of them
        if path in seen:
            seen.update(found[path].inputs.values())
    return seen


def usage(benchmark: Path) -> dict[str, Any]:
    """What a job's benchmark file and the end of its log say: the fields of StageCost from ``wall_s`` on."""
    try:
        with open(benchmark, encoding="utf-8", newline="") as f:
            row, *_ = csv.DictReader(f, delimiter="\t")
        wall_s, *numbers = (_number(row.get(key)) for key in ("s", "cpu_time", "max_rss", "gpu_mb"))
        if wall_s is None:
            raise ValueError
    except (TypeError, ValueError):
        raise ScrflowError(f"{benchmark}: no benchmark file of Snakemake (column s, in seconds); delete it") from None
    sampled = "gpu_mb" not in row  # scrflow.pipeline.job.Usage has this column, Snakemake does not
    log = Path(str(benchmark).replace("/benchmarks/", "/logs/")).with_suffix(".log")
    logged = _USAGE.findall(log.read_text(encoding="utf-8", errors="replace")) if log.exists() else []
    if logged:
        numbers, sampled = [_number(text) for text in logged[-1]], False
    found = dict(zip(("cpu_s", "max_rss_mb", "gpu_mb"), numbers, strict=True))
    # Snakemake empties the log before it looks into the cache, and puts links there
    return {"wall_s": wall_s, **found, "cpu_is_bound": sampled, "cached": not logged and benchmark.is_symlink()}


def _number(text: str | None) -> float | None:
    return None if text in (None, "", "NA", "-") else float(text)


def _largest(values: list[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def print_costs(folders: list[Path]) -> None:
    """Print the costs of ``folders`` (results/SCENE/METHOD); ScrflowError if one is missing, or no job is known."""
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
        table = Table(
            "stage", title=f"{folder}", title_justify="left", box=SIMPLE_HEAD, title_style="bold", pad_edge=False
        )
        for header in ("wall s", "CPU s", "MB", "GPU MB"):
            table.add_column(header, justify="right")
        own = {stage.scene for stage in costs.stages} == {Path(folder).absolute().parent.name}
        for phase, title in PHASES.items():
            members = [stage for stage in costs.stages if stage.phase == phase]
            for stage in members:
                where = "" if own else f"{stage.scene}: "
                cached = ", from the cache" if stage.cached else ""
                table.add_row(f"{where}{stage.rule} {stage.wildcards}".rstrip() + cached, *_cells([stage]))
            if members:
                table.add_row(f"{title}, sum", *_cells(members), style="bold", end_section=True)
        console.print(table)
        seconds = costs.seconds("scene", "mapping")
        if seconds is not None:
            console.print(f"mapping time: {seconds:.1f} s ({seconds / 60:.1f} min), from the photos to the map\n")
        for line in costs.unknown:
            console.print(f"not known: {line}", soft_wrap=True, markup=False)


def _cells(stages: list[StageCost]) -> list[Any]:
    """Sums of the seconds and the largest memory. The CPU time is unknown if that of one job is."""
    cpu = [s.cpu_s for s in stages]
    bound = "≥ " if any(s.cpu_is_bound for s in stages) else ""
    memory = [_largest([getattr(s, key) for s in stages]) for key in ("max_rss_mb", "gpu_mb")]
    shown = ["-" if value is None else f"{value:.0f}" for value in memory]
    return [f"{sum(s.wall_s for s in stages):.1f}", "-" if None in cpu else f"{bound}{sum(cpu):.1f}", *shown]
