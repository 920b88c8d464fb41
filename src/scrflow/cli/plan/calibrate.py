"""Rates brought to one's own machine: what finished results cost, over what was predicted for them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scrflow.cli.plan.rates import Rates
from scrflow.cli.plan.stages import Stage, stages_of
from scrflow.cli.plan.workload import workload_of
from scrflow.core.errors import ScrflowError
from scrflow.pipeline.project import Project
from scrflow.report.costs import StageCost, costs_of

# a job of less is mostly imports, and tells nothing of a rate
LEAST_CPU_S = 3.0


@dataclass(frozen=True)
class Compared:
    """A stage predicted and measured: CPU seconds of all its jobs, memory of the largest."""

    stage: str
    rule: str
    cpu_s: tuple[float, float]  # predicted, measured
    mem_mb: tuple[float, float]

    @property
    def cpu_ratio(self) -> float:
        """Predicted over measured."""
        return self.cpu_s[0] / max(self.cpu_s[1], 1e-9)

    @property
    def mem_ratio(self) -> float:
        """Predicted over measured."""
        return self.mem_mb[0] / max(self.mem_mb[1], 1e-9)


def calibrated(project: Project, folders: Iterable[Path], rates: Rates) -> tuple[Rates, tuple[Compared, ...]]:
    """Rates times what the finished results in ``folders`` (results/SCENE/METHOD) say, and the comparison.

    ScrflowError for a folder that is no finished result of this project's config.
    """
    compared: list[Compared] = []
    for folder in folders:
        scene, method = folder.absolute().parent.name, folder.name
        if scene not in project.scenes or not folder.is_dir():
            raise ScrflowError(
                f"{folder}: not results/SCENE/METHOD of a scene of {project.dir}/scenes that was finished"
            )
        work = workload_of(project, scene, folder.absolute().parents[1])
        stages = stages_of(project, method, work, rates, graph=project.scene(scene).graph)
        costs = costs_of(folder).stages
        if not costs:
            raise ScrflowError(f"{folder}: no costs are known; give a finished run, with its logs and benchmarks")
        compared += compare(stages, costs)
    return with_factors(rates, compared), tuple(compared)


def compare(stages: Sequence[Stage], costs: Iterable[StageCost]) -> list[Compared]:
    """The stages that both know, in their order."""
    measured: dict[str, list[StageCost]] = {}
    for cost in costs:
        label = cost.wildcards.rpartition("-")[0] if cost.rule == "fill_buffer" else cost.wildcards
        name = f"{cost.rule} {label}".rstrip()
        measured.setdefault(name, []).append(cost)
    out = []
    for stage in stages:
        jobs = [cost for cost in measured.get(stage.name, ()) if cost.cpu_s is not None and cost.max_rss_mb is not None]
        if jobs:
            cpu = (stage.jobs * stage.cpu_s.value, sum(job.cpu_s for job in jobs))
            memory = (stage.mem_mb.value, max(job.max_rss_mb for job in jobs))
            out.append(Compared(stage.name, stage.rule, cpu, memory))
    return out


def with_factors(rates: Rates, compared: Iterable[Compared]) -> Rates:
    """Rates with a factor a rule: the geometric mean over results of measured over predicted."""
    by_rule: dict[str, list[Compared]] = {}
    for one in compared:
        by_rule.setdefault(one.rule, []).append(one)
    factors = {}
    for rule, found in by_rule.items():
        long = [one for one in found if one.cpu_s[1] >= LEAST_CPU_S]
        cpu = math.exp(-sum(math.log(one.cpu_ratio) for one in long) / len(long)) if long else 1.0
        factors[rule] = (cpu, math.exp(-sum(math.log(one.mem_ratio) for one in found) / len(found)))
    return replace(rates, factors=factors)
