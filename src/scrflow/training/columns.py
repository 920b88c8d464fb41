"""Columns of the buffer's rows on the training device: what a batch is gathered from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scrflow.artifacts import open_h5
from scrflow.buffer import BufferFiles

_SCALE_ROWS = 1 << 18  # rows that the scales of int8 are taken from


@dataclass(frozen=True)
class ColumnLayout:
    """Which columns there are and what a row of them weighs."""

    dim: int
    dtype: Literal["float16", "int8"]
    depth: bool
    matches: int  # 0: none are kept

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, its place in the shuffled order included."""
        return self.dim * (1 if self.dtype == "int8" else 2) + 8 + 4 + (8 if self.depth else 0) + 4 * self.matches + 4


@dataclass(frozen=True)
class Columns:
    """``capacity`` rows, of which some may be unused. ``matches`` are positions in these columns, -1 for none."""

    descriptor: Tensor  # [n, d] float16 or int8
    pixel: Tensor  # [n, 2] float32
    view: Tensor  # [n] int32
    depth: Tensor | None  # [n] float32, NaN where unknown
    relative_sigma: Tensor | None  # [n] float32
    matches: Tensor | None  # [n, M] int32
    scale: Tensor | None  # [d] float32, of int8

    @classmethod
    def empty(cls, capacity: int, layout: ColumnLayout, device: torch.device, scale: Tensor | None) -> Columns:
        """Columns to be filled by ``put``."""

        def new(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(capacity, *shape, dtype=dtype, device=device)

        known = new(dtype=torch.float32) if layout.depth else None
        return cls(
            new(layout.dim, dtype=torch.int8 if layout.dtype == "int8" else torch.float16),
            new(2, dtype=torch.float32),
            new(dtype=torch.int32),
            known,
            None if known is None else torch.empty_like(known),
            new(layout.matches, dtype=torch.int32) if layout.matches else None,
            None if scale is None else scale.to(device),
        )

    def put(self, start: int, rows: dict[str, Tensor]) -> None:
        """Write rows, as ``RowReader`` gives them, from position ``start`` on."""
        for name, values in rows.items():
            target = getattr(self, name)[start : start + len(values)]
            if name == "descriptor" and self.scale is not None:
                values = (values.to(target.device).float() / self.scale).round_().clamp_(-127, 127)
            target.copy_(values, non_blocking=True)

    def descriptors(self, positions: Tensor) -> Tensor:
        """Descriptors [B, d] float32 at positions [B]."""
        found = self.descriptor[positions].float()
        return found if self.scale is None else found * self.scale


class RowReader:
    """Reads ranges of rows of the shards' and the depth file's columns. For one thread."""

    def __init__(self, files: BufferFiles, depth: object | None, layout: ColumnLayout):
        self._files, self._layout = files, layout
        self._shards = {}
        self._depth_path, self._depth = depth, None

    def read(self, shard: int, start: int, stop: int) -> dict[str, Tensor]:
        """Rows start..stop of a shard, counted in the shard: columns on the CPU; ``matches`` are rows of the buffer."""
        if shard not in self._shards:
            self._shards[shard] = open_h5(self._files.paths[shard], "buffer")
        f = self._shards[shard]
        rows = {
            "descriptor": torch.from_numpy(f["descriptor"][start:stop]),
            "pixel": torch.from_numpy(f["pixel"][start:stop]),
            "view": torch.from_numpy(f["view"][start:stop].astype(np.int32) + self._files.first_view[shard]),
        }
        if self._layout.depth or self._layout.matches:
            if self._depth is None:
                self._depth = open_h5(self._depth_path, "sample-depth")
            a, b = (self._files.first_row[shard] + r for r in (start, stop))
            if self._layout.depth:
                rows |= {k: torch.from_numpy(self._depth[k][a:b]) for k in ("depth", "relative_sigma")}
            if self._layout.matches:
                rows["matches"] = torch.from_numpy(self._depth["matches"][a:b])
        return rows

    def close(self) -> None:
        """Close the files."""
        for f in (*self._shards.values(), self._depth):
            if f is not None:
                f.close()
        self._shards, self._depth = {}, None


def channel_scales(files: BufferFiles) -> Tensor:
    """Scales [d] of int8 descriptors: the largest magnitude of each channel over 127, of evenly spread rows of the
    whole buffer, so that every process finds the same. What is beyond is clipped."""
    step = max(1, math.ceil(files.rows / _SCALE_ROWS))
    largest = torch.full((files.dim,), 1e-6)
    for shard, path in enumerate(files.paths):
        count = files.first_row[shard + 1] - files.first_row[shard]
        if not count:
            continue
        with open_h5(path, "buffer") as f:
            # runs of rows, not single ones: a hyperslab with a stride is slow
            run = min(count, 1024)
            for start in range(0, count, run * step):
                part = torch.from_numpy(f["descriptor"][start : start + run]).float()
                largest = torch.maximum(largest, part.abs().amax(0))
    return largest / 127
