"""From positions in a block to inputs and targets of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scrflow.config import TrainStage
from scrflow.core.errors import ScrflowError
from scrflow.features.global_encoding import read_global_encoding, standardised
from scrflow.graph.covisibility import load_graph
from scrflow.training.buffer import BufferFiles
from scrflow.training.columns import Columns
from scrflow.training.losses import Targets


@dataclass(frozen=True)
class Samples:
    """The tables of views and images, on the training device, that samples are completed from."""

    dim_local: int
    image: Tensor  # [V] int64
    K: Tensor  # [V, 3, 3]
    cam_from_world: Tensor  # [V, 3, 4]
    target_depth: float
    encoding: Tensor | None = None  # [images, D], entries with mean square 1
    unit_noise: float = 0.0
    neighbours: Tensor | None = None  # [images, M] int64: the image itself, its neighbours, padding
    neighbour_count: Tensor | None = None  # [images] int64, the image itself counted
    neighbour_share: float = 0.0
    mix_share: float = 0.0

    @property
    def dim_in(self) -> int:
        return self.dim_local + (0 if self.encoding is None else self.encoding.shape[1])

    @classmethod
    def load(cls, config: TrainStage, files: BufferFiles, graph: Path | None, encoding: Path | None) -> Samples:
        """Everything that the config asks for, checked against the buffer. ScrflowError for what is missing."""
        use = config.global_encoding
        samples = cls(
            files.dim,
            files.image,
            files.K.float(),
            files.cam_from_world.float(),
            config.target_depth,
            mix_share=config.training.mix_share,
        )
        if use.name is not None:
            if encoding is None:
                raise ScrflowError(f"the method's global encoding {use.name} was not given to training")
            g = read_global_encoding(encoding, files.names)
            samples = replace(samples, encoding=standardised(g), unit_noise=use.noise)
        if use.neighbour_share > 0:
            if graph is None:
                raise ScrflowError("global encodings of neighbours need the covisibility graph, which was not given")
            g = load_graph(graph)
            if tuple(g.names) != files.names:
                raise ScrflowError(f"{graph}: of other mapping images than the buffer; run again from the scene")
            count = np.diff(g.csr.indptr)
            table = np.tile(np.arange(len(count))[:, None], (1, 1 + (count.max() if len(count) else 0)))
            filled = np.arange(table.shape[1] - 1)[None] < count[:, None]
            table[:, 1:][filled] = g.csr.indices
            samples = replace(
                samples,
                neighbours=torch.from_numpy(table).long(),
                neighbour_count=torch.from_numpy(count + 1).long(),
                neighbour_share=use.neighbour_share,
            )
        return samples

    def to(self, device: torch.device) -> Samples:
        """All tensors on the device."""
        return replace(self, **{k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)})

    def batch(
        self, columns: Columns, positions: Tensor, generator: torch.Generator | None, with_depth: bool
    ) -> tuple[Tensor, Targets]:
        """Inputs [B, dim_in] and targets of the samples at ``positions`` [B]; all chance comes from ``generator``, of
        the same device. Without one nothing is varied: own encodings, no noise, no mixing."""
        device, count = positions.device, len(positions)
        view = columns.view[positions].long()
        K, pose = self.K[view], self.cam_from_world[view]
        descriptor = columns.descriptors(positions)
        if self.mix_share > 0 and generator is not None:
            other = columns.matched(positions, generator)
            share = torch.rand(count, 1, generator=generator, device=device)
            chosen = torch.rand(count, generator=generator, device=device) < self.mix_share
            descriptor = torch.lerp(descriptor, other, share * chosen[:, None])
        x = descriptor
        if self.encoding is not None:
            x = torch.cat([self._global(self.image[view], generator), descriptor], 1)
        pixel = columns.pixel[positions]
        focal = torch.stack([K[:, 0, 0], K[:, 1, 1]], 1)
        ray = torch.cat([(pixel - K[:, :2, 2]) / focal, torch.ones(count, 1, device=device)], 1)
        R, t = pose[:, :, :3], pose[:, :, 3]
        target = (R * (ray * self.target_depth - t)[:, :, None]).sum(1)
        targets = Targets(pixel, K, pose, target)
        if with_depth:
            targets = replace(targets, depth=columns.depth[positions], relative_sigma=columns.relative_sigma[positions])
        return x, targets

    def _global(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """Encodings [B, D] of images [B], or of their neighbours (R-SCoRe), diffused (GLACE)."""
        if generator is None:
            return self.encoding[image]
        device, count = image.device, len(image)
        if self.neighbour_share > 0:
            draw = torch.rand(count, generator=generator, device=device)
            elsewhere = torch.rand(count, generator=generator, device=device) < self.neighbour_share
            # the first of the row is the image itself
            column = torch.where(elsewhere, (draw * self.neighbour_count[image]).long(), 0)
            image = self.neighbours[image, column]
        g = self.encoding[image]
        if self.unit_noise > 0:
            noise = torch.randn(g.shape, generator=generator, device=device)
            g = standardised(g / math.sqrt(g.shape[1]) + self.unit_noise * noise, per_row=True)
        return g
