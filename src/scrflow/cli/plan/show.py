"""The plan as a table: stages, totals, how far each rate may be believed, and what does not fit."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from scrflow.cli.plan.calibrate import Compared
from scrflow.cli.plan.limits import Limits, Problem
from scrflow.cli.plan.rates import Evidence, Rates
from scrflow.cli.plan.schedule import elapsed_s
from scrflow.cli.plan.stages import Stage
from scrflow.cli.plan.workload import Workload

BEYOND = 1.5  # times the measured range, from which on a rate counts as extrapolated
_SMALL = 0.15  # share of a cost under which its rate is not spoken of
_RANK = {"measured": 0, "derived": 1, "paper": 2, "assumed": 3}


def show_plan(
    console: Console, title: str, stages: Sequence[Stage], work: Workload, limits: Limits, cores: int, rates: Rates
) -> None:
    """Print the table and the totals."""
    console.print(f"{title}: {work.images:,} mapping images, {work.queries:,} queries, {work.size[0]}x{work.size[1]}, "
                  f"{work.degree:.1f} neighbours an image ({work.told_by})", soft_wrap=True)  # fmt: skip
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage")
    for header in ("jobs", "threads", "wall a job", "CPU", "GPU", "MB a job", "disk"):
        table.add_column(header, justify="right")
    table.add_column("rates")
    threads = {stage.name: limits.of(stage.rule).threads for stage in stages}
    for stage in stages:
        count = min(cores, threads[stage.name]) if limits.profile is None else threads[stage.name]
        gpu = "" if stage.gpu_s is None else duration(stage.gpu_s.value)
        cpu = "" if stage.gpu_s is not None else duration(stage.jobs * stage.cpu_s.value)
        table.add_row(
            stage.name, f"{stage.jobs:,}", str(count), duration(stage.wall_s(count)), cpu, gpu,
            f"{stage.mem_mb.value:,.0f}", megabytes(stage.disk_mb), belief(stage),
        )  # fmt: skip
    console.print(table)
    console.print(totals(stages, threads, limits, cores), soft_wrap=True)
    if rates.factors:
        console.print("rates are those of rates.yaml times the factors of your own results")


def totals(stages: Sequence[Stage], threads: dict[str, int], limits: Limits, cores: int) -> str:
    """Jobs, time, memory and disk of all."""
    jobs = sum(stage.jobs for stage in stages)
    cpu = sum(stage.jobs * stage.cpu_s.value for stage in stages if stage.gpu_s is None)
    gpu = sum(stage.gpu_s.value for stage in stages if stage.gpu_s is not None)
    slots = cores
    if limits.profile is not None:
        slots = min(sum(s.jobs for s in stages), limits.jobs or 10**6) * max(threads.values())
    elapsed = elapsed_s(stages, threads, slots)
    where = f"on {cores} cores" if limits.profile is None else "if the cluster starts every job at once"
    largest = max(stages, key=lambda stage: stage.mem_mb.value)
    parts = [f"total: {jobs:,} jobs, {duration(elapsed)} {where}, {duration(cpu)} of CPU"]
    parts += [f"{duration(gpu)} of GPU (not measured here)"] if gpu else []
    parts += [f"at most {megabytes(largest.mem_mb.value)} a job ({largest.name})"]
    parts += [f"{megabytes(sum(stage.disk_mb for stage in stages))} written"]
    return ", ".join(parts)


def belief(stage: Stage) -> str:
    """How the rates that matter were come by: measured, or how far beyond what was measured."""
    amounts = [stage.gpu_s if stage.gpu_s is not None else stage.cpu_s, stage.mem_mb]
    worst = max(_RANK[e.rate.how] for amount in amounts for e in _that_matter(amount.evidence))
    word = next(how for how, rank in _RANK.items() if rank == worst)
    far = max(e.beyond for amount in amounts for e in _that_matter(amount.evidence))
    text = {"paper": "of a paper, not measured here", "derived": "partly by the code alone"}.get(word, word)
    return (
        text
        if far <= BEYOND
        else f"{text}, extrapolated x {far:,.0f}"
        if far >= 10
        else f"{text}, extrapolated x {far:.1f}"
    )


def _that_matter(evidence: tuple[Evidence, ...]) -> list[Evidence]:
    total = sum(e.share for e in evidence)
    return [e for e in evidence if e.share >= _SMALL * total] or list(evidence)


def show_rates(console: Console, stages: Sequence[Stage], rates: Rates) -> None:
    """Every rate that the plan was made with: value, range, how it was come by, source."""
    used: dict[str, Evidence] = {}
    for stage in stages:
        for amount in (stage.cpu_s, stage.mem_mb, stage.gpu_s):
            for e in amount.evidence if amount is not None else ():
                if e.key not in used or e.beyond > used[e.key].beyond:
                    used[e.key] = e
    console.print(f"\nrates (machine: {rates.file.machine})", soft_wrap=True)
    for key in sorted(used):
        e, rate = used[key], used[key].rate
        fixed = f"{rate.fixed:g} + " if rate.fixed else ""
        power = "" if rate.exponent == 1 else f" ^ {rate.exponent:g}"
        span = "" if rate.range is None else f", {rate.range[0]:g} to {rate.range[1]:g}"
        far = f" (here {e.driver:,.4g})" if e.beyond > BEYOND else ""
        console.print(f"  {key} = {fixed}{rate.value:g} x {rate.per}{power}: {rate.how}{span}{far}; {rate.source}",
                      soft_wrap=True, markup=False)  # fmt: skip


def show_problems(console: Console, problems: Sequence[Problem], limits: Limits) -> None:
    """What does not fit, and the mend; or that all does."""
    for text in limits.unread:
        console.print(f"not checked: {limits.profile}: {text}, which only Snakemake can work out", soft_wrap=True)
    if not problems:
        against = limits.profile or "the rules' memory and time, this machine's memory and disk"
        console.print(f"everything fits ({against})", soft_wrap=True)
    for problem in problems:
        console.print(f"does not fit: {problem}", style="bold", soft_wrap=True, markup=False)


def show_compared(console: Console, compared: Sequence[Compared]) -> None:
    """Predicted and measured, of finished results."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage")
    for header in ("CPU s, predicted", "measured", "ratio", "MB, predicted", "measured ", "ratio "):
        table.add_column(header, justify="right")
    for one in compared:
        table.add_row(
            one.stage, f"{one.cpu_s[0]:.1f}", f"{one.cpu_s[1]:.1f}", f"{one.cpu_ratio:.2f}", f"{one.mem_mb[0]:.0f}",
            f"{one.mem_mb[1]:.0f}", f"{one.mem_ratio:.2f}",
        )  # fmt: skip
    console.print(table)


def duration(seconds: float) -> str:
    """In the unit that has one to three digits."""
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (10 * 86400, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:,.0f} days"


def megabytes(value: float) -> str:
    for size, unit in ((1e6, "TB"), (1e3, "GB")):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.1f} MB"
