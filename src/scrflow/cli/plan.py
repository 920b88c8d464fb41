"""``scrflow plan``: what a scene will cost, and what does not fit, before anything starts.

The jobs with their threads and limits are those of the rules, from a dry run of Snakemake. What a job costs is the sum
of terms in plan.yaml, which were measured, times a factor: what the same job cost in finished results of this project,
by their logs and benchmark files, over what the terms say of that scene.
"""

import contextlib
import functools
import heapq
import importlib.resources
import io
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from scrflow.cli.run import default_cores, targets_of
from scrflow.config import EncoderConfig, HeadConfig, MethodConfig
from scrflow.core.errors import ScrflowError
from scrflow.pipeline.configs import snakefile
from scrflow.pipeline.project import Project
from scrflow.report.costs import usage
from scrflow.storage.artifact import read_json
from scrflow.storage.listfile import read_lines

RESULTS = Path("results")
COSTS = ("cpu_s", "mem_mb", "disk_mb")
_LEAST_CPU_S = 3.0  # a shorter job is mostly imports, and says little of a factor
COUNTED_NODES = 8192  # up to so many images Node2Vec counts all pairs (scrflow.graph.node2vec)
_SLACK = 1.1  # predictions are no better than this
_VLAD_WORD = 64  # numbers of a local descriptor that a VLAD aggregates
_NETWORK_DIM = {"netvlad": 4096, "r2former": 256}  # before whitening; 1280 of efficientnet-lite0
_NEIGHBOURS = 12  # pairs an image that triangulate_samples matches: 24 of its neighbours, each pair once
_POSITION_BYTES = 6  # of a landmark, beside its code
_HALVED = 0.235  # with halving, a further hypothesis sends this share of the keypoints through the head
_WIDTH = 112


@dataclass(frozen=True)
class Job:
    """A job of Snakemake's dry run."""

    rule: str
    wildcards: Mapping[str, str]
    threads: int
    limit_mb: float
    limit_min: float
    benchmark: str | None
    outputs: tuple[Path, ...]
    after: tuple[int, ...]  # positions of the jobs that it waits for
    costs: Mapping[str, float | None]  # of COSTS; None: not known
    source: str = ""

    @property
    def stage(self) -> str:
        """Rule and wildcards; jobs of one stage differ in the shard alone."""
        return " ".join([self.rule, *(v for k, v in self.wildcards.items() if k not in ("scene", "shard"))])

    def wall_s(self) -> float:
        """With its threads (Amdahl's law)."""
        share = laws()["parallel"].get(self.rule, 0.0)
        return (self.costs["cpu_s"] or 0.0) * (1 - share + share / self.threads)


@functools.cache
def laws() -> dict:
    """What plan.yaml says."""
    return yaml.safe_load(importlib.resources.files("scrflow.cli").joinpath("plan.yaml").read_text("utf-8"))


def print_plan(scene: str, method: str | None, images: int | None, queries: int | None, cores: int | None) -> bool:
    """Print stages, totals and what does not fit; whether all fits.

    ``images`` and ``queries``: as if the scene had so many. ScrflowError for an unknown scene or method, for a scene
    whose photos are missing, and where its size is not known.
    """
    folder, targets = targets_of(scene, method)
    project, cores = Project("config"), cores or default_cores()
    size = _size(project, scene, images, queries)
    jobs = [costed(job, project, folder.name, size) for job in dry_run(targets, cores)]
    console = Console(highlight=False)
    console.width = max(console.width, _WIDTH)  # a line that the terminal wraps can be read, a cut column cannot
    console.print(f"{scene}, {folder.name}: {size[0]:,} mapping images, {size[1]:,} queries", soft_wrap=True)
    console.print(_table(jobs))
    known = [job for job in jobs if job.costs["cpu_s"] is not None]
    disk_mb = sum(job.costs["disk_mb"] for job in known)
    total = sum(job.costs["cpu_s"] for job in known)
    console.print(
        f"total: {len(jobs)} jobs, {_time(elapsed_s(jobs, cores))} on {cores} cores ({_time(total)} of CPU), "
        f"up to {_mb(max(job.costs['mem_mb'] for job in known))} of memory a job, {_mb(disk_mb)} on disk",
        soft_wrap=True,
    )
    free = psutil.virtual_memory().available / 2**20, shutil.disk_usage(".").free / 1e6
    found = problems(known, cores, *free)
    for line in found or ["everything fits: the rules' memory and time, this machine's memory and disk"]:
        console.print(f"does not fit: {line}" if found else line, soft_wrap=True, markup=False)
    return not found


# ---------------------------------------------------------------------------------------------------------------- jobs


def dry_run(targets: Sequence[str], cores: int) -> list[Job]:
    """All jobs that the targets need, as if nothing was made yet, in an order in which they can run."""
    from snakemake.api import SnakemakeApi
    from snakemake.exceptions import ApiError, RuleException, WorkflowError
    from snakemake.settings.types import DAGSettings, OutputSettings, ResourceSettings

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said), SnakemakeApi(
            OutputSettings(dryrun=True)
        ) as api:  # fmt: skip
            workflow = api.workflow(resource_settings=ResourceSettings(cores=cores), snakefile=snakefile())
            dag_api = workflow.dag(DAGSettings(targets=set(targets), forceall=True))
            dag_api.execute_workflow(executor="dryrun")
            dag = workflow._workflow.dag  # Snakemake's API does not give the jobs
            jobs = [job for level in dag.toposorted() for job in level]
            number = {job: i for i, job in enumerate(jobs)}
            return [
                Job(
                    rule=job.rule.name,
                    wildcards=dict(job.wildcards_dict),
                    threads=job.threads,
                    limit_mb=job.resources.get("mem_mb", math.inf),
                    limit_min=job.resources.get("runtime", math.inf),
                    # a job whose results can come out of a cache writes its benchmark file itself, as an output
                    benchmark=job.benchmark or next((o for o in job.output if "/benchmarks/" in o), None),
                    outputs=tuple(Path(output) for output in job.output),
                    after=tuple(number[other] for other in dag.dependencies[job]),
                    costs={},
                )
                for job in jobs
            ]
    except (ApiError, RuleException, WorkflowError) as error:
        text = " ".join(str(error).split()) or said.getvalue().strip().rpartition("\n")[2]
        text = text.partition(" Wildcards: ")[0].removeprefix("Error: ").removeprefix("WorkflowError: ")
        raise ScrflowError(f"Snakemake cannot plan {' '.join(targets)}: {text}") from None


def costed(job: Job, project: Project, method: str, size: tuple[int, int]) -> Job:
    """The job with its costs, and where they are from."""
    law = laws()["rules"].get(job.rule)
    ratios: dict[str, list[float]] = {cost: [] for cost in COSTS}
    scenes = []
    for path in sorted(RESULTS.glob("*/scene/scene.json")):
        other = path.parents[1]
        measured = measured_costs(job, other)
        if measured is None:
            continue
        scenes.append(other.name)
        terms = _terms(law, job, project, method, _size(project, other.name))
        for cost in COSTS:
            if cost != "cpu_s" or law is None or measured[cost] >= _LEAST_CPU_S:
                ratios[cost].append(measured[cost] / terms[cost])
    if law is None and not scenes:
        return replace(job, costs=dict.fromkeys(COSTS), source="not known")
    terms = _terms(law, job, project, method, size)
    costs = {cost: terms[cost] * math.prod(r) ** (1 / len(r)) if (r := ratios[cost]) else terms[cost] for cost in COSTS}
    return replace(job, costs=costs, source=", ".join(scenes) or "plan.yaml")


def measured_costs(job: Job, scene: Path) -> dict[str, float] | None:
    """CPU seconds, memory and disk of the same job on the finished scene in a folder; None where it did not run."""

    def there(path: Path) -> Path:
        return scene / Path(*path.parts[2:])

    benchmark = job.benchmark and there(Path(job.benchmark))
    outputs = [there(path) for path in job.outputs]
    if benchmark is None or not benchmark.is_file() or not all(path.exists() for path in outputs):
        return None
    used = usage(benchmark)
    if used["cpu_s"] is None or used["max_rss_mb"] is None:
        return None
    files = [f for path in outputs for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file()]
    disk_mb = sum(f.stat().st_size for f in files) / 1e6
    return {"cpu_s": used["cpu_s"], "mem_mb": used["max_rss_mb"], "disk_mb": disk_mb}


# ---------------------------------------------------------------------------------------------------------------- laws


def _terms(law: dict | None, job: Job, project: Project, method: str, size: tuple[int, int]) -> dict[str, float]:
    """Costs by the terms of plan.yaml; in proportion to the photos where it has none of the rule."""
    if law is None:
        return {"cpu_s": float(sum(size)), "mem_mb": 1.0, "disk_mb": float(sum(size))}
    counts = units(project, job.wildcards, method, *size)

    def term(key: str, value: float) -> float:
        name, _, exponent = key.partition("^")
        return value * counts[name] ** float(exponent or 1)

    return {cost: sum(term(key, value) for key, value in law[cost].items()) for cost in COSTS}


def units(
    project: Project, wildcards: Mapping[str, str], method_name: str, images: int, queries: int
) -> dict[str, float]:
    """What the costs of a job are counted by: the keys of plan.yaml. ``_s`` are seconds to encode photos."""
    photos = images + queries
    sfm_pairs = photos * (photos - 1) / 2 if photos <= 60 else 20 * photos
    out = {"job": 1, "images": images, "queries": queries, "photos": photos, "sfm_pairs": sfm_pairs}
    sampled = images > COUNTED_NODES
    out |= {"counted": 0 if sampled else images, "sampled": images if sampled else 0, "walked_s": 0.0}
    encoding = project.config.encodings.get(wildcards.get("encoding", ""))
    if getattr(encoding, "engine", None) == "pyg":
        # a step on a core: walks from 256 images, and products of all pairs
        step_s = 1e-5 * encoding.walks * min(256, images) + 3e-8 * images**2
        out |= {"counted": 0, "sampled": 0, "walked_s": encoding.iterations * step_s}
    if "feature" in wildcards:
        feature = project.config.retrieval[wildcards["feature"]]
        dim = feature.clusters * _VLAD_WORD if feature.kind == "vlad" else _NETWORK_DIM.get(feature.network or "", 1280)
        out |= {"image_s": images * _feature_s(project, wildcards["feature"]), "raw_mb": 4e-6 * images * dim}
    if "tracks" in wildcards:
        out["tracks_s"] = images * _photo_s(project.config.tracks[wildcards["tracks"]].features.name)
    if method_name in project.baselines:
        return out
    method = project.method(method_name)
    encoder = wildcards.get("encoder", method.encoder)
    if encoder is not None:
        out |= _encoder_units(project, project.encoders[encoder], images)
    if "method" not in wildcards:
        return out
    out |= {"map_mb": 0.0, "query_s": 0.0, "query_gflop": 0.0, "tried": queries * method.localize.hypotheses}
    if method.head is not None:
        out |= _head_units(project, method, images, queries, out["samples"])
    if method.landmarks is not None:
        wish = method.landmarks
        out["map_mb"] += 1e-6 * (wish.size or wish.count * (wish.code_bytes + _POSITION_BYTES))
        out["query_s"] += queries * _photo_s(project.config.tracks[wish.tracks].features.name)
    return out


def _encoder_units(project: Project, encoder: EncoderConfig, images: int) -> dict[str, float]:
    buffer, photo_s, copies = encoder.buffer, _photo_s(encoder.extractor.name), encoder.buffer.copies(images)
    low, high = buffer.augment.scale
    area = (high**2 - low**2) / (2 * math.log(high / low)) if high > low else low**2  # of an augmented copy, mean
    encoded = min(buffer.plain_copies, copies) + area * max(0, copies - buffer.plain_copies)
    shards, samples = project.config.buffer_shards, images * copies * buffer.samples(images)
    return {
        "pca_s": photo_s * min(images, max(64, -(-encoder.pca.samples // encoder.extractor.max_keypoints))),
        "shard_s": photo_s * encoded * math.ceil(images / shards),
        "samples": samples,
        "shard_mb": samples / shards * (2 * encoder.pca.dim + 12) / 1e6,
        "sample_pairs": images * min(_NEIGHBOURS, images / 2) * (buffer.samples_per_copy / 1024) ** 2,
    }


def _head_units(project: Project, method: MethodConfig, images: int, queries: int, samples: float) -> dict[str, float]:
    training, use, encoder = method.training, method.localize, project.encoders[method.encoder]
    row = encoder.pca.dim * (1 if training.buffer_dtype == "int8" else 2) + 24 + 32 * (training.mix_share > 0)
    encoding = project.config.encodings.get(method.global_encoding.name or "")
    parameters, update = _head(method.head.model_dump_json(), encoder.pca.dim + getattr(encoding, "dim", 256))
    updates = training.steps // training.accumulate if training.optimizer == "muon" else 0
    feature = method.retrieval and project.config.retrieval[method.retrieval]
    described = {_feature_s(project, name) for name in feature.parts or [method.retrieval]} if feature else set()
    further = (_HALVED if use.halving is not None else 1.0) * (use.hypotheses - 1)
    photo_s = _photo_s(encoder.extractor.name)
    return {
        "held_mb": min(samples * row, int(training.buffer_memory)) / 1e6,
        "train_gflop": 6e-9 * parameters * training.batch_size * training.steps,
        "muon_gflop": 1e-9 * update * updates,
        "head_mb": 2e-6 * parameters,
        "map_mb": 2e-6 * parameters + (7e-3 * images if feature else 0),
        "query_s": queries * (photo_s + sum(described - {photo_s})),  # the head's descriptors serve a VLAD too
        "query_gflop": 2e-9 * parameters * queries * use.max_keypoints * (1 + further),
    }


def _photo_s(name: str) -> float:
    rates = laws()["photo_s"]
    found = rates.get(name) or rates.get(name.partition("-")[0])
    if found is None:
        raise ScrflowError(f"{name}: its time a photo is not known; measure it, and add it to photo_s of cli/plan.yaml")
    return found


def _feature_s(project: Project, name: str) -> float:
    feature = project.config.retrieval[name]
    if feature.kind == "vlad":
        return _photo_s(project.encoders[feature.encoder].extractor.name)
    return _photo_s(feature.network) if feature.kind == "network" else 0.0


@functools.cache
def _head(config: str, dim_in: int) -> tuple[int, float]:
    """Parameters of a head, counted on the network without its memory; operations of one of Muon's updates: five
    Newton-Schulz iterations of three products each, of m x n matrices with m <= n."""
    import torch

    from scrflow.training.head import Head

    parsed = HeadConfig.model_validate_json(config)
    with torch.device("meta"):
        shapes = [sorted(p.shape) for p in Head(dim_in, parsed, torch.zeros(parsed.clusters, 3)).parameters()]
    update = sum(5 * (4 * m * m * n + 2 * m**3) for m, n in (shape for shape in shapes if len(shape) == 2))
    return sum(map(math.prod, shapes)), float(update)


def _size(project: Project, scene: str, images: int | None = None, queries: int | None = None) -> tuple[int, int]:
    """Mapping images and queries: as given, or of the scene that was built, or of its lists."""
    built = RESULTS / scene / "scene/scene.json"
    found: tuple[int | None, int | None] = None, None
    if built.is_file():
        info = read_json(built, "scene")
        found = info["mapping_images"], info["queries"]
    else:
        split, root = project.scene(scene).split, project.scene_root(scene)
        lists = [root / name for name in (split.mapping, *split.queries.values()) if name]
        if split.mapping and split.queries and all(path.is_file() for path in lists):
            counts = [len(read_lines(path)) for path in lists]
            found = counts[0], sum(counts[1:])
    images, queries = images or found[0], queries or found[1] or 100
    if images is None:
        raise ScrflowError(f"{scene}: number of photos not known before it is built; give --images and --queries")
    return images, queries


# -------------------------------------------------------------------------------------------------- checks, and print


def elapsed_s(jobs: Sequence[Job], cores: int) -> float:
    """Seconds from the first start to the last end: a job starts as soon as the jobs before it are done and its threads
    are free; of several, the first in order."""
    waiting, done, running, now, free = list(range(len(jobs))), set(), [], 0.0, cores
    while waiting or running:
        for i in list(waiting):
            threads = min(cores, jobs[i].threads)
            if threads <= free and done.issuperset(jobs[i].after):
                heapq.heappush(running, (now + jobs[i].wall_s(), i, threads))
                free -= threads
                waiting.remove(i)
        now, i, threads = heapq.heappop(running)
        free += threads
        done.add(i)
    return now


def problems(jobs: Sequence[Job], cores: int, free_mb: float, free_disk_mb: float) -> list[str]:
    """What does not fit the rules' limits, or this machine; and what to change."""
    lines = []
    fixed = laws()["rules"]["fill_buffer"]["mem_mb"]["job"]
    for job in {job.stage: job for job in jobs}.values():
        memory, minutes, alike = job.costs["mem_mb"], job.wall_s() / 60, sum(o.stage == job.stage for o in jobs)
        shards = math.ceil(alike * (memory - fixed) / max(job.limit_mb - fixed, 1))  # of which each fits
        advice = {
            "fill_buffer": f"set buffer_shards: {shards} (config.yaml), or ",
            "train_head": "set training.buffer_memory lower, or take a GPU or a smaller method, or ",
        }.get(job.rule, "")
        for key, needed, limit, takes, shown in (
            ("mem_mb", memory, job.limit_mb, "needs", _mb),
            ("runtime", minutes, job.limit_min, "takes", lambda minutes: _time(60 * minutes)),
        ):
            if needed > _SLACK * limit:
                ask = f"{advice}--set-resources {job.rule}:{key}={_rounded(1.2 * needed)}"
                lines.append(f"{job.stage}: {takes} {shown(needed)} a job, the rule allows {shown(limit)}; {ask}")
        beside = min(alike, max(1, cores // job.threads))
        if memory * beside > free_mb:
            several = f" for {beside} jobs side by side" if beside > 1 else ""
            fewer = f"--resources mem_mb={_rounded(free_mb)}" if memory <= free_mb else "a larger machine, or a region"
            needs = f"needs {_mb(memory * beside)}{several}, this machine has {_mb(free_mb)} free"
            lines.append(f"{job.stage}: {needs}; take {fewer}")
    disk_mb = sum(job.costs["disk_mb"] for job in jobs)
    if disk_mb > free_disk_mb:
        needs = f"disk: {_mb(disk_mb)} are written, {_mb(free_disk_mb)} are free"
        lines.append(f"{needs}; put results/ on a larger disk, or set buffer.max_samples of the encoder")
    return lines


def _table(jobs: Sequence[Job]) -> Table:
    table = Table("stage", box=SIMPLE_HEAD, pad_edge=False)
    for header in ("jobs", "threads", "a job", "CPU", "memory a job", "disk"):
        table.add_column(header, justify="right")
    table.add_column("figures of")
    for stage in dict.fromkeys(job.stage for job in jobs):
        members = [job for job in jobs if job.stage == stage]
        first = members[0]
        cells = ["-"] * 4
        if first.costs["cpu_s"] is not None:
            cpu, disk = (sum(job.costs[cost] for job in members) for cost in ("cpu_s", "disk_mb"))
            cells = [_time(first.wall_s()), _time(cpu), _mb(max(j.costs["mem_mb"] for j in members)), _mb(disk)]
        table.add_row(stage, str(len(members)), str(first.threads), *cells, first.source)
    return table


def _rounded(value: float) -> int:
    """Up, to two digits."""
    step = 10 ** max(0, math.floor(math.log10(max(value, 1))) - 1)
    return math.ceil(value / step) * step


def _mb(value: float) -> str:
    return decimal(int(1e6 * value))


def _time(seconds: float) -> str:
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (10 * 86400, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:,.0f} days"
