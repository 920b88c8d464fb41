"""The training loop, its record and its checkpoint."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scrflow.config import TrainStage
from scrflow.core.errors import ScrflowError
from scrflow.core.progress import log, meter
from scrflow.core.seeds import derived_seed
from scrflow.training.checkpoint import load_checkpoint, save_checkpoint
from scrflow.training.distributed import Processes
from scrflow.training.flat import flatten_parameters, replica_of
from scrflow.training.head import Head
from scrflow.training.holdout import EarlyStop, HeldOut
from scrflow.training.linear import use_bf16_backward
from scrflow.training.losses import Targets, scene_coordinate_loss
from scrflow.training.optimizer import HeadOptimizer
from scrflow.training.samples import Samples
from scrflow.training.schedule import one_cycle, precision_of
from scrflow.training.stop import Stopped, StopRequest
from scrflow.training.stream import Block, Stream

_PART_ROWS = 512  # of a part of a batch on a CPU


@dataclass(frozen=True)
class Part:
    """Rows begin..end of a lane's batch."""

    lane: int
    index: int
    begin: int
    end: int


class Trainer:
    """Batches are drawn lane by lane, each from a stream of its own; what a step does follows from the seed and its
    number, so a checkpoint holds no position in the streams and no state of a generator.

    On a CPU a batch is cut into parts, whatever the number of threads. With more threads than parts an operator has
    several, which may add up in another order: the last digits are then another run's.
    """

    def __init__(
        self,
        config: TrainStage,
        head: Head,
        samples: Samples,
        streams: dict[int, Stream],
        processes: Processes,
        threads: int = 1,
        held_out: HeldOut | None = None,
    ):
        self.config, self.head, self.samples, self.streams = config, head, samples, streams
        self.processes, self.held_out = processes, held_out
        self.device = next(head.parameters()).device
        t = config.training
        self.precision = precision_of(t, self.device)
        if self.precision.backward_bf16:
            use_bf16_backward(head)
        self.parameters = flatten_parameters(head)
        self._parts = self._cut(t.batch_size // t.gpus)
        one = len(self._parts) == 1
        heads = [(head, self.parameters.grad)] if one else [replica_of(head, self.parameters) for _ in self._parts]
        self._heads = [torch.compile(head, dynamic=False) if t.compile else head for head, _ in heads]
        self._gradients = [gradient for _, gradient in heads]
        workers = min(threads, len(self._parts))
        self._threads = max(1, threads // workers)  # of an operator
        self._pool = self._start(workers) if workers > 1 else None
        self._each = map if self._pool is None else self._pool.map
        self.optimizer = HeadOptimizer(t, head, self.parameters)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision.scaled)
        self.schedule = EarlyStop(t.early_stop, t.steps)
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []

    def _start(self, workers: int) -> ThreadPoolExecutor:
        settings = {"initializer": torch.set_num_threads, "initargs": (self._threads,)}
        return ThreadPoolExecutor(workers, thread_name_prefix="part", **settings)

    def _cut(self, rows: int) -> list[Part]:
        """The parts of this process's batch: on a GPU a lane's rows together."""
        count = max(1, round(rows / _PART_ROWS)) if self.device.type == "cpu" else 1
        ends = [rows * i // count for i in range(count + 1)]
        return [Part(lane, i, ends[i], ends[i + 1]) for lane in self.streams for i in range(count)]

    def run(self, checkpoint: Path, digest: str) -> None:
        """Train from the current step to the last.

        On SIGTERM the step is ended, the checkpoint written, and Stopped raised: a retry goes on from there.
        """
        t = self.config.training
        began = time.monotonic() - self.seconds
        self.head.train()
        torch.set_num_threads(self._threads)
        with StopRequest(self.processes.writes) as stop, meter("training", t.steps, self.step) as tick:
            while self.step < self.schedule.steps:
                loss, error = self.one_step()
                self.step += 1
                if self.schedule.due(self.step):
                    self._look()
                note = ""
                if self.step % t.log_every == 0 or self.step == self.schedule.steps:
                    self.seconds = time.monotonic() - began
                    note = self._record(float(loss), error)
                whole = self.step % t.accumulate == 0  # gradients of an accumulated step are not saved
                ending = stop.requested and whole
                if (ending or self.step % t.checkpoint_every == 0) and self.step < self.schedule.steps:
                    self.seconds = time.monotonic() - began
                    self.save(checkpoint, digest)
                    if ending:
                        raise Stopped(
                            f"training: stopped by SIGTERM after step {self.step} of {self.schedule.steps}, which is "
                            f"saved in {checkpoint}; the same command goes on from there"
                        )
                tick(note)
        if self.step < t.steps:
            log.info("stopped early: %d steps of %d", self.step, t.steps)

    def close(self) -> None:
        """End the threads, those of the streams too."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        for stream in self.streams.values():
            stream.close()

    def one_step(self) -> tuple[Tensor, Tensor]:
        """Loss [] and reprojection errors [B] of this process's part of the batch; parameters are stepped."""
        t = self.config.training
        progress = self.schedule.progress(self.step, t.steps)
        found = {lane: stream.at(self.step, t.steps) for lane, stream in self.streams.items()}
        tasks = [(part, *found[part.lane], progress) for part in self._parts]
        results = list(self._each(self._backward, range(len(tasks)), tasks))
        if (self.step + 1) % t.accumulate == 0 or self.step + 1 == self.schedule.steps:
            self._update(progress)
        share = 1 / len(self._parts)
        return torch.stack([loss for loss, _ in results]).sum() * share, torch.cat([error for _, error in results])

    def batch(self, part: Part, block: Block, positions: Tensor) -> tuple[Tensor, Targets]:
        """Inputs and targets of a part of the current step's batch."""
        seed = derived_seed(self.config.seed, "train.batch", part.lane, self.step, part.index)
        generator = torch.Generator(self.device).manual_seed(seed)
        rows = positions[part.begin : part.end]
        return self.samples.batch(block.columns, rows, generator, self.config.training.needs_depth)

    def _backward(self, which: int, task: tuple[Part, Block, Tensor, float]) -> tuple[Tensor, Tensor]:
        """Add a part's gradient to its replica's."""
        part, block, positions, progress = task
        x, targets = self.batch(part, block, positions)
        loss, error_px = self._forward(self._heads[which], x, targets, progress)
        # parts differ by a row at most; each lane's rows are as many
        share = (part.end - part.begin) / len(positions) / len(self.streams) / self.config.training.accumulate
        self.scaler.scale(loss * share).backward()
        return loss.detach(), error_px.detach()

    def _forward(self, head: Head, x: Tensor, targets: Targets, progress: float) -> tuple[Tensor, Tensor]:
        autocast = self.precision.autocast
        with torch.autocast(self.device.type, autocast or torch.bfloat16, enabled=autocast is not None):
            out = head(x)
        loss, projection = scene_coordinate_loss(
            out.xyz_world, out.coarse, targets, self.config.training.loss, progress, self.config.depth_bias, out.base
        )
        return loss, projection.error_px

    def _update(self, progress: float) -> None:
        """Step the parameters by the sum of the parts' gradients, which begin anew."""
        gradient = self.parameters.grad
        if self._gradients[0] is not gradient:
            torch.sum(torch.stack(self._gradients), 0, out=gradient)
        self.processes.average(gradient)
        self.optimizer.step(one_cycle(progress, self.config.training), self.scaler, self._each)
        torch._foreach_zero_(self._gradients)

    def _look(self) -> None:
        self.schedule.look(self.step, self.held_out.median_error_px(self.head))

    def _record(self, loss: float, error_px: Tensor) -> str:
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
        return (
            f"loss {line['loss']:.2f}, median {line['median_error_px']:.1f} px, within 10 px {line['inlier_share']:.0%}"
        )

    # -- checkpoint

    def save(self, path: Path, digest: str) -> None:
        """Everything that the next step depends on, written by the first process."""
        if not self.processes.writes:
            return
        state: dict[str, Any] = {
            "digest": digest,
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "errors": self.schedule.errors,
            "turned_at": self.schedule.turned_at,
            "steps": self.schedule.steps,
        }
        save_checkpoint(path, state)

    def resume(self, path: Path, digest: str) -> None:
        """Continue from a checkpoint of the same digest; without one, or with another's, begin anew."""
        state = load_checkpoint(path, digest)
        if state is None:
            return
        if state["step"] % self.config.training.accumulate:
            log.warning("%s: checkpoint within an accumulated step: training begins anew", path)
            return
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        self.schedule.errors, self.schedule.turned_at = state["errors"], state["turned_at"]
        self.schedule.steps = state["steps"]
        log.info("training continues from step %d", self.step)
