"""What a head is trained on: samples with what is looked up for each, and the inputs and targets of a batch of them."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import scipy.sparse
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from scrflow.config import TrainingConfig, TrainStage
from scrflow.core.errors import ScrflowError
from scrflow.core.seeds import torch_generator
from scrflow.features.global_encoding import kmeans, read_global_encoding, standardised, unit_length
from scrflow.graph.covisibility import load_graph
from scrflow.training.buffer import COLUMNS, Buffer, BufferFiles, pieces
from scrflow.training.losses import Targets

_SCALE_ROWS = 1 << 18  # rows that the scales of int8 are taken from


@dataclass(frozen=True)
class ColumnLayout:
    """Which columns of the samples are held on the training device."""

    dim: int
    dtype: torch.dtype  # of descriptors: float16 or int8
    depth: bool
    matches: int  # 0: none are kept
    partner: bool = False  # instead of matches: the descriptor of one of them, drawn when the row is read
    order_bytes: int = 4  # a row's places in the pool and in the shuffled order

    @classmethod
    def of(cls, config: TrainingConfig, buffer: Buffer | BufferFiles, device: torch.device | None = None) -> Self:
        """The columns that the config needs; ScrflowError where the samples' depths are missing."""
        if config.needs_depth and buffer.depth is None:
            raise ScrflowError(
                "known_depth, pull_to and mix_share need the samples' depths, which were not given; give training the "
                "file of depths, or switch them off in the method"
            )
        matches = buffer.match_count if config.mix_share > 0 else 0
        dtype = torch.int8 if config.buffer_dtype == "int8" else torch.float16
        order_bytes = 8 if device is not None and device.type == "cuda" else 4
        return cls(buffer.dim, dtype, config.needs_depth, matches, order_bytes=order_bytes)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, including its place in the shuffled order."""
        descriptors = (2 if self.partner else 1) * self.dim * self.dtype.itemsize
        return descriptors + 8 + 4 + (8 if self.depth else 0) + 4 * self.matches + self.order_bytes

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the buffer that are read."""
        depth = ("depth", "relative_sigma") if self.depth else ()
        return (*COLUMNS, *depth, *(("matches",) if self.matches or self.partner else ()))

    def streamed(self) -> Self:
        """The layout of rows that come in blocks, each with the descriptor of one match: most are in other blocks."""
        return replace(self, matches=0, partner=True) if self.matches else self


@dataclass(frozen=True)
class Columns:
    """Rows of samples on the training device. ``matches`` are positions in these columns, -1 for none."""

    descriptor: Tensor  # [n, d] float16 or int8
    pixel: Tensor  # [n, 2] float32
    view: Tensor  # [n] int32
    depth: Tensor | None  # [n] float32, NaN where unknown
    relative_sigma: Tensor | None  # [n] float32
    matches: Tensor | None  # [n, M] int32
    partner: Tensor | None  # [n, d] like descriptor; the row's own where it has no match
    scale: Tensor | None  # [d] float32, of int8

    @classmethod
    def empty(cls, capacity: int, layout: ColumnLayout, device: torch.device, scale: Tensor | None) -> Self:
        """Columns to be filled by ``put``."""

        def new(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(capacity, *shape, dtype=dtype, device=device)

        return cls(
            descriptor=new(layout.dim, dtype=layout.dtype),
            pixel=new(2, dtype=torch.float32),
            view=new(dtype=torch.int32),
            depth=new(dtype=torch.float32) if layout.depth else None,
            relative_sigma=new(dtype=torch.float32) if layout.depth else None,
            matches=new(layout.matches, dtype=torch.int32) if layout.matches else None,
            partner=new(layout.dim, dtype=layout.dtype) if layout.partner else None,
            scale=None if scale is None else scale.to(device),
        )

    def put(self, start: int, rows: dict[str, Tensor]) -> None:
        """Write rows, as ``Buffer.read`` gives them, from position ``start`` on."""
        for name, values in rows.items():
            target = getattr(self, name)[start : start + len(values)]
            if name in ("descriptor", "partner") and self.scale is not None:
                values = (values.to(target.device, non_blocking=True).float() / self.scale).round_().clamp_(-127, 127)
            target.copy_(values, non_blocking=True)

    def descriptors(self, positions: Tensor) -> Tensor:
        """Descriptors [B, d] float32 at positions [B]."""
        return self._as_float(self.descriptor[positions])

    def matched(self, positions: Tensor, generator: torch.Generator) -> Tensor:
        """Descriptors [B, d] float32 of a drawn match of each sample; its own where the drawn place is empty."""
        if self.partner is not None:
            return self._as_float(self.partner[positions])
        shape = (len(positions),)
        column = torch.randint(0, self.matches.shape[1], shape, generator=generator, device=positions.device)
        other = self.matches[positions, column].long()
        return self.descriptors(torch.where(other >= 0, other, positions))

    def _as_float(self, found: Tensor) -> Tensor:
        found = found.float()
        return found if self.scale is None else found * self.scale


def channel_scales(buffer: Buffer | BufferFiles) -> Tensor:
    """Scales [d] of int8 descriptors: each channel's largest magnitude in evenly spread rows, over 127."""
    step = max(1, math.ceil(buffer.rows / _SCALE_ROWS))
    largest = torch.full((buffer.dim,), 1e-6)
    for rows in pieces(buffer, 1024, step):  # single rows would be read one by one
        largest = torch.maximum(largest, rows["descriptor"].float().abs().amax(0))
    return largest / 127


@dataclass(frozen=True)
class Samples:
    """The samples of a scene, and the tables of views and images that a batch is completed from."""

    buffer: Buffer | BufferFiles
    image: Tensor  # [V] int64
    K: Tensor  # [V, 3, 3] float32
    cam_from_world: Tensor  # [V, 3, 4] float32
    target_depth: float
    encoding: Tensor | None = None  # [images, D] global encodings
    scaled: bool = True  # an entry of them has a mean square of 1, diffused or not; else diffused ones have unit length
    noise: float = 0.0  # GLACE's diffusion: standard deviation over the length of an encoding
    neighbours: Tensor | None = None  # [images, M] int64: the image itself, its neighbours, padding
    neighbour_count: Tensor | None = None  # [images] int64, including the image itself
    neighbour_share: float = 0.0  # of samples whose encoding is a neighbour's (R-SCoRe)

    @classmethod
    def of(
        cls,
        buffer: Buffer | BufferFiles,
        encoding: Tensor | None = None,
        graph: scipy.sparse.csr_array | None = None,
        target_depth: float = 10.0,
        noise: float = 0.0,
        neighbour_share: float = 0.0,
        scaled: bool = True,
    ) -> Self:
        """Samples of a buffer with global encodings [images, D], and the covisibility graph of the images."""
        if encoding is not None and scaled:
            encoding = standardised(encoding)
        views = buffer.image, buffer.K.float(), buffer.cam_from_world.float()
        samples = cls(buffer, *views, target_depth, encoding, scaled, noise)
        if neighbour_share == 0:
            return samples
        count = np.diff(graph.indptr)
        table = np.tile(np.arange(len(count))[:, None], (1, 1 + count.max()))
        table[:, 1:][np.arange(count.max()) < count[:, None]] = graph.indices
        neighbours, counts = torch.from_numpy(table).long(), torch.from_numpy(count + 1).long()
        return replace(samples, neighbours=neighbours, neighbour_count=counts, neighbour_share=neighbour_share)

    @classmethod
    def from_arrays(
        cls,
        descriptor: ArrayLike,
        pixel: ArrayLike,
        view: ArrayLike,
        K: ArrayLike,
        cam_from_world: ArrayLike,
        *,
        image: ArrayLike | None = None,
        depth: ArrayLike | None = None,
        relative_sigma: ArrayLike | None = None,
        matches: ArrayLike | None = None,
        encoding: ArrayLike | None = None,
        graph: scipy.sparse.csr_array | None = None,
        **settings: float,
    ) -> Self:
        """Samples of arrays or tensors.

        ``descriptor`` [N, d], ``pixel`` [N, 2] without lens distortion (centre of the top-left pixel at (0.5, 0.5)),
        and ``view`` [N], the row of ``K`` [V, 3, 3] and ``cam_from_world`` [V, 3, 4]. ``image`` [V] names the image of
        each view, if an image has several; ``depth`` [N] is NaN where unknown; ``matches`` [N, M] are rows of samples
        of the same point, -1 for none; ``encoding`` [images, D]. ``settings`` are ``target_depth``, ``noise``,
        ``neighbour_share`` and ``scaled`` of ``Samples``.
        """

        def tensor(values: ArrayLike | None, dtype: torch.dtype) -> Tensor | None:
            return None if values is None else torch.as_tensor(values).to("cpu", dtype)

        views = len(torch.as_tensor(K))
        image = torch.arange(views) if image is None else tensor(image, torch.int64)
        if depth is not None or matches is not None:
            count = len(torch.as_tensor(view))
            depth = torch.full((count,), torch.nan) if depth is None else depth
            # the loss has a least sigma
            relative_sigma = torch.zeros(count) if relative_sigma is None else relative_sigma
            matches = torch.full((count, 1), -1) if matches is None else matches
        buffer = Buffer(
            descriptor=tensor(descriptor, torch.float16),
            pixel=tensor(pixel, torch.float32),
            view=tensor(view, torch.int64),
            depth=tensor(depth, torch.float32),
            relative_sigma=tensor(relative_sigma, torch.float32),
            matches=tensor(matches, torch.int64),
            image=image,
            plain=torch.ones(views, dtype=torch.bool),
            K=tensor(K, torch.float64),
            cam_from_world=tensor(cam_from_world, torch.float64),
            names=tuple(map(str, range(int(image.max()) + 1))),
        )
        return cls.of(buffer, tensor(encoding, torch.float32), graph, **settings)

    @classmethod
    def open(
        cls, config: TrainStage, shards: list[Path], graph: Path | None, encoding: Path | None, depth: Path | None
    ) -> Self:
        """Samples of a run's files. ScrflowError where the config needs one that is missing or of other images."""
        buffer, use = BufferFiles.open(shards, depth), config.global_encoding
        g = csr = None
        if use.name is not None:
            if encoding is None:
                raise ScrflowError(f"the method's global encoding {use.name} was not given to training; give its file")
            g = read_global_encoding(encoding, buffer.names)
        if use.neighbour_share > 0:
            if graph is None:
                raise ScrflowError(
                    "global encodings of neighbours need the covisibility graph; give its file to training"
                )
            csr = load_graph(graph, buffer.names).csr
        return cls.of(buffer, g, csr, config.target_depth, use.noise, use.neighbour_share, use.scale)

    @property
    def dim_in(self) -> int:
        """Length of the head's input: global, then local encoding."""
        return self.buffer.dim + (0 if self.encoding is None else self.encoding.shape[1])

    def cluster_centres(self, clusters: int, seed: int = 0) -> Tensor:
        """k-means centres [K, 3] of the mapping cameras' positions (GLACE eq. 8); with one cluster their mean."""
        image = self.buffer.image
        order = torch.argsort(image, stable=True)
        first = order[torch.searchsorted(image[order], torch.arange(len(self.buffer.names)))]
        positions = self.buffer.centres()[first]
        return kmeans(positions, min(clusters, len(positions)), torch_generator(seed, "train.clusters")).float()

    def to(self, device: torch.device) -> Self:
        """The tables on the device."""
        return replace(self, **{k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)})

    def batch(
        self, columns: Columns, positions: Tensor, generator: torch.Generator | None, mix_share: float = 0.0
    ) -> tuple[Tensor, Targets]:
        """Inputs [B, dim_in] and targets of the samples at ``positions`` [B]. All chance comes from ``generator``, of
        the same device; without one each sample has its own global encoding, without noise, and its own descriptor."""
        device, count = positions.device, len(positions)
        view = columns.view[positions].long()
        K, pose = self.K[view], self.cam_from_world[view]
        x = columns.descriptors(positions)
        if mix_share > 0 and generator is not None:
            other = columns.matched(positions, generator)
            share = torch.rand(count, 1, generator=generator, device=device)
            chosen = torch.rand(count, generator=generator, device=device) < mix_share
            x = torch.lerp(x, other, share * chosen[:, None])
        if self.encoding is not None:
            x = torch.cat([self._global(self.image[view], generator), x], 1)
        pixel = columns.pixel[positions]
        focal = torch.stack([K[:, 0, 0], K[:, 1, 1]], 1)
        ray = torch.cat([(pixel - K[:, :2, 2]) / focal, torch.ones(count, 1, device=device)], 1)
        R, t = pose[:, :, :3], pose[:, :, 3]
        target = (R * (ray * self.target_depth - t)[:, :, None]).sum(1)
        targets = Targets(pixel, K, pose, target)
        if columns.depth is not None:
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
            # column 0 of the table is the image itself
            column = torch.where(elsewhere, (draw * self.neighbour_count[image]).long(), 0)
            image = self.neighbours[image, column]
        g = self.encoding[image]
        if self.noise > 0:
            noise = torch.randn(g.shape, generator=generator, device=device)
            if self.scaled:
                g = standardised(g / math.sqrt(g.shape[1]) + self.noise * noise, per_row=True)
            else:
                g = unit_length(g + self.noise * noise)
        return g
