"""What jobs are allowed: the rules' own resources, a profile's, this machine's; and what does not fit.

Rules say ``mem_mb``, ``runtime`` (minutes), ``gpu`` and ``threads`` for the first attempt of a job; a profile's
``set-resources``, ``set-threads`` and ``default-resources`` go before them. A value that only Snakemake can work out
(an expression of the input, say) is no limit here, and is told.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from scrflow.cli.plan.stages import Stage
from scrflow.config import MethodConfig
from scrflow.core.errors import ScrflowError
from scrflow.pipeline.project import Project

_RULE = re.compile(r"^(?:rule (\w+):|use rule (\w+) as (\w+) with:)", re.M)
_VALUE = r"(?:\w+\()*(\d+|training_memory|training_gpus)\)*"
# 1500 + buffer_memory, as rules/resources.smk has it
_TRAINING_MB = 1500
# predictions are no better than this: docs/scaling.md
SLACK = 1.1


@dataclass(frozen=True)
class Limit:
    """Of a job of a rule. None: nobody says."""

    mem_mb: float | None
    runtime_min: float | None
    gpus: int
    threads: int
    said_by: str = "the rule"


@dataclass(frozen=True)
class Limits:
    """Of every rule; and of the machine that runs them, where it is this one."""

    rules: dict[str, Limit]
    unread: tuple[str, ...] = ()  # values that only Snakemake can work out
    retries: int = 0
    jobs: int | None = None  # of a profile: at once
    profile: str | None = None

    def of(self, rule: str) -> Limit:
        return self.rules.get(rule, Limit(None, None, 0, 1))


@dataclass(frozen=True)
class Problem:
    """What does not fit, and the mend."""

    stage: str
    what: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.what}"


# ------------------------------------------------------------------------------------------------------------- reading


def read_limits(rules: Path, method: MethodConfig, profile: Path | None, local_cores: int) -> Limits:
    """The rules' limits under a profile. ScrflowError for a profile that is not there or is not one."""
    found = _rules(rules, method, local_cores if profile is None else None)
    if profile is None:
        return Limits(found)
    path = profile / "config.yaml" if profile.is_dir() else profile
    candidates = [path] if path.is_file() else sorted(profile.glob("config.v*.yaml"))
    if not candidates:
        raise ScrflowError(f"{profile}: no profile of Snakemake (config.yaml); give its folder, e.g. profiles/slurm")
    try:
        values = yaml.safe_load(candidates[-1].read_text("utf-8")) or {}
    except yaml.YAMLError as error:
        raise ScrflowError(f"{candidates[-1]}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ScrflowError(f"{candidates[-1]}: expected keys and values; is it a profile of Snakemake?")
    unread: list[str] = []
    resources, threads = _pairs(values.get("set-resources")), _pairs(values.get("set-threads"))
    default = _pairs(values.get("default-resources"))
    for rule, limit in found.items():
        unsaid = {"mem_mb": limit.mem_mb, "runtime": limit.runtime_min}
        own = {key: default[key] for key, value in unsaid.items() if value is None and key in default}
        own |= resources.get(rule) or {}
        number = {
            key: _number(own[key], f"{rule}: {key}", unread) for key in ("mem_mb", "runtime", "gpu") if key in own
        }
        if "mem" in own:
            number["mem_mb"] = _number(own["mem"], f"{rule}: mem", unread, megabytes=True)
        changed = replace(
            limit,
            mem_mb=number.get("mem_mb", limit.mem_mb),
            runtime_min=number.get("runtime", limit.runtime_min),
            gpus=int(number.get("gpu", limit.gpus) or 0),
            threads=int(_number(threads[rule], f"{rule}: threads", unread) or 1) if rule in threads else limit.threads,
        )
        found[rule] = replace(changed, said_by=str(profile)) if changed != limit else limit
    retries = _number(values.get("retries", values.get("restart-times", 0)), "retries", unread)
    jobs = _number(values["jobs"], "jobs", unread) if "jobs" in values else None
    return Limits(found, tuple(unread), int(retries or 0), None if jobs is None else int(jobs), str(profile))


def _rules(folder: Path, method: MethodConfig, cores: int | None) -> dict[str, Limit]:
    """From the text of rules/*.smk; ``use rule`` takes over what it does not say."""
    named = {
        "training_memory": _TRAINING_MB + round(method.training.buffer_memory / 1e6),
        "training_gpus": method.training.gpus,
    }
    files = sorted(folder.glob("*.smk"))
    if not files:
        raise ScrflowError(f"{folder}: no rules (*.smk); run this in the project's folder")
    found: dict[str, Limit] = {}
    for path in files:
        text = path.read_text("utf-8")
        marks = list(_RULE.finditer(text))
        for i, mark in enumerate(marks):
            body = text[mark.end() : marks[i + 1].start() if i + 1 < len(marks) else len(text)]
            base = found.get(mark[2]) if mark[2] else None
            start = base or Limit(None, None, 0, 1)
            values = {}
            for key in ("mem_mb", "runtime", "gpu"):
                match = re.search(rf"^ +{key}={_VALUE},", body, re.M)
                values[key] = None if match is None else float(named.get(match[1], 0) or match[1])
            threads = re.search(r"^ +threads: (?:beside_others\()?(\d+)", body, re.M)
            wanted = int(threads[1]) if threads else start.threads
            if cores is not None and threads and "beside_others" in threads[0]:
                wanted = min(wanted, max(1, cores // 2))
            found[mark[1] or mark[3]] = Limit(
                start.mem_mb if values["mem_mb"] is None else values["mem_mb"],
                start.runtime_min if values["runtime"] is None else values["runtime"],
                start.gpus if values["gpu"] is None else int(values["gpu"]),
                wanted,
            )
    return found


def _pairs(value: Any) -> dict[str, Any]:
    """Keys and values, in either of the forms of Snakemake: a mapping, or a list of ``rule:key=value``."""
    if isinstance(value, dict):
        return value
    out: dict[str, Any] = {}
    for item in value or ():
        rule, _, rest = str(item).partition(":")
        key, _, text = (rest or rule).partition("=")
        if rest:
            out.setdefault(rule, {})[key] = text
        else:
            out[key] = text
    return out


def _number(value: Any, what: str, unread: list[str], megabytes: bool = False) -> float | None:
    """A number, or text of one with a unit of memory or time; None, told, for what only Snakemake can work out."""
    text = str(value).strip().strip("'\"")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMGT]i?B|min|h|d)?", text)
    if match is None:
        unread.append(f"{what}={text}")
        return None
    factors = {None: 1, "min": 1, "h": 60, "d": 1440, "KB": 1e-3, "kB": 1e-3, "MB": 1, "GB": 1e3, "TB": 1e6}
    factors |= {"KiB": 1 / 976.6, "MiB": 1.0486, "GiB": 1073.7, "TiB": 1.0995e6}
    return float(match[1]) * factors[match[2]]


# ------------------------------------------------------------------------------------------------------------ checking


def check(stages: Sequence[Stage], limits: Limits, project: Project, results: Path, cores: int) -> list[Problem]:
    """Whatever does not fit: jobs into their limits, and, without a profile, into this machine."""
    problems = []
    for stage in stages:
        limit = limits.of(stage.rule)
        problems += _memory(stage, limit, limits, project)
        problems += _runtime(stage, limit, limits, project)
    needed_mb = sum(stage.disk_mb + stage.scratch_mb for stage in stages)
    problems += _disk(needed_mb, results)
    if limits.profile is None:
        problems += _machine(stages, limits, cores)
    return problems


def _memory(stage: Stage, limit: Limit, limits: Limits, project: Project) -> list[Problem]:
    if limit.mem_mb is None or stage.mem_mb.value <= SLACK * limit.mem_mb:
        return []
    mend = _less_memory(stage, limit.mem_mb, project)
    ask = f"--set-resources {stage.rule}:mem_mb={_rounded(1.2 * stage.mem_mb.value)}"
    again = limit.mem_mb * 2**limits.retries
    tried = f"; attempt {math.ceil(math.log2(stage.mem_mb.value / limit.mem_mb)) + 1} would have it" if (
        limits.retries and stage.mem_mb.value <= again and limit.said_by == "the rule"
    ) else ""  # fmt: skip
    return [
        Problem(
            stage.name,
            f"needs {_mb(stage.mem_mb.value)} a job, {limit.said_by} allows {_mb(limit.mem_mb)}{tried}; {mend}{ask}",
        )
    ]


def _less_memory(stage: Stage, allowed_mb: float, project: Project) -> str:
    """What would make the job smaller, and ``or``."""
    if stage.rule == "fill_buffer":
        samples = next(e.grows for e in stage.mem_mb.evidence if e.key == "fill_buffer.mem_mb")
        fixed = stage.mem_mb.value - samples
        if allowed_mb > 1.1 * fixed:
            wanted = math.ceil(project.config.buffer_shards * samples / (allowed_mb - fixed))
            return f"set buffer_shards: {wanted} (config.yaml), or "
        return "cut the map into regions, or "
    if stage.rule == "train_head":
        held = next(e for e in stage.mem_mb.evidence if e.key == "train.mem_mb")
        room = held.driver * max(0.0, 1 - (stage.mem_mb.value - allowed_mb) / held.grows)  # 1e6 bytes
        mib = int(room * 1e6 / 2**20)
        return f"set training.buffer_memory: {mib} MiB, or " if mib > 100 else "cut the map into regions, or "
    if stage.rule == "triangulate_samples":
        return "take an encoder with fewer samples (buffer.max_samples), cut the map into regions, or "
    if stage.rule == "fit_pca":
        return "set pca.samples of the encoder lower, or "
    if stage.rule in ("embed_graph", "build_retrieval", "localize_queries", "write_map", "build_graph"):
        return "cut the map into regions (reader region, docs/scaling.md), or "
    return ""


def _runtime(stage: Stage, limit: Limit, limits: Limits, project: Project) -> list[Problem]:
    if limit.runtime_min is None:
        return []
    minutes = stage.wall_s(limit.threads) / 60
    # training goes on from its checkpoint in the next attempt
    allowed = limit.runtime_min * (1 + limits.retries if stage.rule == "train_head" else 1)
    if minutes <= SLACK * allowed:
        return []
    attempts = f" in {limits.retries + 1} attempts" if allowed > limit.runtime_min else ""
    mend = ""
    if stage.rule == "fill_buffer":
        mend = (
            f"set buffer_shards: {math.ceil(1.2 * project.config.buffer_shards * minutes / allowed)} (config.yaml), or "
        )
    elif stage.rule == "train_head" and not stage.gpus:
        mend = "train on a GPU (--gpu), take a smaller method (rscore-cpu), or "
    elif stage.rule == "train_head":
        mend = f"set training.gpus: {math.ceil(stage.gpus * minutes / allowed)}, or "
    elif stage.rule in ("build_retrieval", "triangulate_samples", "build_graph", "embed_graph", "reconstruct_scene"):
        mend = "cut the map into regions (reader region, docs/scaling.md), or "
    elif stage.rule == "localize_queries":
        mend = "list fewer queries a scene, or "
    ask = f"--set-resources {stage.rule}:runtime={_rounded(1.2 * minutes)}"
    told = f"takes {_time(60 * minutes)} a job, {limit.said_by} allows {_time(60 * allowed)}{attempts}; {mend}{ask}"
    return [Problem(stage.name, told)]


def _disk(needed_mb: float, results: Path) -> list[Problem]:
    here = results
    while not here.exists():
        here = here.absolute().parent
    free_mb = shutil.disk_usage(here).free / 1e6
    if needed_mb <= free_mb:
        return []
    mend = "set buffer.max_samples of the encoder, cut the map into regions, or put results/ on a larger disk"
    return [Problem("disk", f"{_mb(needed_mb)} are written, {_mb(free_mb)} are free in {results}; {mend}")]


def _machine(stages: Sequence[Stage], limits: Limits, cores: int) -> list[Problem]:
    """Memory of this machine: for one job, and for as many as run beside each other."""
    import psutil  # Snakemake brings it

    here_mb = psutil.virtual_memory().available / 2**20
    out = []
    for stage in stages:
        beside = max(1, min(stage.jobs, cores // max(1, min(cores, limits.of(stage.rule).threads))))
        needed = stage.mem_mb.value * beside
        if needed > here_mb:
            several = f" for {beside} jobs beside each other" if beside > 1 else ""
            fewer = f"run with --resources mem_mb={_rounded(here_mb)}, " if stage.mem_mb.value <= here_mb else ""
            told = f"needs {_mb(needed)}{several}, this machine has {_mb(here_mb)} free; {fewer}"
            out.append(Problem(stage.name, told + "cut the map into regions, or take a larger machine"))
    return out


def default_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _rounded(value: float) -> int:
    """Up, to two digits."""
    step = 10 ** max(0, math.floor(math.log10(max(value, 1))) - 1)
    return math.ceil(value / step) * step


def _mb(value: float) -> str:
    return f"{value / 1e6:.1f} TB" if value >= 1e6 else f"{value / 1e3:.1f} GB" if value >= 1e4 else f"{value:.0f} MB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h" if seconds < 3 * 86400 else (
        f"{seconds / 86400:.0f} days"
    )  # fmt: skip
