"""From photos to poses of the demo on the device at hand, with figures of each part: make check-gpu.

    python benchmarks/check_gpu.py                      # a GPU, some 5 minutes; it ends itself after 8
    python benchmarks/check_gpu.py --small --device cpu # the same in seconds, without demands on the accuracy

Trains R-SCoRe's head at the paper's size and batch on XFeat, held to known depths, with which it converges in minutes.
envs/gpu.txt lists what Python needs. The weights of XFeat (6 MB) are fetched, or carried (SCRFLOW_WEIGHTS).
"""

import contextlib
import faulthandler
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import torch
import typer

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

import training  # noqa: E402
from encoders import Loader  # noqa: E402

from scrflow.config import MethodConfig, TrainStage  # noqa: E402
from scrflow.config.base import deep_merge  # noqa: E402
from scrflow.core.device import device_for  # noqa: E402
from scrflow.depths.matched import estimate_sample_depths  # noqa: E402
from scrflow.evaluate.submission import recall_of_results  # noqa: E402
from scrflow.features.encoders import build_encoder, dedode  # noqa: E402
from scrflow.features.networks import NetworkEncoder  # noqa: E402
from scrflow.features.pca import fit_pca  # noqa: E402
from scrflow.features.retrieval_index import build_retrieval  # noqa: E402
from scrflow.features.views import encode_photos  # noqa: E402
from scrflow.graph.covisibility import build_graph  # noqa: E402
from scrflow.graph.node2vec import embed  # noqa: E402
from scrflow.localize.localizer import localize_queries  # noqa: E402
from scrflow.map.file import write_map  # noqa: E402
from scrflow.pipeline.project import Project  # noqa: E402
from scrflow.scene.build import build_scene  # noqa: E402
from scrflow.scene.model import load_scene, write_scene  # noqa: E402
from scrflow.training.buffer import fill_shard  # noqa: E402
from scrflow.training.job import train_head  # noqa: E402

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
LIMIT_S = 480
TRAINING_S = 150
METHOD, ENCODER = "check-gpu", "xfeat"
# rscore-cpu has 0.45 m and 82 % within 5 m and 10 degrees after two minutes on two cores
LEAST_RECALL, MOST_MEDIAN = 0.6, 1.5
_SETTINGS = {"optimizer": "adamw", "batch_size": 40_960, "lr_max": 3.0e-3, "weight_decay": 0.01, "steps": 5000}
_SMALL = {"batch_size": 1024, "steps": 40, "log_every": 10}


def check_method(project: Project, small: bool) -> MethodConfig:
    """rscore's head and batch, with the known depths and the localization of rscore-cpu."""
    own = project.method("rscore-cpu").model_dump(mode="json")
    head = project.method("rscore").head.model_dump(mode="json")
    small_head = {"width": 96, "blocks": 1, "refine_blocks": 1, "clusters": 1, "input_skip": "linear"} if small else {}
    changes = {"head": {**head, **small_head}, "retrieval": "vlad", "training": _SETTINGS | (_SMALL if small else {})}
    return MethodConfig.model_validate(deep_merge(own, changes))


class Report:
    """Figures by name, printed as they come."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self._began = time.perf_counter()

    def add(self, name: str, value: Any, unit: str = "") -> None:
        self.figures[name] = value
        shown = f"{value:.4g}" if isinstance(value, float) else value
        print(f"{time.perf_counter() - self._began:6.1f} s  {name}: {shown} {unit}".rstrip(), flush=True)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - began, "s")


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(function: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Of one call, the mean of several after one that does not count."""
    function()
    wait_for(device)
    began = time.perf_counter()
    for _ in range(repeats):
        function()
    wait_for(device)
    return (time.perf_counter() - began) / repeats


def cut(scene: Path, out: Path, images: int, queries: int) -> None:
    """The scene with few mapping photos, neighbours of each other, and few queries."""
    s = load_scene(scene)
    mapping, asked = s.mapping[:images], s.queries[:queries]
    names = [v.name for v in (*mapping, *asked)]
    poses = {q.name: s.query_poses[q.name] for q in asked}
    config = Project(ROOT / "config").scene_stage("demo")
    digests = {name: s.sha256[name] for name in names}
    write_scene(
        out,
        config=config,
        code="cut",
        image_root=s.image_root,
        unit=s.unit,
        mapping=mapping,
        queries=asked,
        query_poses=poses,
        image_sha256=digests,
    )


def encoder_rates(report: Report, project: Project, scene: Path, device: torch.device, threads: int) -> None:
    """Images a second of XFeat with decoding, of networks alone, and how far the device's features are off."""
    s, config = load_scene(scene), project.encoders[ENCODER].extractor
    encoder, reference = build_encoder(config, device), build_encoder(config)

    def views(with_encoder: NetworkEncoder, rows: range) -> list:
        return list(encode_photos(s, rows, with_encoder, config.short_side, config.max_keypoints, threads))

    rows = range(len(s.mapping))
    views(encoder, rows[:4])
    began = time.perf_counter()
    views(encoder, rows)
    report.add("XFeat with decoding", len(rows) / (time.perf_counter() - began), "images/s")
    batch = torch.rand(encoder.batch if device.type == "cuda" else 2, 1, 480, 640, device=device)
    report.add(
        "XFeat, a batch at 640 x 480", len(batch) / seconds_of(lambda: encoder.many(batch), device, 5), "images/s"
    )
    shared = []
    for here, there in zip(views(encoder, rows[:4]), views(reference, rows[:4]), strict=True):
        a, b = torch.from_numpy(here.pixels), torch.from_numpy(there.pixels)
        distance, nearest = torch.cdist(a, b).min(1)
        same = distance < 0.1
        cosine = (here.descriptors.cpu() * there.descriptors[nearest]).sum(1)[same]
        shared.append((float(same.double().mean()), float(cosine.min())))
    report.add("keypoints within 0.1 px of the CPU's", min(share for share, _ in shared))
    report.add("least cosine of their descriptors", min(cosine for _, cosine in shared))
    # rounding (TF32) decides about the weakest keypoints
    if min(share for share, _ in shared) < 0.8 or min(cosine for _, cosine in shared) < 0.95:
        raise SystemExit("FAILED: XFeat on this device does not find what it finds on the CPU")
    if device.type == "cuda":
        offline = mock.patch.dict(os.environ, {"SCRFLOW_OFFLINE": "1"})
        with offline, mock.patch.object(dedode, "load_published", Loader()):
            paper = build_encoder(project.encoders["dedode-128m"].extractor, device)
        batch = torch.rand(paper.batch, 3, 480, 640, device=device)
        rate = len(batch) / seconds_of(lambda: paper.many(batch), device, 3)
        report.add("DeDoDe (random weights), a batch at 640 x 480", rate, "images/s")


def training_rates(
    report: Report, config: TrainStage, inputs: training.Inputs, device: torch.device, small: bool
) -> float:
    """Figures of training steps, measured apart from the training; seconds of a step."""
    trainer = training.make_trainer(config, inputs)
    trainer.head.train()

    def step() -> None:
        trainer.one_step()
        trainer.step += 1

    try:
        seconds_of(step, device, 2 if small else 10)
        seconds = seconds_of(step, device, 3 if small else 40)
        rate = config.training.batch_size / seconds
        report.add("training", rate, "samples/s")
        report.add("training step", 1000 * seconds, "ms")
        best = training.matmul_rate(torch.bfloat16, 1024 if small else 8192)
        report.add("bf16 products measured", best / 1e12, "TFLOP/s")
        flops = training.flops_of(config, trainer.samples.dim_in)
        report.add("share of it in training", flops / seconds / best)
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if device.type == "cuda":
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=kinds) as profile:
            for _ in range(2):
                step()
            wait_for(device)
    finally:
        trainer.close()
    on_gpu = device.type == "cuda"
    spent = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profile.key_averages()
        if not on_gpu or event.device_type == torch.autograd.DeviceType.CUDA
    }
    total = sum(spent.values())
    for i, name in enumerate(sorted(spent, key=spent.get, reverse=True)[:5], 1):
        report.add(f"kernel {i}", f"{100 * spent[name] / total:.0f} % {name[:100]}")
    return seconds


@app.command()
def main(
    small: Annotated[bool, typer.Option("--small", help="A few photos and steps; accuracy is not asserted.")] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda; default: auto.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON of the figures.")] = None,
) -> None:
    """Exit status 1 if features, training or accuracy are not as they should be."""
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    if device is not None:
        os.environ["SCRFLOW_DEVICE"] = device
    training.DEVICE = chosen = device_for()
    threads = min(8, os.cpu_count() or 1)
    os.chdir(ROOT)
    report, project = Report(), Project(ROOT / "config", overrides={"buffer_shards": 1})
    name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    report.add("device", f"{name}, torch {torch.__version__}")
    if chosen.type == "cpu" and not small:
        raise SystemExit("FAILED: torch sees no GPU (--small runs on a CPU)")
    project.methods[METHOD] = method = check_method(project, small)
    with tempfile.TemporaryDirectory() as folder:
        run(report, project, method, Path(folder), chosen, threads, small)
    if chosen.type == "cuda":
        report.add("peak GPU memory of this process", torch.cuda.max_memory_allocated() / 2**30, "GiB")
    if out is not None:
        out.write_text(json.dumps(report.figures, indent=1) + "\n", encoding="utf-8")
    print("PASSED")


def run(
    report: Report,
    project: Project,
    method: MethodConfig,
    work: Path,
    device: torch.device,
    threads: int,
    small: bool,
) -> None:
    """All stages, in a folder."""
    scene, graph, g = work / "scene", work / "covisibility.npz", work / "node2vec.h5"
    pca, shard, depth = work / "pca.safetensors", work / "buffer-0.h5", work / "depth.h5"
    retrieval, head, history = work / "vlad.safetensors", work / "head.safetensors", work / "train.jsonl"
    build_scene(project.scene_stage("demo"), ROOT / "demo", scene)
    if small:
        cut(scene, work / "cut", images=16, queries=2)
        scene = work / "cut"
    encoder_rates(report, project, scene, device, threads)
    with report.timed("PCA"):
        fit_pca(project.pca_stage(ENCODER), scene, pca, threads)
    buffer = project.buffer_stage(ENCODER)
    copies = len(load_scene(scene).mapping) * buffer.buffer.copies(len(load_scene(scene).mapping))
    began = time.perf_counter()
    fill_shard(buffer, scene, pca, 0, shard, threads)
    report.add("buffer filling", copies / (time.perf_counter() - began), "images/s")
    with report.timed("retrieval features"):
        feature = project.retrieval_stage("demo", "vlad")
        build_retrieval(feature, scene, work / "vlad.h5", retrieval, work / "vlad.json", threads)
    with report.timed("graph and Node2Vec"):
        build_graph(project.covisibility_stage("demo"), scene, graph)
        embed(project.node2vec_stage(method.global_encoding.name), graph, g, work / "node2vec.json", threads)
    with report.timed("depths of samples"):
        estimate_sample_depths(project.sample_depth_stage(), graph, [shard], depth, threads)

    config = project.train_stage("demo", METHOD)
    seconds = training_rates(report, config, training.Inputs([shard], graph, g, depth), device, small)
    steps = config.training.steps if small else max(300, min(config.training.steps, int(TRAINING_S / seconds)))
    config = config.model_copy(update={"training": config.training.model_copy(update={"steps": steps})})
    report.add("training steps", steps)
    with report.timed("training"):
        train_head(config, [shard], head, history, work / "checkpoint.pt", threads, graph, g, depth)
    lines = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    first, last = (line["median_error_px"] for line in (lines[0], lines[-1]))
    report.add("median error of training samples", last, "px")
    if not last < first:
        raise SystemExit(f"FAILED: the median error of training samples rose from {first} to {last} px")

    map_, poses = work / "map.safetensors", work / "poses.txt"
    write_map(project.map_stage("demo", METHOD), scene, head, pca, g, retrieval, map_)
    queries = len(load_scene(scene).queries)
    began = time.perf_counter()
    localize_queries(project.localize_stage(METHOD), scene, map_, poses, work / "localization.json", threads)
    report.add("localization", queries / (time.perf_counter() - began), "queries/s")
    recall, (median, _), _ = recall_of_results(poses, scene, project.scene("demo").thresholds)
    report.add("recall", ", ".join(f"{100 * share:.0f} %" for share in recall))
    report.add("median error of the demo's queries", median, "m")
    if not small and (recall[-1] < LEAST_RECALL or median > MOST_MEDIAN):
        raise SystemExit(f"FAILED: at least {LEAST_RECALL:.0%} and at most {MOST_MEDIAN} m are expected")


if __name__ == "__main__":
    app()
