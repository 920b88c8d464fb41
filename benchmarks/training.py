"""Time variants of training in one run, and print the tables of docs/performance.md.

    OMP_WAIT_POLICY=PASSIVE .venv/bin/python benchmarks/training.py steps --results results/redkitchen
    OMP_WAIT_POLICY=PASSIVE .venv/bin/python benchmarks/training.py memory --results results/redkitchen
    python benchmarks/training.py steps --method rscore --samples 4000000 --dim 128 --batch 40960      # a GPU

Without --results the buffer is SYNTHETIC: random descriptors of random points, in the sizes that are asked for; nothing
needs to be fetched. Variants take turns, a few steps each, so that what else the machine does hits all alike.
"""

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

import plain  # noqa: E402

from scrflow.config import HeadConfig, TrainStage  # noqa: E402
from scrflow.config.base import deep_merge  # noqa: E402
from scrflow.core.device import device_for  # noqa: E402
from scrflow.core.seeds import derived_seed  # noqa: E402
from scrflow.pipeline.job import peak_kilobytes  # noqa: E402
from scrflow.pipeline.project import Project  # noqa: E402
from scrflow.storage.artifact import Stamp, create_h5, write_npz  # noqa: E402
from scrflow.training.buffer import BufferFiles  # noqa: E402
from scrflow.training.head import Head  # noqa: E402
from scrflow.training.job import output_unit  # noqa: E402
from scrflow.training.samples import ColumnLayout, Samples  # noqa: E402
from scrflow.training.stream import open_streams  # noqa: E402
from scrflow.training.trainer import Trainer  # noqa: E402

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", add_completion=False)
DEVICE = device_for()

Results = Annotated[Path | None, typer.Option(help="results/SCENE of a run; without it a synthetic buffer.")]
Method = Annotated[str, typer.Option(help="Of config/methods.")]
Encoder = Annotated[str, typer.Option(help="Whose buffer, with --results.")]
SampleCount = Annotated[int, typer.Option(help="Synthetic samples.")]
Dim = Annotated[int, typer.Option(help="Synthetic descriptors' numbers.")]


@dataclass(frozen=True)
class Inputs:
    """Artifacts that training reads."""

    shards: list[Path]
    graph: Path
    encoding: Path
    depth: Path | None


def real_inputs(results: Path, encoder: str) -> Inputs:
    """Those of a run."""
    local = results / "local" / encoder
    shards = sorted(local.glob("buffer-*.h5"))
    if not shards:
        sys.exit(f"error: {local}: no buffer-*.h5; run the workflow first")
    return Inputs(shards, results / "covisibility.npz", results / "encodings/node2vec.h5", local / "depth-matched.h5")


def synthetic_inputs(folder: Path, samples: int, dim: int, shards: int = 4) -> Inputs:
    """Random descriptors, 1 000 samples an image, images in a row whose neighbours overlap; depths of all, 8 random
    matches each. It trains nothing, and costs what a real one costs."""
    rng = np.random.default_rng(0)
    images = max(shards, samples // 1000)
    names = [f"{i:06d}.jpg" for i in range(images)]
    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    paths = []
    for shard in range(shards):
        rows = range(images * shard // shards, images * (shard + 1) // shards)
        count = samples * (shard + 1) // shards - samples * shard // shards
        path = folder / f"buffer-{shard}.h5"
        with create_h5(path, Stamp("buffer", {"shard": shard, "samples": samples})) as f:
            f["descriptor"] = rng.standard_normal((count, dim), np.float32).astype(np.float16)
            f["pixel"] = (rng.random((count, 2), np.float32) * [640, 480]).astype(np.float32)
            f["view"] = np.sort(rng.integers(0, len(rows), count)).astype(np.int32)
            f["image"], f["plain"] = np.array(rows, np.int32), np.ones(len(rows), bool)
            f["K"] = np.tile(K, (len(rows), 1, 1))
            pose = np.tile(np.eye(3, 4), (len(rows), 1, 1))
            pose[:, 0, 3] = -0.1 * np.array(rows)
            f["cam_from_world"] = pose
            f.attrs["names"] = names
        paths.append(path)
    with create_h5(folder / "depth.h5", Stamp("sample-depth")) as f:
        f["depth"] = rng.uniform(2, 6, samples).astype(np.float32)
        f["relative_sigma"] = np.full(samples, 0.01, np.float32)
        f["matches"] = rng.integers(0, samples, (samples, 8)).astype(np.int32)
    with create_h5(folder / "node2vec.h5", Stamp("global-encoding")) as f:
        f["encoding"] = rng.standard_normal((images, 256), np.float32)
        f["names"] = names
    near = np.arange(images)[:, None] + [-2, -1, 1, 2]
    row, column = np.repeat(np.arange(images), 4), near.ravel()
    inside = (column >= 0) & (column < images)
    counts = np.bincount(row[inside], minlength=images)
    arrays = {"data": np.full(inside.sum(), 0.5), "indices": column[inside].astype(np.int32)}
    arrays |= {"indptr": np.r_[0, counts.cumsum()].astype(np.int32), "shape": np.array([images, images])}
    write_npz(folder / "covisibility.npz", {**arrays, "names": np.array(names)}, Stamp("covisibility"))
    return Inputs(paths, folder / "covisibility.npz", folder / "node2vec.h5", folder / "depth.h5")


def stage_of(method: str, **training: Any) -> TrainStage:
    """The method's training of a scene of metres indoors."""
    stage = Project(ROOT / "config").train_stage("redkitchen", method).model_dump(mode="json")
    return TrainStage.model_validate(deep_merge(stage, {"training": training}))


def make_trainer(config: TrainStage, inputs: Inputs, threads: int | None = None) -> Trainer:
    """As a TrainJob makes it."""
    t, use = config.training, config.global_encoding
    graph = inputs.graph if use.neighbour_share > 0 else None
    depth = inputs.depth if t.needs_depth else None
    samples = Samples.open(config, inputs.shards, graph, inputs.encoding if use.name else None, depth)
    unit = output_unit(depth) if t.loss.known_depth else 1.0
    torch.manual_seed(derived_seed(config.seed, "train.init"))
    head = Head(samples.dim_in, config.head, samples.cluster_centres(config.head.clusters, config.seed), unit)
    threads = threads or torch.get_num_threads()
    return Trainer(head.to(DEVICE), samples, t, config.seed, config.depth_bias, threads)


class PlainTrainer:
    """The reference: everything on the device in float32, the loss read back in each step, AdamW parameter by
    parameter, no autocast. Batches are those of the trainer that it is given; their assembly counts."""

    def __init__(self, trainer: Trainer, head_config: HeadConfig):
        self._trainer = trainer
        self._unit, self._head_config = trainer.head.decoder.unit, head_config
        self._state = {k: v.detach().clone() for k, v in trainer.head.state_dict().items()}
        parameters = [self._state[k].requires_grad_() for k, _ in trainer.head.named_parameters()]
        self._optimizer = torch.optim.AdamW(parameters, lr=trainer.config.lr_max, foreach=False, fused=False)
        self.step = 0

    def one_step(self) -> float:
        """The loss."""
        trainer, config = self._trainer, self._trainer.config
        block, positions = trainer.streams[0].at(self.step, config.steps)
        generator = torch.Generator(DEVICE).manual_seed(self.step)
        x, targets = trainer.samples.batch(block.columns, positions, generator, config.mix_share)
        y, coarse = plain.head(self._state, x, self._head_config.model_dump(), self._unit)
        progress, cut = self.step / config.steps, not self._head_config.coarse_gradient
        loss = plain.loss(y, coarse, targets, config.loss.model_dump(), progress, trainer.depth_bias, cut)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        return loss.item()


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def matmul_rate(dtype: torch.dtype, size: int) -> float:
    """Measured FLOP/s of a square product, the best of five."""
    a, b = (torch.randn(size, size, device=DEVICE, dtype=dtype) for _ in range(2))
    repeats, best = 10, math.inf
    for _ in range(5):
        synchronize()
        began = time.perf_counter()
        for _ in range(repeats):
            a @ b
        synchronize()
        best = min(best, time.perf_counter() - began)
    return repeats * 2 * size**3 / best


def flops_of(config: TrainStage, dim_in: int) -> int:
    """Floating-point operations of a step's products, forward and backward, counted by torch's FlopCounterMode."""
    from torch.utils.flop_counter import FlopCounterMode

    rows = 64
    head = Head(dim_in, config.head, torch.zeros(config.head.clusters, 3))
    with FlopCounterMode(display=False) as counter:
        out = head(torch.zeros(rows, dim_in))
        (out.xyz_world.sum() + out.coarse.sum()).backward()
    return counter.get_total_flops() * config.training.batch_size // rows


def variants(device: str, streamed: int, muon: bool) -> dict[str, dict[str, Any]]:
    """Settings of training by the name of a variant."""
    found: dict[str, dict[str, Any]] = {
        "plain float32 (reference)": {"precision": "fp32"},
        "fp32": {"precision": "fp32"},
        "bf16": {"precision": "bf16"},
        "auto": {},
        "auto, int8 buffer": {"buffer_dtype": "int8"},
        "auto, streamed": {"buffer_memory": streamed},
    }
    if muon:  # the reference has AdamW
        found["fp32, AdamW"] = {"precision": "fp32", "optimizer": "adamw"}
        found["auto, AdamW"] = {"optimizer": "adamw"}
    if device == "cuda":
        found["auto, compiled"] = {"compile": True}
        found["bf16, compiled"] = {"precision": "bf16", "compile": True}
    return found


@app.command()
def steps(
    results: Results = None,
    method: Method = "rscore-cpu",
    encoder: Encoder = "xfeat",
    samples: SampleCount = 500_000,
    dim: Dim = 64,
    batch: Annotated[int | None, typer.Option(help="Instead of the method's.")] = None,
    rounds: Annotated[int, typer.Option(help="Turns of each variant.")] = 8,
    turn: Annotated[int, typer.Option(help="Steps a turn.")] = 15,
    share: Annotated[float, typer.Option(help="Of the buffer that the streamed variant may hold.")] = 0.25,
) -> None:
    """Milliseconds a step of every variant, against the plain one; its share of the device's matrix rate."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = synthetic_inputs(Path(folder), samples, dim) if results is None else real_inputs(results, encoder)
        extra = {} if batch is None else {"batch_size": batch}
        base = stage_of(method, **extra)
        files = BufferFiles.open(inputs.shards, inputs.depth if base.training.needs_depth else None)
        layout = ColumnLayout.of(base.training, files)
        streamed = max(
            int(share * files.rows * layout.row_bytes), 2 * layout.streamed().row_bytes * base.training.batch_size
        )
        runs: dict[str, Callable[[], Any]] = {}
        trainers: dict[str, Trainer] = {}
        for name, settings in variants(DEVICE.type, streamed, base.training.optimizer == "muon").items():
            trainer = trainers[name] = make_trainer(stage_of(method, **extra, **settings), inputs)
            trainer.head.train()
            runs[name] = PlainTrainer(trainer, base.head).one_step if name.startswith("plain") else _stepper(trainer)
        _print_steps(runs, trainers, base, rounds, turn)
        for trainer in trainers.values():
            trainer.close()


def _stepper(trainer: Trainer) -> Callable[[], None]:
    def one() -> None:
        trainer.one_step()
        trainer.step += 1

    return one


def _print_steps(
    runs: dict[str, Callable[[], Any]], trainers: dict[str, Trainer], base: TrainStage, rounds: int, turn: int
) -> None:
    first = next(iter(trainers.values()))
    flops = flops_of(base, first.samples.dim_in)
    for run in runs.values():
        for _ in range(5):
            run()
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            synchronize()
            began, used = time.perf_counter(), time.process_time()
            for _ in range(turn):
                run()
            synchronize()
            wall[name].append((time.perf_counter() - began) / turn)
            cpu[name].append((time.process_time() - used) / turn)
    types = {"float32": torch.float32, "bf16": torch.bfloat16}
    if DEVICE.type == "cuda":
        types["fp16"] = torch.float16
    rates = {name: matmul_rate(t, 8192 if DEVICE.type == "cuda" else 1024) for name, t in types.items()}
    print(
        f"{_machine()}; batch {base.training.batch_size}, {flops / 1e9:.1f} GFLOP a step; matrix products of", end=" "
    )
    print(", ".join(f"{name} {rate / 1e12:.3f} TFLOP/s" for name, rate in rates.items()) + "\n")
    print("| variant | ms | CPU ms | ratio | TFLOP/s | of the float32 rate | of the best rate | stood still |")
    print("|---|---|---|---|---|---|---|---|")
    reference = float(np.median(wall["plain float32 (reference)"]))
    for name in runs:
        ms, speed = float(np.median(wall[name])), flops / float(np.median(wall[name]))
        waited = sum(stream.waited_s for stream in trainers[name].streams.values()) / sum(wall[name]) / turn
        print(
            f"| {name} | {1e3 * ms:.1f} | {1e3 * np.median(cpu[name]):.1f} | {reference / ms:.2f} "
            f"| {speed / 1e12:.3f} | {100 * speed / rates['float32']:.0f} % "
            f"| {100 * speed / max(rates.values()):.0f} % | {100 * waited:.1f} % |"
        )


@app.command()
def mixing(
    results: Results = None,
    encoder: Encoder = "xfeat",
    samples: SampleCount = 4_000_000,
    dim: Dim = 128,
    batch: Annotated[int, typer.Option()] = 1024,
) -> None:
    """Distinct images in a batch of the stream, against a true shuffle of the whole buffer."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = synthetic_inputs(Path(folder), samples, dim) if results is None else real_inputs(results, encoder)
        print("| memory | blocks a pass | chunks a block | rows a chunk | images a batch | of a true shuffle's |")
        print("|---|---|---|---|---|---|")
        whole = None
        for share in (1.1, 0.5, 0.25, 0.1, 0.05, 0.02):
            base = stage_of("ace-cpu", batch_size=batch)
            files = BufferFiles.open(inputs.shards)
            layout = ColumnLayout.of(base.training, files)
            memory = int(share * files.rows * layout.row_bytes)
            if share < 1 and memory < 2 * batch * layout.row_bytes:
                continue
            config = stage_of("ace-cpu", batch_size=batch, buffer_memory=memory)
            stream = open_streams(files, config.training, config.seed, [0], DEVICE)[0]
            plan, count = stream.plan, []
            # batches from all over two passes
            last = 1000 if plan.steps is None else 2 * plan.blocks * plan.steps
            for step in np.linspace(0, last - 1, 40).astype(int):
                block, positions = stream.at(int(step), last)
                count.append(len(torch.unique(files.image.to(DEVICE)[block.columns.view[positions].long()])))
            stream.close()
            images = float(np.mean(count))
            whole = images if whole is None else whole
            held = min(1.0, share)
            print(
                f"| {100 * held:.0f} % | {plan.blocks} | {plan.chunks_per_block} | {plan.chunk_rows} | {images:.1f} "
                f"| {100 * images / whole:.1f} % |"
            )


@app.command()
def memory(
    method: Method = "rscore-cpu",
    dim: Dim = 64,
    sizes: Annotated[str, typer.Option(help="Synthetic samples, of each run.")] = "2000000,8000000",
    limits: Annotated[str, typer.Option(help="MiB of buffer_memory.")] = "128,4096",
    count: Annotated[int, typer.Option(help="Steps of each run: more than one block has.")] = 400,
) -> None:
    """Peak memory and ms a step against the size of the buffer and buffer_memory, each in a process of its own."""
    print("| samples | buffer MB | buffer_memory MiB | blocks a pass | ms a step | CPU ms | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for samples in map(int, sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            synthetic_inputs(Path(folder), samples, dim)
            for limit in map(int, limits.split(",")):
                command = [sys.executable, __file__, "one", folder, method, str(limit), str(count)]
                done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
                if done.returncode:
                    sys.exit(done.stderr)
                r = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"| {samples} | {r['buffer_mb']:.0f} | {limit} | {r['blocks']} | {r['ms']:.1f} | {r['cpu_ms']:.1f} "
                    f"| {r['peak_mb']:.0f} |",
                    flush=True,
                )


@app.command(hidden=True)
def one(folder: Path, method: str, limit: int, count: int) -> None:
    """A run of ``memory``."""
    inputs = Inputs(
        sorted(folder.glob("buffer-*.h5")), folder / "covisibility.npz", folder / "node2vec.h5", folder / "depth.h5"
    )
    trainer = make_trainer(stage_of(method, buffer_memory=limit << 20), inputs)
    trainer.head.train()
    step = _stepper(trainer)
    for _ in range(5):
        step()
    synchronize()
    began, used = time.perf_counter(), time.process_time()
    for _ in range(count):
        step()
    synchronize()
    ms, cpu = (1e3 * (now - then) / count for now, then in ((time.perf_counter(), began), (time.process_time(), used)))
    stream = trainer.streams[0]
    if DEVICE.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1e6
    else:
        peak = peak_kilobytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1e3
    buffer = trainer.samples.buffer
    row = ColumnLayout.of(trainer.config, buffer).row_bytes  # of the whole in memory
    print(
        json.dumps(
            {
                "ms": ms,
                "cpu_ms": cpu,
                "peak_mb": peak,
                "blocks": stream.plan.blocks,
                "buffer_mb": buffer.rows * row / 1e6,
            }
        )
    )
    trainer.close()


def _machine() -> str:
    if DEVICE.type == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{torch.get_num_threads()} threads, torch {torch.__version__}"


if __name__ == "__main__":
    app()
