"""Columns of the buffer's rows on the training device: what a batch is gathered from."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scrflow.artifacts import open_h5
from scrflow.buffer import BufferFiles
from scrflow.errors import ScrflowError

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

    def __init__(self, files: BufferFiles, depth: Path | None, layout: ColumnLayout):
        self._files, self._layout, self._depth_path = files, layout, depth
        self._shards: dict[int, _OpenColumns] = {}
        self._depth: _OpenColumns | None = None

    def read(self, shard: int, start: int, stop: int) -> dict[str, Tensor]:
        """Rows start..stop of a shard, counted in the shard: columns on the CPU; ``matches`` are rows of the buffer."""
        if shard not in self._shards:
            self._shards[shard] = _OpenColumns(self._files.paths[shard], "buffer", ("descriptor", "pixel", "view"))
        rows = self._shards[shard].read(start, stop)
        rows["view"] = rows["view"].int() + self._files.first_view[shard]
        if self._layout.depth or self._layout.matches:
            if self._depth is None:
                names = ("depth", "relative_sigma") if self._layout.depth else ()
                names += ("matches",) if self._layout.matches else ()
                self._depth = _OpenColumns(self._depth_path, "sample-depth", names)
            first = self._files.first_row[shard]
            rows |= self._depth.read(first + start, first + stop)
        return rows

    def close(self) -> None:
        """Close the files."""
        for opened in (*self._shards.values(), self._depth):
            if opened is not None:
                opened.close()
        self._shards, self._depth = {}, None


class _OpenColumns:
    """Some columns of an HDF5 file.

    A column that lies in one piece, as ours do, is read at its place in the file: through HDF5 a range of 32 rows
    of three columns took 35 us, so 19, and chunks are to be small.
    """

    def __init__(self, path: Path, kind: str, names: tuple[str, ...]):
        self._file = open_h5(path, kind)
        self._fd = os.open(path, os.O_RDONLY)
        self._path = path
        self._columns = {name: (self._file[name], self._file[name].id.get_offset()) for name in names}

    def read(self, start: int, stop: int) -> dict[str, Tensor]:
        """Rows start..stop of every column."""
        found = {}
        for name, (column, offset) in self._columns.items():
            if offset is None:
                found[name] = torch.from_numpy(column[start:stop])
                continue
            values = np.empty((stop - start, *column.shape[1:]), column.dtype)
            row = values.nbytes // max(1, stop - start)
            rest, place = memoryview(values).cast("B"), offset + start * row
            while len(rest):
                count = os.preadv(self._fd, [rest], place)
                if count == 0:
                    raise ScrflowError(f"{self._path}: ends within {name}; delete it and run again")
                rest, place = rest[count:], place + count
            found[name] = torch.from_numpy(values)
        return found

    def close(self) -> None:
        self._file.close()
        os.close(self._fd)


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
