"""Training the head on the buffer: ACE, GLACE and R-SCoRe, on the CPU or one GPU, resumable at any step.

Needs torch, numpy, h5py and safetensors alone, so that the tree and the artifacts are enough on a GPU machine.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scrflow.artifacts import Stamp, atomic_path, open_h5, read_stamp, write_safetensors, write_text
from scrflow.buffer import Buffer, load_buffer
from scrflow.codeversion import code_version
from scrflow.config import TrainingConfig, TrainStage
from scrflow.covisibility import load_graph
from scrflow.errors import ScrflowError
from scrflow.head import Head
from scrflow.kmeans import kmeans
from scrflow.losses import Targets, scene_coordinate_loss
from scrflow.progress import log, meter
from scrflow.sampledepth import SampleDepth, load_sample_depth
from scrflow.seeds import derived_seed, torch_generator


def train_head(
    config: TrainStage,
    shards: list[Path],
    out: Path,
    history: Path,
    checkpoint: Path,
    threads: int,
    graph: Path | None = None,
    encoding: Path | None = None,
    depth: Path | None = None,
    device: str | None = None,
) -> None:
    """Train, and write the head (fp16 safetensors) and its history (JSON lines).

    ``graph`` is needed where g is taken from neighbours, ``encoding`` where there is a g at all (HDF5 of
    ``encoding`` [images, D] by Node2Vec, or hloc's layout for a retrieval feature), ``depth`` for known depths and
    descriptor mixing. A ``checkpoint`` of the very same inputs and config is continued from, any other is discarded.
    Raises ScrflowError for missing or mismatched inputs, and when the loss is no longer finite.
    """
    torch.set_num_threads(threads)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    inputs = {f"shard{i}": read_stamp(p, "buffer").digest for i, p in enumerate(shards)}
    named = {"graph": graph, "encoding": encoding, "depth": depth}
    inputs |= {name: read_stamp(path).digest for name, path in named.items() if path is not None}
    stamp = Stamp.make("head", config, code_version("train"), **inputs)

    buffer = load_buffer(shards)
    samples = Samples.load(config, buffer, graph, encoding, depth).to(chosen)
    torch.manual_seed(derived_seed(config.seed, "train.init"))
    unit = output_unit(samples.known if config.training.loss.known_depth else None)
    centres = cluster_centres(buffer, config.head.clusters, config.seed)
    head = Head(samples.dim_in, config.head, centres, unit).to(chosen)
    log.info(
        "training on %s: %d samples of %d images, head of %.2f M parameters",
        chosen,
        len(buffer.view),
        len(buffer.names),
        sum(p.numel() for p in head.parameters()) / 1e6,
    )
    trainer = Trainer(config, head, samples, chosen)
    trainer.resume(checkpoint, stamp.digest)
    trainer.run(checkpoint, stamp.digest)

    state = {
        k: v.half() if v.is_floating_point() and k != "decoder.centres" else v for k, v in head.state_dict().items()
    }
    write_text(history, "".join(json.dumps(line) + "\n" for line in trainer.history))
    write_safetensors(out, state, stamp, {"dim_in": str(samples.dim_in), "output_unit": repr(unit)})
    checkpoint.unlink(missing_ok=True)


def output_unit(known: SampleDepth | None) -> float:
    """The length that the head's number 1 stands for: the median known depth, so that a fresh head speaks of distances
    of the scene's own size; 1 as in the papers where samples are not held to known depths."""
    if known is None:
        return 1.0
    return round(float(known.depth.nanmedian()), 3)


def cluster_centres(buffer: Buffer, clusters: int, seed: int) -> torch.Tensor:
    """k-means centres [K, 3] of the mapping cameras' positions (GLACE eq. 8); with one cluster their mean."""
    _, first = np.unique(buffer.image.numpy(), return_index=True)
    positions = buffer.centres()[torch.from_numpy(first)]
    return kmeans(positions, min(clusters, len(positions)), torch_generator(seed, "train.clusters")).float()


# ------------------------------------------------------------------------------------------------------------- samples


@dataclass(frozen=True)
class Samples:
    """What training draws from, on the training device."""

    descriptor: torch.Tensor  # [N, d] float16
    pixel: torch.Tensor  # [N, 2]
    view: torch.Tensor  # [N] int64
    image: torch.Tensor  # [V] int64
    K: torch.Tensor  # [V, 3, 3]
    cam_from_world: torch.Tensor  # [V, 3, 4]
    target_depth: float
    encoding: torch.Tensor | None = None  # [images, D], entries with mean square 1
    unit_noise: float = 0.0
    neighbours: torch.Tensor | None = None  # [images, M] int64: the image itself, its neighbours, padding
    neighbour_count: torch.Tensor | None = None  # [images] int64, the image itself counted
    neighbour_share: float = 0.0
    known: SampleDepth | None = None
    mix_share: float = 0.0

    @property
    def dim_in(self) -> int:
        return self.descriptor.shape[1] + (0 if self.encoding is None else self.encoding.shape[1])

    @classmethod
    def load(
        cls, config: TrainStage, buffer: Buffer, graph: Path | None, encoding: Path | None, depth: Path | None
    ) -> Samples:
        """Everything that the config asks for, checked against the buffer. ScrflowError for what is missing."""
        use = config.global_encoding
        samples = cls(
            buffer.descriptor,
            buffer.pixel,
            buffer.view,
            buffer.image,
            buffer.K.float(),
            buffer.cam_from_world.float(),
            config.target_depth,
        )
        if use.name is not None:
            if encoding is None:
                raise ScrflowError(f"the method's global encoding {use.name} was not given to training")
            g = read_global_encoding(encoding, buffer.names)
            samples = replace(samples, encoding=standardised(g), unit_noise=use.noise)
        if use.neighbour_share > 0:
            if graph is None:
                raise ScrflowError("global encodings of neighbours need the covisibility graph, which was not given")
            g = load_graph(graph)
            if tuple(g.names) != buffer.names:
                raise ScrflowError(f"{graph}: of other mapping images than the buffer; run again from the scene")
            count = np.diff(g.csr.indptr)
            table = np.tile(np.arange(len(count))[:, None], (1, 1 + (count.max() if len(count) else 0)))
            for i in range(len(count)):
                table[i, 1 : 1 + count[i]] = g.csr.indices[g.csr.indptr[i] : g.csr.indptr[i + 1]]
            samples = replace(
                samples,
                neighbours=torch.from_numpy(table).long(),
                neighbour_count=torch.from_numpy(count + 1).long(),
                neighbour_share=use.neighbour_share,
            )
        if config.training.needs_depth:
            if depth is None:
                raise ScrflowError("known_depth, pull_to and mix_share need the samples' depths, which were not given")
            known = load_sample_depth(depth, len(buffer.view))
            samples = replace(samples, known=known, mix_share=config.training.mix_share)
        return samples

    def to(self, device: torch.device) -> Samples:
        """All tensors on the device."""
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        if self.known is not None:
            moved["known"] = SampleDepth(*(v.to(device) for v in vars(self.known).values()))
        return replace(self, **moved)

    def batch(self, rows: torch.Tensor, generator: torch.Generator, with_depth: bool) -> tuple[torch.Tensor, Targets]:
        """Inputs [B, dim_in] and targets of the samples ``rows`` [B]; all chance comes from ``generator`` (CPU)."""
        device = self.view.device
        view = self.view[rows]
        K, pose = self.K[view], self.cam_from_world[view]
        descriptor = self.descriptor[rows].float()
        if self.mix_share > 0:
            width = self.known.matches.shape[1]
            column = torch.randint(0, width, (len(rows),), generator=generator).to(device)
            share = torch.rand(len(rows), 1, generator=generator).to(device)
            chosen = (torch.rand(len(rows), generator=generator) < self.mix_share).to(device)
            other = self.known.matches[rows, column]
            share = share * (chosen & (other >= 0))[:, None]
            descriptor = torch.lerp(descriptor, self.descriptor[other.clamp(min=0)].float(), share)
        x = descriptor
        if self.encoding is not None:
            x = torch.cat([self._global(self.image[view], generator), descriptor], 1)
        pixel = self.pixel[rows]
        focal = torch.stack([K[:, 0, 0], K[:, 1, 1]], 1)
        ray = torch.cat([(pixel - K[:, :2, 2]) / focal, torch.ones(len(rows), 1, device=device)], 1)
        R, t = pose[:, :, :3], pose[:, :, 3]
        target = (R.transpose(1, 2) @ (ray * self.target_depth - t)[:, :, None])[:, :, 0]
        targets = Targets(pixel, K, pose, target)
        if with_depth:
            targets = replace(targets, depth=self.known.depth[rows], relative_sigma=self.known.relative_sigma[rows])
        return x, targets

    def _global(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Encodings [B, D] of images [B], or of their neighbours (R-SCoRe), diffused (GLACE)."""
        device = image.device
        if self.neighbour_share > 0:
            draw = torch.rand(len(image), generator=generator).to(device)
            elsewhere = (torch.rand(len(image), generator=generator) < self.neighbour_share).to(device)
            # the first of the row is the image itself
            column = torch.where(elsewhere, (draw * self.neighbour_count[image]).long(), 0)
            image = self.neighbours[image, column]
        g = self.encoding[image]
        if self.unit_noise > 0:
            noise = torch.randn(g.shape, generator=generator).to(device)
            g = standardised(g / math.sqrt(g.shape[1]) + self.unit_noise * noise, per_row=True)
        return g


def standardised(encoding: torch.Tensor, per_row: bool = False) -> torch.Tensor:
    """Encodings [N, D] scaled so that an entry has a mean square of 1, over all rows or in each."""
    norm = torch.linalg.vector_norm(encoding, dim=1, keepdim=True)
    scale = norm if per_row else norm.pow(2).mean().sqrt()
    return encoding / scale.clamp(min=1e-12) * math.sqrt(encoding.shape[1])


def read_global_encoding(path: Path, names: tuple[str, ...]) -> torch.Tensor:
    """Encodings [images, D] in the order of ``names``, from Node2Vec's file or one in hloc's layout.

    Raises ScrflowError naming the first image that has none.
    """
    kind = read_stamp(path).kind
    with open_h5(path, kind) as f:
        if "encoding" in f and "names" in f:
            held = {n.decode() if isinstance(n, bytes) else n: i for i, n in enumerate(f["names"][:])}
            rows = f["encoding"][:]
            vectors = [rows[held[n]] if n in held else None for n in names]
        else:
            vectors = [f[n]["global_descriptor"][:] if n in f else None for n in names]
    for name, vector in zip(names, vectors, strict=True):
        if vector is None or not np.isfinite(vector).all():
            raise ScrflowError(f"{path}: no finite encoding of mapping image {name}; make the file again")
    return torch.from_numpy(np.stack(vectors)).float()


def read_centres(path: Path) -> torch.Tensor:
    """Centres [K, D] of the clusters that encodings of kind ``clusters`` are; ScrflowError where the file has none."""
    with open_h5(path, "global-encoding") as f:
        if "centres" not in f:
            raise ScrflowError(f"{path}: no cluster centres; delete it and run again")
        return torch.from_numpy(f["centres"][:]).float()


# ------------------------------------------------------------------------------------------------------------- trainer


class Stream:
    """Rows of a pool in shuffled passes; a new pass begins where one ends, within a batch if need be."""

    def __init__(self, pool: torch.Tensor, count: int):
        self.pool, self.count = pool, count
        self.order = torch.zeros(0, dtype=torch.long)
        self.position = 0

    def next(self, generator: torch.Generator) -> torch.Tensor:
        """The next ``count`` rows."""
        parts, missing = [], self.count
        while missing:
            if self.position == len(self.order):
                self.order = torch.randperm(len(self.pool), generator=generator)
                self.position = 0
            part = self.order[self.position : self.position + missing]
            self.position += len(part)
            missing -= len(part)
            parts.append(part)
        return self.pool[torch.cat(parts)]


class Trainer:
    """The loop. All chance comes from one CPU generator, whose state is in the checkpoint with all else."""

    def __init__(self, config: TrainStage, head: Head, samples: Samples, device: torch.device):
        self.config, self.head, self.samples, self.device = config, head, samples, device
        t = config.training
        self.optimizer = torch.optim.AdamW(head.parameters(), lr=t.lr_max, weight_decay=t.weight_decay, fused=True)
        self.generator = torch_generator(config.seed, "train.batch")
        self.streams = self._make_streams()
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.autocast = precision_of(t, device)

    def run(self, checkpoint: Path, digest: str) -> None:
        """Train from the current step to the last."""
        t = self.config.training
        began = time.monotonic() - self.seconds
        self.head.train()
        with meter("training", t.steps, self.step) as tick:
            while self.step < t.steps:
                loss, error = self._one_step()
                self.step += 1
                note = ""
                if self.step % t.log_every == 0 or self.step == t.steps:
                    self.seconds = time.monotonic() - began
                    note = self._record(float(loss), error)
                if self.step % t.checkpoint_every == 0 and self.step < t.steps:
                    self.seconds = time.monotonic() - began
                    self.save(checkpoint, digest)
                tick(note)

    def _one_step(self) -> tuple[torch.Tensor, torch.Tensor]:
        t = self.config.training
        rows = torch.cat([stream.next(self.generator) for stream in self.streams]).to(self.device)
        x, targets = self.samples.batch(rows, self.generator, with_depth=t.needs_depth)
        with torch.autocast(self.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            out = self.head(x)
        loss, projection = scene_coordinate_loss(
            out.xyz_world, out.coarse, targets, t.loss, self.step / t.steps, self.config.depth_bias, out.base
        )
        (loss / t.accumulate).backward()
        if (self.step + 1) % t.accumulate == 0 or self.step + 1 == t.steps:
            for group in self.optimizer.param_groups:
                group["lr"] = one_cycle(self.step / t.steps, t)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return loss.detach(), projection.error_px.detach()

    def _make_streams(self) -> list[Stream]:
        """One shuffled stream of all samples, or one of those with known depth and one of the others."""
        t, n = self.config.training, len(self.samples.view)
        if t.known_share is None or self.samples.known is None:
            return [Stream(torch.arange(n), t.batch_size)]
        known = torch.isfinite(self.samples.known.depth).cpu()
        pools = [torch.nonzero(known).flatten(), torch.nonzero(~known).flatten()]
        first = round(t.known_share * t.batch_size)
        # a pool that is empty leaves its share to the other
        counts = (
            [t.batch_size, 0]
            if not len(pools[1])
            else [0, t.batch_size]
            if not len(pools[0])
            else [first, t.batch_size - first]
        )
        return [Stream(pool, count) for pool, count in zip(pools, counts, strict=True) if count]

    def _record(self, loss: float, error_px: torch.Tensor) -> str:
        if not math.isfinite(loss):
            raise ScrflowError(f"training: the loss is {loss} at step {self.step}; lower training.lr_max")
        line = {
            "step": self.step,
            "loss": round(loss, 5),
            "median_error_px": round(float(error_px.median()), 4),
            "inlier_share": round(float((error_px < 10).float().mean()), 5),
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": round(self.seconds, 3),
        }
        self.history.append(line)
        return (
            f"loss {line['loss']:.2f}, median {line['median_error_px']:.1f} px, within 10 px {line['inlier_share']:.0%}"
        )

    # -- checkpoint

    def save(self, path: Path, digest: str) -> None:
        """Everything that the next step depends on."""
        state: dict[str, Any] = {
            "digest": digest,
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "streams": [(s.order, s.position) for s in self.streams],
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def resume(self, path: Path, digest: str) -> None:
        """Continue from a checkpoint of the same digest; without one, or with another's, begin anew."""
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            log.warning("%s: checkpoint cannot be read (%s): training begins anew", path, type(error).__name__)
            return
        if not isinstance(state, dict) or state.get("digest") != digest:
            log.warning("%s: checkpoint of another config or other inputs: training begins anew", path)
            return
        if self.config.training.accumulate > 1 and state["step"] % self.config.training.accumulate:
            log.warning("%s: checkpoint within an accumulated step: training begins anew", path)
            return
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        for stream, (order, position) in zip(self.streams, state["streams"], strict=True):
            stream.order, stream.position = order, position
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        log.info("training continues from step %d", self.step)


def one_cycle(progress: float, config: TrainingConfig) -> float:
    """Learning rate at ``progress`` in 0..1 (Smith and Topin 2017): a cosine from lr_start up to lr_max over the
    warm-up, then one down to lr_end, or to a thousandth of lr_start."""

    def cosine(start: float, end: float, t: float) -> float:
        return end + (start - end) * 0.5 * (1 + math.cos(math.pi * t))

    if progress < config.warmup:
        return cosine(config.lr_start, config.lr_max, progress / config.warmup)
    end = config.lr_start / 1000 if config.lr_end is None else config.lr_end
    return cosine(config.lr_max, end, (progress - config.warmup) / (1 - config.warmup))


def precision_of(config: TrainingConfig, device: torch.device) -> torch.dtype | None:
    """The autocast type, or None for float32.

    On a CPU float32, even where it has bf16: with the small head of rscore-cpu on redkitchen, bf16 saved a third of the
    training's 193 s, and gave 1.36 cm for 0.92 cm (1.20 cm with the last fifth of the steps in float32; 1.40 cm with
    the residual stream in float32).
    """
    if config.precision == "bf16":
        return torch.bfloat16
    cuda = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if config.precision == "auto" and cuda else None
