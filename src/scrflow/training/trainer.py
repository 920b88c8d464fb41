"""Training: the loop from samples to the next step, with its schedule, held-out images, record and checkpoint."""

import contextlib
import hashlib
import io
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from scrflow.config import EarlyStopConfig, TrainingConfig
from scrflow.core.errors import ScrflowError
from scrflow.core.progress import log, meter
from scrflow.core.seeds import derived_seed, torch_generator
from scrflow.storage.artifact import atomic_path
from scrflow.training.buffer import pieces
from scrflow.training.head import Head
from scrflow.training.losses import project, scene_coordinate_loss
from scrflow.training.optimizer import (
    GPU_ROWS,
    HeadOptimizer,
    check_gpu_memory,
    flatten_parameters,
    precision_of,
    replica_of,
    use_bf16_backward,
)
from scrflow.training.samples import ColumnLayout, Columns, Samples, channel_scales
from scrflow.training.stream import open_streams

_MICRO_BATCH_ROWS = 512  # on a CPU
_SAVING_SHARE = 0.01  # of the time goes into checkpoints, at most
_FREE_SAVING_S = 2.0  # in checkpoints of a training that has just begun
_HELD_OUT_SAMPLES = 8192  # of held-out images, in each look
_STATEFUL, _STATE = ("head", "optimizer", "scaler", "schedule"), ("step", "seconds", "history")  # in a checkpoint
_MARK = b"scrflow checkpoint, sha256 "
_LINE = len(_MARK) + 65


def train(
    head: Head,
    samples: Samples,
    config: TrainingConfig,
    *,
    seed: int = 0,
    depth_bias: float = 0.3,
    threads: int | None = None,
    checkpoint: Path | None = None,
) -> list[dict[str, float]]:
    """Train a head in place, on the device of its parameters; return the history, an entry every ``log_every`` steps.

    ``depth_bias`` is b of R-SCoRe's depth adjustment, in the scene's unit. ``threads`` are those of torch by default.
    With ``checkpoint`` the state is saved to this file every ``checkpoint_every`` steps and on SIGTERM, and the same
    call continues from it; the end of training removes it. ScrflowError for samples that lack what the config needs,
    and for a loss that is not finite. docs/api.md has an example.
    """
    trainer = Trainer(head, samples, config, seed, depth_bias, threads or torch.get_num_threads())
    poses = hashlib.sha256(samples.buffer.cam_from_world.numpy().tobytes()).hexdigest()
    trainer.run(checkpoint, f"{config.model_dump_json()} {seed} {depth_bias} {samples.buffer.rows} {poses}")
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return trainer.history


class Trainer:
    """The state of a training.

    A batch is cut into micro-batches: on a GPU by the memory of their activations; on a CPU into small ones, whatever
    the number of threads. Each has a replica of the head. A step depends on the seed and its number alone. With more
    threads than micro-batches an operator has several threads, which may sum in another order: then the last digits
    differ.
    """

    def __init__(
        self, head: Head, samples: Samples, config: TrainingConfig, seed: int, depth_bias: float, threads: int = 1
    ):
        self.head, self.config, self.seed, self.depth_bias = head, config, seed, depth_bias
        self.device = next(head.parameters()).device
        self.samples = samples.to(self.device)
        # several processes, one a GPU: each draws its shard groups of every batch, and gradients are averaged
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if config.gpus % self.world:
            raise ScrflowError(
                f"training.gpus is {config.gpus}, and {self.world} processes were started: start as many as divide it"
            )
        held = held_out_views(samples, config, seed)
        groups = list(range(self.rank, config.gpus, self.world))
        if self.device.type == "cuda":
            check_gpu_memory(config, head, samples, len(groups), self.device)
        self.streams = open_streams(samples.buffer, config, seed, groups, self.device, held)
        dtype = self.streams[groups[0]].layout.dtype
        self.held_out = None if held is None else HeldOut(self.samples, config, seed, held, dtype)
        self.precision = precision_of(config, self.device)
        if self.precision.backward_bf16:
            use_bf16_backward(head)
        self.parameters = flatten_parameters(head)
        rows = config.batch_size // config.gpus  # of each shard group
        on_cpu = self.device.type == "cpu"
        count = max(1, round(rows / _MICRO_BATCH_ROWS) if on_cpu else math.ceil(rows / GPU_ROWS))
        ends = [rows * i // count for i in range(count + 1)]
        self.micro_batches = [MicroBatch(group, i, ends[i], ends[i + 1]) for group in groups for i in range(count)]
        if len(self.micro_batches) == 1:
            heads = [(head, self.parameters.grad)]
        else:
            heads = [replica_of(head, self.parameters) for _ in self.micro_batches]
        self._heads = [torch.compile(head, dynamic=False) if config.compile else head for head, _ in heads]
        self._gradients = [gradient for _, gradient in heads]
        self.optimizer = HeadOptimizer(config, head, self.parameters)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision.autocast is torch.float16)

        workers = min(threads, len(self.micro_batches)) if on_cpu else 1  # a GPU holds the activations of one
        self._operator_threads = max(1, threads // workers)
        start = {"initializer": torch.set_num_threads, "initargs": (self._operator_threads,)}
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="micro-batch", **start) if workers > 1 else None
        self._each = map if self._pool is None else self._pool.map

        self.schedule = EarlyStop(config.early_stop, config.steps)
        self.step = 0
        self.seconds = 0.0
        self._began = time.monotonic()
        self._saving_s: list[float] = []  # seconds that each checkpoint took
        self.history: list[dict[str, float]] = []

    def one_step(self) -> tuple[Tensor, Tensor]:
        """Loss [] and reprojection errors [B] of this process's share of the batch; the parameters are stepped."""
        config, progress = self.config, self.schedule.progress(self.step, self.config.steps)
        drawn = {group: stream.at(self.step, config.steps) for group, stream in self.streams.items()}

        def forward_backward(i: int) -> tuple[Tensor, Tensor]:
            micro = self.micro_batches[i]
            block, positions = drawn[micro.group]
            chance = derived_seed(self.seed, "train.batch", micro.group, self.step, micro.index)
            generator = torch.Generator(self.device).manual_seed(chance)
            rows = positions[micro.begin : micro.end]
            x, targets = self.samples.batch(block.columns, rows, generator, config.mix_share)
            autocast = self.precision.autocast
            with torch.autocast(self.device.type, autocast or torch.bfloat16, enabled=autocast is not None):
                out = self._heads[i](x)
            loss, projection = scene_coordinate_loss(
                out.xyz_world, out.coarse, targets, config.loss, progress, self.depth_bias, out.base
            )
            # micro-batches differ by a row at most, and all shard groups have equally many rows
            share = (micro.end - micro.begin) / len(positions) / len(self.streams) / config.accumulate
            self.scaler.scale(loss * share).backward()
            return loss.detach(), projection.error_px.detach()

        results = list(self._each(forward_backward, range(len(self.micro_batches))))

        if (self.step + 1) % config.accumulate == 0 or self.step + 1 == self.schedule.steps:
            gradient = self.parameters.grad
            if self._gradients[0] is not gradient:
                torch.sum(torch.stack(self._gradients), 0, out=gradient)
            if self.world > 1:
                dist.all_reduce(gradient)
                gradient /= self.world
            self.optimizer.step(one_cycle(progress, config), self.scaler, self._each)
            torch._foreach_zero_(self._gradients)
        share = 1 / len(self.micro_batches)
        return torch.stack([loss for loss, _ in results]).sum() * share, torch.cat([error for _, error in results])

    def run(self, checkpoint: Path | None, digest: str) -> None:
        """Train to the last step, from the checkpoint of this ``digest`` if there is one.

        On SIGTERM end the step, save the checkpoint, and raise Stopped: the same call continues from there. Of several
        processes the first saves and ends, and the others ignore the signal, as the first would wait for one that left.
        """
        config, stop = self.config, threading.Event()
        if checkpoint is not None:
            self.resume(checkpoint, digest)
        buffer, plan = self.samples.buffer, next(iter(self.streams.values())).plan
        log.info(
            "training on %d x %s, head of %.2f M parameters", self.world, self.device, self.parameters.numel() / 1e6
        )
        log.info("%d samples of %d images, in %d blocks a pass", buffer.rows, len(buffer.names), plan.blocks)
        self.head.train()
        torch.set_num_threads(self._operator_threads)
        began = time.monotonic() - self.seconds
        catch = contextlib.nullcontext() if checkpoint is None else on_sigterm(stop.set)
        try:
            with catch, meter("training", config.steps, self.step) as tick:
                while self.step < self.schedule.steps:
                    loss, error_px = self.one_step()
                    self.step += 1
                    if self.schedule.due(self.step):
                        self.schedule.look(self.step, self.held_out.median_error_px(self.head))
                    self.seconds = time.monotonic() - began
                    tick(self._record(loss, error_px))
                    if checkpoint is not None and self.rank == 0:
                        self._save_if_due(checkpoint, digest, stop.is_set())
        finally:
            self.close()
        if self.step < config.steps:
            log.info("stopped early: %d steps of %d", self.step, config.steps)
        waited = sum(stream.waited_s for stream in self.streams.values())
        log.info("%.1f s of training, of which %.1f s waiting for samples", self.seconds, waited)

    def close(self) -> None:
        """End the threads, those of the streams too."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        for stream in self.streams.values():
            stream.close()

    def _record(self, loss: Tensor, error_px: Tensor) -> str:
        """Every ``log_every`` steps and after the last one: add an entry to the history, and return it as a note."""
        if self.step % self.config.log_every and self.step < self.schedule.steps:
            return ""
        loss = float(loss)
        if not math.isfinite(loss):
            raise ScrflowError(f"training: the loss is {loss} at step {self.step}; lower training.lr_max")
        line = {
            "step": self.step,
            "loss": round(loss, 5),
            "median_error_px": round(float(error_px.median()), 4),
            "inlier_share": round(float((error_px < 10).float().mean()), 5),
            "lr": self.optimizer.lr,
            "seconds": round(self.seconds, 3),
        }
        if self.schedule.errors:
            line["held_out_error_px"] = round(self.schedule.errors[-1], 4)
        self.history.append(line)
        return f"loss {loss:.2f}, median {line['median_error_px']:.1f} px, within 10 px {line['inlier_share']:.0%}"

    def _save_if_due(self, checkpoint: Path, digest: str, stop: bool) -> None:
        """Save every ``checkpoint_every`` steps, less often where that takes too long; and to ``stop``, which raises
        Stopped. An accumulated gradient is not saved."""
        config, now = self.config, time.monotonic()
        if self.step % config.accumulate or self.step == self.schedule.steps:
            return
        cheap = sum(self._saving_s + self._saving_s[-1:]) <= _SAVING_SHARE * (now - self._began) + _FREE_SAVING_S
        if not stop and not (self.step % config.checkpoint_every < config.accumulate and cheap):
            return
        self.save(checkpoint, digest)
        self._saving_s.append(time.monotonic() - now)
        if stop:
            raise Stopped(
                f"training: stopped by SIGTERM after step {self.step} of {self.schedule.steps}, which is saved in "
                f"{checkpoint}; the same command goes on from there"
            )

    def save(self, path: Path, digest: str) -> None:
        """Save everything that the next step depends on."""
        state = {part: getattr(self, part).state_dict() for part in _STATEFUL} | {k: getattr(self, k) for k in _STATE}
        save_checkpoint(path, {"digest": digest, **state})

    def resume(self, path: Path, digest: str) -> None:
        """Continue from a checkpoint of the same digest; without one, or with another's, begin anew."""
        state = load_checkpoint(path, digest)
        if state is None:
            return
        for part in _STATEFUL:
            getattr(self, part).load_state_dict(state[part])
        for name in _STATE:
            setattr(self, name, state[name])
        log.info("training continues from step %d", self.step)


@dataclass(frozen=True)
class MicroBatch:
    """Rows begin..end of a shard group's batch."""

    group: int
    index: int
    begin: int
    end: int


def one_cycle(progress: float, config: TrainingConfig) -> float:
    """Learning rate at ``progress`` in 0..1 (Smith and Topin 2017): a cosine from lr_start up to lr_max over the
    warm-up, then one down to lr_end, or to a thousandth of lr_start."""

    def cosine(start: float, end: float, t: float) -> float:
        return end + (start - end) * 0.5 * (1 + math.cos(math.pi * t))

    if progress < config.warmup:
        return cosine(config.lr_start, config.lr_max, progress / config.warmup)
    end = config.lr_start / 1000 if config.lr_end is None else config.lr_end
    return cosine(config.lr_max, end, (progress - config.warmup) / (1 - config.warmup))


class EarlyStop:
    """The place of a step in the schedule: once the held-out error has stopped falling, the rest of the schedule is run
    through in fewer steps, as the learning rate has to fall to its end."""

    def __init__(self, config: EarlyStopConfig | None, steps: int):
        self._config, self.steps = config, steps
        self.errors: list[float] = []
        self.turned_at: int | None = None  # the step from which on the schedule is shortened

    def due(self, step: int) -> bool:
        """Whether to look at the held-out images after this many steps."""
        return self._config is not None and step % self._config.every == 0 and step < self.steps

    def look(self, step: int, error: float) -> None:
        """Note the error after ``step`` steps, and shorten the rest of the schedule if it hardly fell."""
        config = self._config
        self.errors.append(error)
        if self.turned_at is not None or len(self.errors) <= config.patience:
            return
        before = min(self.errors[: -config.patience])
        if min(self.errors[-config.patience :]) > (1 - config.min_gain) * before:
            self.turned_at = step
            self.steps = step + max(1, math.ceil(config.cooldown * (self.steps - step)))

    def progress(self, step: int, planned: int) -> float:
        """Place in the schedule, 0..1, of a step."""
        if self.turned_at is None:
            return step / planned
        begun = self.turned_at / planned
        return begun + (1 - begun) * (step - self.turned_at) / (self.steps - self.turned_at)

    def state_dict(self) -> dict[str, Any]:
        """What follows from the looks so far."""
        return {"steps": self.steps, "errors": self.errors, "turned_at": self.turned_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what ``state_dict`` gave."""
        vars(self).update(state)


def held_out_views(samples: Samples, config: TrainingConfig, seed: int) -> Tensor | None:
    """Which views [V] bool are of held-out images: ``holdout`` of them, drawn by the seed; None for none."""
    images = len(samples.buffer.names)
    count = round(config.holdout * images)
    if config.holdout == 0:
        return None
    if not 0 < count < images:
        raise ScrflowError(
            f"training.holdout {config.holdout} of {images} mapping images is {count} images; set it so that it holds "
            "out some and not all"
        )
    order = torch.randperm(images, generator=torch_generator(seed, "train.holdout"))
    held = torch.zeros(images, dtype=torch.bool)
    held[order[:count]] = True
    return held[samples.buffer.image]


class HeldOut:
    """Samples of the plain views of the held-out images, and the head's error on them."""

    def __init__(self, samples: Samples, config: TrainingConfig, seed: int, held: Tensor, dtype: torch.dtype):
        self._samples, self._loss = samples, config.loss
        buffer, device = samples.buffer, samples.image.device
        wanted, parts = held & buffer.plain, []
        for piece in pieces(buffer, 1 << 16):
            mask = wanted[piece["view"].long()]
            parts.append({k: v[mask] for k, v in piece.items()})
        joined = {k: torch.cat([part[k] for part in parts]) for k in parts[0]}
        generator = torch_generator(seed, "train.holdout.samples")
        some = torch.randperm(len(joined["view"]), generator=generator)[:_HELD_OUT_SAMPLES].sort().values
        scale = channel_scales(buffer) if dtype is torch.int8 else None
        layout = ColumnLayout(buffer.dim, dtype, depth=False, matches=0)
        self._columns = Columns.empty(len(some), layout, device, scale)
        self._columns.put(0, {k: v[some] for k, v in joined.items()})

    @torch.no_grad()
    def median_error_px(self, head: Head) -> float:
        """Median reprojection error in pixels, each image with its own global encoding."""
        positions = torch.arange(len(self._columns.view), device=self._columns.view.device)
        x, targets = self._samples.batch(self._columns, positions, None)
        head.eval()
        error = project(head(x).xyz_world, targets, self._loss).error_px
        head.train()
        return float(error.nanmedian())


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the state by ``torch.save``, after a line with its SHA-256; the file appears whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    with atomic_path(path) as temporary, open(temporary, "wb") as f:
        f.write(_MARK + hashlib.sha256(data).hexdigest().encode() + b"\n")
        f.write(data)


def load_checkpoint(path: Path, digest: str) -> dict[str, Any] | None:
    """The state, on the CPU, if it is whole and of this ``digest``; else None, and a warning that says why."""
    if not path.exists():
        return None
    data = path.read_bytes()
    if data[:_LINE] != _MARK + hashlib.sha256(data[_LINE:]).hexdigest().encode() + b"\n":
        log.warning("%s: damaged checkpoint (SHA-256 differs): training begins anew", path)
        return None
    try:
        state = torch.load(io.BytesIO(data[_LINE:]), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        log.warning("%s: not a checkpoint (%s): training begins anew", path, type(error).__name__)
        return None
    if not isinstance(state, dict) or state.get("digest") != digest:
        log.warning("%s: checkpoint of another config or other inputs: training begins anew", path)
        return None
    return state


class Stopped(ScrflowError):
    """Training was asked to stop and has saved its state."""


@contextlib.contextmanager
def on_sigterm(handle: Callable[[], object]) -> Iterator[None]:
    """Call ``handle`` on each SIGTERM instead of ending the process; only in the main thread, which gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: handle())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
