"""Columns of the buffer's rows on the training device: what a batch is gathered from."""

from __future__ import annotations

import math
import mmap
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scrflow.core.errors import ScrflowError
from scrflow.storage.artifact import open_h5
from scrflow.training.buffer import BufferFiles

_SCALE_ROWS = 1 << 18  # rows that the scales of int8 are taken from
_GATHER_ROWS = 1 << 13  # of a mapped file that are touched before its pages are given back


@dataclass(frozen=True)
class ColumnLayout:
    """Which columns there are and what a row of them weighs."""

    dim: int
    dtype: Literal["float16", "int8"]
    depth: bool
    matches: int  # 0: none are kept
    partner: bool = False  # instead of matches: the descriptor of one of them, drawn when the row is read

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, its place in the shuffled order included."""
        descriptor = self.dim * (1 if self.dtype == "int8" else 2)
        return (2 if self.partner else 1) * descriptor + 8 + 4 + (8 if self.depth else 0) + 4 * self.matches + 4

    def streamed(self) -> ColumnLayout:
        """The layout of rows that come block by block: a sample's matches are mostly in other blocks, so that a
        sample brings one of them along."""
        return replace(self, matches=0, partner=True) if self.matches else self


@dataclass(frozen=True)
class Columns:
    """``capacity`` rows, of which some may be unused. ``matches`` are positions in these columns, -1 for none."""

    descriptor: Tensor  # [n, d] float16 or int8
    pixel: Tensor  # [n, 2] float32
    view: Tensor  # [n] int32
    depth: Tensor | None  # [n] float32, NaN where unknown
    relative_sigma: Tensor | None  # [n] float32
    matches: Tensor | None  # [n, M] int32
    partner: Tensor | None  # [n, d] like descriptor; the row's own where nothing matches it
    scale: Tensor | None  # [d] float32, of int8

    @classmethod
    def empty(cls, capacity: int, layout: ColumnLayout, device: torch.device, scale: Tensor | None) -> Columns:
        """Columns to be filled by ``put``."""

        def new(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(capacity, *shape, dtype=dtype, device=device)

        known = new(dtype=torch.float32) if layout.depth else None
        descriptor = new(layout.dim, dtype=torch.int8 if layout.dtype == "int8" else torch.float16)
        return cls(
            descriptor,
            new(2, dtype=torch.float32),
            new(dtype=torch.int32),
            known,
            None if known is None else torch.empty_like(known),
            new(layout.matches, dtype=torch.int32) if layout.matches else None,
            torch.empty_like(descriptor) if layout.partner else None,
            None if scale is None else scale.to(device),
        )

    def put(self, start: int, rows: dict[str, Tensor]) -> None:
        """Write rows, as ``RowReader`` gives them, from position ``start`` on."""
        for name, values in rows.items():
            target = getattr(self, name)[start : start + len(values)]
            if name in ("descriptor", "partner") and self.scale is not None:
                values = (values.to(target.device).float() / self.scale).round_().clamp_(-127, 127)
            target.copy_(values, non_blocking=True)

    def descriptors(self, positions: Tensor) -> Tensor:
        """Descriptors [B, d] float32 at positions [B]."""
        return self._as_float(self.descriptor[positions])

    def matched(self, positions: Tensor, generator: torch.Generator) -> Tensor:
        """Descriptors [B, d] float32 of a match of each sample at ``positions`` [B], drawn among all its places for
        one: the sample's own descriptor where the place drawn is empty."""
        if self.partner is not None:
            return self._as_float(self.partner[positions])
        shape = (len(positions),)
        column = torch.randint(0, self.matches.shape[1], shape, generator=generator, device=positions.device)
        other = self.matches[positions, column].long()
        return self.descriptors(torch.where(other >= 0, other, positions))

    def _as_float(self, found: Tensor) -> Tensor:
        found = found.float()
        return found if self.scale is None else found * self.scale


class RowReader:
    """Reads rows of the shards' and the depth file's columns. For one thread."""

    def __init__(self, files: BufferFiles, depth: Path | None, layout: ColumnLayout):
        self._files, self._layout, self._depth_path = files, layout, depth
        self._shards: dict[int, _OpenColumns] = {}
        self._gathers: dict[int, _Gather] = {}
        self._depth: _OpenColumns | None = None

    def read(self, shard: int, start: int, stop: int) -> dict[str, Tensor]:
        """Rows start..stop of a shard, counted in the shard: columns on the CPU; ``matches`` are rows of the buffer."""
        if shard not in self._shards:
            self._shards[shard] = _OpenColumns(self._files.paths[shard], "buffer", ("descriptor", "pixel", "view"))
        rows = self._shards[shard].read(start, stop)
        rows["view"] = rows["view"].int() + self._files.first_view[shard]
        with_matches = self._layout.matches > 0 or self._layout.partner
        if self._layout.depth or with_matches:
            if self._depth is None:
                names = ("depth", "relative_sigma") if self._layout.depth else ()
                names += ("matches",) if with_matches else ()
                self._depth = _OpenColumns(self._depth_path, "sample-depth", names)
            first = self._files.first_row[shard]
            rows |= self._depth.read(first + start, first + stop)
        return rows

    def descriptors(self, rows: Tensor) -> Tensor:
        """Descriptors [n, d] float16 of any rows [n] of the buffer, wherever they are."""
        found = torch.empty(len(rows), self._layout.dim, dtype=torch.float16)
        shard = torch.searchsorted(torch.tensor(self._files.first_row), rows, right=True) - 1
        for number in torch.unique(shard).tolist():
            if number not in self._gathers:
                self._gathers[number] = _Gather(self._files.paths[number], "buffer", "descriptor")
            chosen = torch.nonzero(shard == number).flatten()
            found[chosen] = self._gathers[number].rows(rows[chosen] - self._files.first_row[number])
        return found

    def close(self) -> None:
        """Close the files."""
        for opened in (*self._shards.values(), *self._gathers.values(), self._depth):
            if opened is not None:
                opened.close()
        self._shards, self._gathers, self._depth = {}, {}, None


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


class _Gather:
    """Single rows of a column of an HDF5 file, in any order.

    The file is mapped, as a call for each row would cost more than the row; its pages are given back after each call,
    as they would count as memory of the training.
    """

    def __init__(self, path: Path, kind: str, name: str):
        with open_h5(path, kind) as f:
            column = f[name]
            self._offset, shape, dtype = column.id.get_offset(), column.shape, column.dtype
            if self._offset is None or dtype != np.float16:
                raise ScrflowError(f"{path}: {name} is not float16 in one piece; delete it and run again")
        with open(path, "rb") as f:
            self._map = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)  # torch takes none that is read-only
        if hasattr(mmap, "MADV_RANDOM"):
            self._map.madvise(mmap.MADV_RANDOM)
        if self._offset + 2 * math.prod(shape) > len(self._map):
            raise ScrflowError(f"{path}: ends within {name}; delete it and run again")
        self._column = torch.frombuffer(
            self._map, dtype=torch.float16, count=math.prod(shape), offset=self._offset
        ).view(shape)

    def rows(self, rows: Tensor) -> Tensor:
        """Rows [n, d] of the column at [n] int64."""
        order = torch.argsort(rows)
        found = torch.empty(len(rows), self._column.shape[1], dtype=torch.float16)
        for part in order.split(_GATHER_ROWS):
            found[part] = self._column.index_select(0, rows[part])
            if hasattr(mmap, "MADV_DONTNEED"):
                self._map.madvise(mmap.MADV_DONTNEED)
        return found

    def close(self) -> None:
        # the map goes with the last tensor on it
        del self._column, self._map


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
