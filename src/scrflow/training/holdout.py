"""Mapping images that are not trained on, what the head makes of them, and the early stop that follows from it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from scrflow.config import EarlyStopConfig, TrainStage
from scrflow.core.errors import ScrflowError
from scrflow.core.seeds import torch_generator
from scrflow.training.buffer import BufferFiles
from scrflow.training.columns import ColumnLayout, Columns, RowReader
from scrflow.training.head import Head
from scrflow.training.losses import project
from scrflow.training.samples import Samples

_SAMPLES = 8192  # of held-out images, that are looked at


def held_out_views(config: TrainStage, files: BufferFiles) -> Tensor | None:
    """Which views [V] bool are of held-out images: ``training.holdout`` of them, drawn by the seed; None for none."""
    images = len(files.names)
    count = round(config.training.holdout * images)
    if config.training.holdout == 0:
        return None
    if not 0 < count < images:
        raise ScrflowError(f"training.holdout {config.training.holdout} of {images} mapping images is {count} images")
    order = torch.randperm(images, generator=torch_generator(config.seed, "train.holdout"))
    held = torch.zeros(images, dtype=torch.bool)
    held[order[:count]] = True
    return held[files.image]


class HeldOut:
    """The held-out images' plain samples, and the head's error on them."""

    def __init__(self, config: TrainStage, files: BufferFiles, held: Tensor, samples: Samples, scale: Tensor | None):
        self._config, self._samples = config, samples
        device = samples.image.device
        layout = ColumnLayout(files.dim, config.training.buffer_dtype, depth=False, matches=0)
        reader = RowReader(files, None, layout)
        wanted = (held & files.plain).numpy()
        parts = []
        for shard in range(len(files.paths)):
            rows = files.first_row[shard + 1] - files.first_row[shard]
            if rows:
                parts += _runs_of(reader, shard, rows, wanted)
        reader.close()
        joined = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
        generator = torch_generator(config.seed, "train.holdout.samples")
        some = torch.randperm(len(joined["view"]), generator=generator)[:_SAMPLES].sort().values
        self._columns = Columns.empty(len(some), layout, device, scale)
        self._columns.put(0, {k: v[some] for k, v in joined.items()})

    @torch.no_grad()
    def median_error_px(self, head: Head) -> float:
        """Median reprojection error in pixels, each image with its own global encoding."""
        positions = torch.arange(len(self._columns.view), device=self._columns.view.device)
        x, targets = self._samples.batch(self._columns, positions, None, with_depth=False)
        head.eval()
        error = project(head(x).xyz_world, targets, self._config.training.loss).error_px
        head.train()
        return float(error.nanmedian())


def _runs_of(reader: RowReader, shard: int, rows: int, wanted: Any) -> list[dict[str, Tensor]]:
    """Rows of a shard whose views are wanted, read piece by piece."""
    parts, step = [], 1 << 16
    for start in range(0, rows, step):
        piece = reader.read(shard, start, min(start + step, rows))
        mask = torch.from_numpy(wanted[piece["view"].numpy()])
        parts.append({k: v[mask] for k, v in piece.items()})
    return parts


class EarlyStop:
    """Where training stands in its schedule, 0..1, when steps may be left out.

    The learning rate falls all along, and with it the error; so training is not cut off, but its remaining schedule is
    run through in fewer steps once the held-out error has stopped falling.
    """

    def __init__(self, config: EarlyStopConfig | None, steps: int):
        self._config, self.steps = config, steps
        self.errors: list[float] = []
        self.turned_at: int | None = None  # the step from which on the schedule is shortened

    def due(self, step: int) -> bool:
        """Whether to look at the held-out images after this many steps."""
        return self._config is not None and step % self._config.every == 0 and step < self.steps

    def look(self, step: int, error: float) -> None:
        """Note the error after ``step`` steps, and shorten what is left if it hardly fell."""
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
