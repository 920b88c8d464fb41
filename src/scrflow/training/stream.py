"""The order in which training draws the samples of a buffer, from seed and step alone.

A buffer that fits into the configured memory is one block, shuffled anew for each pass. A larger one is cut into chunks
of neighbouring rows; the chunks are shuffled, a block takes as many as half of the memory holds, its rows are shuffled,
and while training uses it a thread reads the next one into the other half. With ``training.gpus`` of n, every n-th
shard belongs to a shard group, and each group gives its share of every batch.
"""

import itertools
import math
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from scrflow.config import TrainingConfig
from scrflow.core.errors import ScrflowError
from scrflow.core.progress import log
from scrflow.core.seeds import derived_seed, torch_generator
from scrflow.training.buffer import Buffer, BufferFiles
from scrflow.training.samples import ColumnLayout, Columns, channel_scales

_CHUNKS_PER_BLOCK = 2048  # if chunks of _MIN_CHUNK rows allow it: so many places are mixed in a batch
_MIN_CHUNK, _MAX_CHUNK = 16, 4096
_READ_ROWS = 1 << 16  # read before they are copied to the device
_READERS = 4  # threads that read for a GPU; one where the CPU trains


Range = tuple[int, int, int]  # shard, and rows start..stop of it


@dataclass(frozen=True)
class BlockPlan:
    """How the chunks of a shard group are cut into blocks, pass after pass."""

    chunks: tuple[Range, ...]
    chunk_rows: int
    chunks_per_block: int
    blocks: int  # in a pass
    steps: int | None  # of training on a block; None: all
    seed: int
    group: int

    @classmethod
    def make(
        cls,
        buffer: Buffer | BufferFiles,
        shards: list[int],
        memory: int,
        layout: ColumnLayout,
        batch: int,
        seed: int,
        group: int,
    ) -> Self:
        """A plan for ``memory`` bytes and batches of ``batch`` rows. ScrflowError when the memory is too little."""
        count = [buffer.first_row[s + 1] - buffer.first_row[s] for s in shards]
        total, fits = sum(count), memory // layout.row_bytes
        if total <= fits:
            chunk_rows, chunks_per_block = max(count), len(shards)
        else:
            half = fits // 2
            chunk_rows = min(_MAX_CHUNK, max(_MIN_CHUNK, half // _CHUNKS_PER_BLOCK))
            chunks_per_block = half // chunk_rows
            if chunks_per_block < 2 or half < batch:
                raise ScrflowError(
                    f"training.buffer_memory of {memory} bytes holds {half} samples twice, less than a batch of "
                    f"{batch}; give it at least {2 * layout.row_bytes * max(batch, 2 * _MIN_CHUNK)} bytes"
                )
        chunks = tuple(
            (shard, start, min(start + chunk_rows, rows))
            for shard, rows in zip(shards, count, strict=True)
            for start in range(0, rows, chunk_rows)
        )
        blocks = math.ceil(len(chunks) / chunks_per_block)
        chunks_per_block = math.ceil(len(chunks) / blocks)
        steps = None if blocks == 1 else max(1, round(total / blocks / batch))
        return cls(chunks, chunk_rows, chunks_per_block, blocks, steps, seed, group)

    @property
    def capacity(self) -> int:
        """Positions of a block: every chunk has the place of a full one."""
        return self.chunk_rows * self.chunks_per_block

    def members(self, number: int) -> np.ndarray:
        """Chunks of a block, in the order of the disk."""
        of_pass, part = divmod(number, self.blocks)
        generator = torch_generator(self.seed, "train.chunks", self.group, of_pass)
        order = torch.randperm(len(self.chunks), generator=generator).numpy()
        return np.sort(np.array_split(order, self.blocks)[part])


@dataclass(frozen=True)
class Block:
    """Rows in memory, and pools of their positions: each gives a fixed number of positions to every batch."""

    number: int
    columns: Columns
    pools: tuple[tuple[Tensor, int], ...]


class Stream:
    """Blocks and positions of a shard group, step by step. ``held_out`` [V] bool are views that are not drawn."""

    def __init__(
        self,
        plan: BlockPlan,
        buffer: Buffer | BufferFiles,
        layout: ColumnLayout,
        config: TrainingConfig,
        device: torch.device,
        scale: Tensor | None,
        held_out: Tensor | None,
    ):
        self.plan, self._buffer, self._known_share = plan, buffer, config.known_share
        self._batch = config.batch_size // config.gpus
        self._device, self._held_out, self.layout = device, held_out, layout
        halves = 1 if plan.blocks == 1 else 2
        self._halves = [Columns.empty(plan.capacity, layout, device, scale) for _ in range(halves)]
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="buffer")
        self._readers = 1 if device.type == "cpu" else _READERS
        self._reading = ThreadPoolExecutor(self._readers, thread_name_prefix="reading")
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._block: Block | None = None
        self._next: tuple[int, Future[Block]] | None = None
        self._orders: dict[int, tuple[int, Tensor]] = {}
        self.waited_s = 0.0  # of training, for the disk

    def at(self, step: int, last: int) -> tuple[Block, Tensor]:
        """The block of a step and the positions [batch] int64 in it; the next one is read if ``last`` lies beyond."""
        number, in_block = (0, step) if self.plan.steps is None else divmod(step, self.plan.steps)
        if self._block is None or self._block.number != number:
            self._advance(number)
            if self.plan.steps is not None and (number + 1) * self.plan.steps < last:
                self._next = (number + 1, self._submit(number + 1))
        parts = [self._positions(i, pool, count, in_block) for i, (pool, count) in enumerate(self._block.pools)]
        return self._block, torch.cat(parts)

    def close(self) -> None:
        """End the reading threads."""
        self._pool.shutdown(cancel_futures=True)
        self._reading.shutdown(cancel_futures=True)

    def _positions(self, which: int, pool: Tensor, count: int, in_block: int) -> Tensor:
        """``count`` positions of a pool, which is passed through again and again, shuffled anew each time."""
        parts, begin, end = [], in_block * count, (in_block + 1) * count
        while begin < end:
            cycle, offset = divmod(begin, len(pool))
            part = self._order(which, pool, cycle)[offset : offset + end - begin]
            begin += len(part)
            parts.append(part)
        return torch.cat(parts).long()

    def _order(self, which: int, pool: Tensor, cycle: int) -> Tensor:
        held = self._orders.get(which)
        if held is None or held[0] != cycle:
            seed = derived_seed(self.plan.seed, "train.order", self.plan.group, self._block.number, which, cycle)
            generator = torch.Generator(self._device).manual_seed(seed)
            order = torch.randperm(len(pool), generator=generator, device=self._device, dtype=torch.int32)
            held = self._orders[which] = (cycle, pool[order])
        return held[1]

    def _advance(self, number: int) -> None:
        began = time.perf_counter()
        ahead = self._next is not None and self._next[0] == number
        self._block = (self._next[1] if ahead else self._submit(number)).result()
        self.waited_s += time.perf_counter() - began
        self._next, self._orders = None, {}

    def _submit(self, number: int) -> Future[Block]:
        ready = None
        if self._side is not None:
            # the device first ends what it still does with the half that is overwritten
            ready = torch.cuda.Event()
            ready.record(torch.cuda.current_stream(self._device))
        return self._pool.submit(self._load, number, ready)

    def _load(self, number: int, ready: torch.cuda.Event | None) -> Block:
        if self._side is None:
            return self._fill(number)
        with torch.cuda.device(self._device), torch.cuda.stream(self._side):
            self._side.wait_event(ready)
            block = self._fill(number)
            self._side.synchronize()
        return block

    def _fill(self, number: int) -> Block:
        """Read the chunks of a block, in runs of up to _READ_ROWS rows: threads read the next ones while one is copied
        to the device."""
        columns, runs = self._halves[number % len(self._halves)], self._runs(number)
        # all chance comes from the block's number, and its rows are always copied in the same order
        draw = torch_generator(self.plan.seed, "train.partner", self.plan.group, number)
        used = torch.zeros(self.plan.capacity, dtype=torch.bool)
        reads = (self._reading.submit(self._read, ranges) for _, ranges in runs)
        ahead = deque(itertools.islice(reads, self._readers))
        for begin, ranges in runs:
            ahead.extend(itertools.islice(reads, 1))
            rows, counts = ahead.popleft().result(), [stop - start for _, start, stop in ranges]
            if self.layout.matches:
                rows["matches"] = torch.cat([self._positions_of(part) for part in rows["matches"].split(counts)])
            if self.layout.partner:
                rows["partner"] = self._partners(rows.pop("matches"), rows["descriptor"], draw)
            columns.put(begin, rows)  # torch keeps pinned memory until the copy from it has ended
            used[begin : begin + sum(counts)] = True
        return Block(number, columns, self._pools(columns, used.to(self._device)))

    def _runs(self, number: int) -> list[tuple[int, list[Range]]]:
        """What is read and copied together: the first position of each, and ranges of rows that follow each other."""
        runs: list[tuple[int, list[Range]]] = []
        begin = end = 0
        for slot, index in enumerate(self.plan.members(number).tolist()):
            shard, first, last = self.plan.chunks[index]
            for start in range(first, last, _READ_ROWS):
                stop = min(start + _READ_ROWS, last)
                position = slot * self.plan.chunk_rows + start - first
                if not runs or position != end or position + stop - start - begin > _READ_ROWS:
                    runs.append((position, []))
                    begin = position
                runs[-1][1].append((shard, start, stop))
                end = position + stop - start
        return runs

    def _read(self, ranges: list[Range]) -> dict[str, Tensor]:
        if self._side is None:
            return self._buffer.read_ranges(ranges, self.layout.names)
        with torch.cuda.device(self._device):  # pinned memory is that of the thread's device
            return self._buffer.read_ranges(ranges, self.layout.names, pinned=True)

    def _positions_of(self, matches: Tensor) -> Tensor:
        """Positions [n, M] int32, in the only block, of matches [n, M] (rows of the buffer). A match in another shard
        group gives way to another match of the same sample; -1 if there is none."""
        first_row, slot_of = torch.tensor(self._buffer.first_row), torch.full((len(self._buffer.paths),), -1)
        slot_of[[shard for shard, _, _ in self.plan.chunks]] = torch.arange(len(self.plan.chunks))
        rows = matches.long()
        shard = torch.searchsorted(first_row, rows.clamp(min=0), right=True) - 1
        slot = slot_of[shard]
        there = (slot >= 0) & (rows >= 0)
        position = torch.where(there, slot * self.plan.chunk_rows + rows - first_row[shard], -1)
        if bool((there == (rows >= 0)).all()):
            return position.int()
        order = torch.argsort((~there).int(), dim=1, stable=True)
        position, count = position.gather(1, order), there.sum(1, keepdim=True)
        column = torch.arange(matches.shape[1]).expand_as(position)
        cycled = position.gather(1, column % count.clamp(min=1))
        return torch.where((column < (rows >= 0).sum(1, keepdim=True)) & (count > 0), cycled, -1).int()

    def _partners(self, matches: Tensor, own: Tensor, draw: torch.Generator) -> Tensor:
        """Descriptors [n, d] float16 of one of the matches [n, M] (rows of the buffer, -1: none) of each sample."""
        column = torch.randint(0, matches.shape[1], (len(matches), 1), generator=draw)
        other = matches.gather(1, column).flatten().long()
        there = torch.nonzero(other >= 0).flatten()
        return own.index_copy(0, there, self._buffer.descriptors(other[there]))

    def _pools(self, columns: Columns, used: Tensor) -> tuple[tuple[Tensor, int], ...]:
        """All used positions; or those of known depth and the others, each with its share of a batch."""
        if self._held_out is not None:
            used = used & ~self._held_out[columns.view.where(used, 0).long()]
        if self._known_share is None or columns.depth is None:
            pools = [(used, self._batch)]
        else:
            known = torch.isfinite(columns.depth)
            first = round(self._known_share * self._batch)
            pools = [(used & known, first), (used & ~known, self._batch - first)]
        found = [(torch.nonzero(mask).flatten().int(), count) for mask, count in pools]
        filled = [(pool, count) for pool, count in found if len(pool)]
        if not filled:
            raise ScrflowError(f"{self._buffer.paths[0]}: no samples to train on; lower training.holdout")
        if len(filled) == 1:  # an empty pool leaves its share to the other
            filled = [(filled[0][0], self._batch)]
        return tuple((pool, count) for pool, count in filled if count)


def open_streams(
    buffer: Buffer | BufferFiles,
    config: TrainingConfig,
    seed: int,
    groups: list[int],
    device: torch.device,
    held_out: Tensor | None = None,
) -> dict[int, Stream]:
    """A stream for each shard group; ScrflowError where shards are fewer, or ``buffer_memory`` is too little."""
    shards, gpus = len(buffer.paths), config.gpus
    if shards < gpus:
        raise ScrflowError(f"training.gpus is {gpus}, and the buffer has {shards} shards: set buffer_shards to {gpus}")
    batch, memory = config.batch_size // gpus, int(config.buffer_memory) // len(groups)
    layout = ColumnLayout.of(config, buffer, device)
    count = [buffer.first_row[s + 1] - buffer.first_row[s] for s in range(shards)]

    def fits(layout: ColumnLayout) -> bool:
        return max(sum(count[group::gpus]) for group in groups) * layout.row_bytes <= memory

    halved = replace(layout, dtype=torch.int8)
    if config.buffer_dtype == "auto" and not fits(layout) and fits(halved):
        log.info("training: the buffer fits into buffer_memory with descriptors of int8")
        layout = halved

    def plans(layout: ColumnLayout) -> dict[int, BlockPlan]:
        found = {}
        for group in groups:
            own = [s for s in range(group, shards, gpus) if buffer.first_row[s + 1] > buffer.first_row[s]]
            if not own:
                raise ScrflowError(f"{buffer.paths[group]}: no samples, and training.gpus is {gpus}; set it lower")
            found[group] = BlockPlan.make(buffer, own, memory, layout, batch, seed, group)
        return found

    planned = plans(layout)
    if layout != layout.streamed() and any(plan.blocks > 1 for plan in planned.values()):
        layout = layout.streamed()
        planned = plans(layout)
    scale = channel_scales(buffer) if layout.dtype is torch.int8 else None
    held_out = None if held_out is None else held_out.to(device)
    return {group: Stream(plan, buffer, layout, config, device, scale, held_out) for group, plan in planned.items()}
