"""Which rows of the buffer come when.

A buffer that fits into the memory that the config gives is one block, shuffled anew for each pass. A larger one is cut
into chunks of neighbouring rows; the chunks are shuffled, a block takes as many as half the memory holds, its rows are
shuffled, and while training uses it a thread reads the next one into the other half. Everything follows from seed and
step alone, so that a run goes on from any step, and how fast the disk is changes nothing.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scrflow.core.errors import ScrflowError
from scrflow.core.seeds import derived_seed, torch_generator
from scrflow.training.buffer import BufferFiles
from scrflow.training.columns import ColumnLayout, Columns, RowReader

_CHUNKS_A_BLOCK = 2048  # where chunks of _MIN_CHUNK rows allow it: so many places are mixed in a batch
_MIN_CHUNK, _MAX_CHUNK = 16, 4096
_READ_ROWS = 1 << 16  # read before they are handed to the device


@dataclass(frozen=True)
class Chunk:
    """Rows start..stop of a shard."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class BlockPlan:
    """How the chunks of a set of shards are cut into blocks, pass after pass."""

    chunks: tuple[Chunk, ...]
    chunk_rows: int
    a_block: int  # chunks
    blocks: int  # in a pass
    steps: int | None  # of training on a block; None: for ever
    seed: int
    lane: int

    @classmethod
    def make(
        cls, files: BufferFiles, shards: list[int], memory: int, layout: ColumnLayout, batch: int, seed: int, lane: int
    ) -> BlockPlan:
        """A plan for ``memory`` bytes and batches of ``batch`` rows. ScrflowError when the memory is too little."""
        count = [files.first_row[s + 1] - files.first_row[s] for s in shards]
        total, fits = sum(count), memory // layout.row_bytes
        if not total:
            raise ScrflowError(f"{files.paths[shards[0]]}: no samples; delete it and run again")
        if total <= fits:
            chunk_rows, a_block = max(count), len(shards)
        else:
            half = fits // 2
            chunk_rows = min(_MAX_CHUNK, max(_MIN_CHUNK, half // _CHUNKS_A_BLOCK))
            a_block = half // chunk_rows
            if a_block < 2 or half < batch:
                raise ScrflowError(
                    f"training.buffer_memory of {memory} bytes holds {half} samples twice, less than a batch of "
                    f"{batch}; give it at least {2 * layout.row_bytes * max(batch, 2 * _MIN_CHUNK)} bytes"
                )
        chunks = tuple(
            Chunk(shard, start, min(start + chunk_rows, rows))
            for shard, rows in zip(shards, count, strict=True)
            for start in range(0, rows, chunk_rows)
        )
        blocks = math.ceil(len(chunks) / a_block)
        a_block = math.ceil(len(chunks) / blocks)
        steps = None if blocks == 1 else max(1, round(total / blocks / batch))
        return cls(chunks, chunk_rows, a_block, blocks, steps, seed, lane)

    @property
    def capacity(self) -> int:
        """Positions of a block: every chunk has the place of a whole one."""
        return self.chunk_rows * self.a_block

    def bytes(self, layout: ColumnLayout) -> int:
        """What the block takes, or the two that take turns."""
        return self.capacity * layout.row_bytes * (1 if self.blocks == 1 else 2)

    def number(self, step: int) -> int:
        """The block that a step draws from."""
        return 0 if self.steps is None else step // self.steps

    def members(self, number: int) -> np.ndarray:
        """Chunks of a block, in the order of the disk."""
        of_pass, part = divmod(number, self.blocks)
        generator = torch_generator(self.seed, "train.chunks", self.lane, of_pass)
        order = torch.randperm(len(self.chunks), generator=generator).numpy()
        return np.sort(np.array_split(order, self.blocks)[part])


@dataclass(frozen=True)
class Block:
    """Rows in memory, and their pools: positions that a batch takes its share from, each with a count a batch."""

    number: int
    columns: Columns
    pools: tuple[tuple[Tensor, int], ...]


class Stream:
    """Blocks and positions of a lane (a set of shards with its share of each batch), step by step."""

    def __init__(
        self,
        plan: BlockPlan,
        files: BufferFiles,
        depth: Path | None,
        layout: ColumnLayout,
        batch: int,
        known_share: float | None,
        device: torch.device,
        scale: Tensor | None = None,
        held_out: Tensor | None = None,
    ):
        self.plan, self._files, self._batch, self._known_share = plan, files, batch, known_share
        self._device, self._held_out, self.layout = device, held_out, layout
        self._reader = RowReader(files, depth, layout)
        halves = 1 if plan.blocks == 1 else 2
        self._halves = [Columns.empty(plan.capacity, layout, device, scale) for _ in range(halves)]
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="buffer")
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._block: Block | None = None
        self._next: tuple[int, Future[Block]] | None = None
        self._orders: dict[int, tuple[int, Tensor]] = {}
        self.waited_s = 0.0  # that training stood still for the disk

    def at(self, step: int, last: int) -> tuple[Block, Tensor]:
        """The block of a step and the positions [batch] int64 in it; the block after it is read meanwhile, unless
        training ends (at step ``last``) before."""
        number = self.plan.number(step)
        if self._block is None or self._block.number != number:
            self._advance(number)
            if self.plan.steps is not None and (number + 1) * self.plan.steps < last:
                self._next = (number + 1, self._submit(number + 1))
        in_block = step if self.plan.steps is None else step % self.plan.steps
        parts = [self._positions(i, pool, count, in_block) for i, (pool, count) in enumerate(self._block.pools)]
        return self._block, torch.cat(parts)

    def close(self) -> None:
        """End the reading thread."""
        self._pool.shutdown(cancel_futures=True)
        self._reader.close()

    def _advance(self, number: int) -> None:
        began = time.perf_counter()
        if self._next is not None and self._next[0] == number:
            self._block = self._next[1].result()
            self.waited_s += time.perf_counter() - began
        else:
            if self._next is not None:
                self._next[1].result()
            self._block = self._submit(number).result()
        self._next = None
        self._orders = {}

    def _submit(self, number: int) -> Future[Block]:
        ready = None
        if self._side is not None:
            # what the device still does with the half that is to be overwritten comes first
            ready = torch.cuda.Event()
            ready.record(torch.cuda.current_stream(self._device))
        return self._pool.submit(self._load, number, ready)

    def _load(self, number: int, ready: torch.cuda.Event | None) -> Block:
        columns = self._halves[number % len(self._halves)]
        if self._side is None:
            return self._fill(number, columns)
        with torch.cuda.device(self._device), torch.cuda.stream(self._side):
            self._side.wait_event(ready)
            block = self._fill(number, columns)
            self._side.synchronize()
        return block

    def _fill(self, number: int, columns: Columns) -> Block:
        members, C = self.plan.members(number), self.plan.chunk_rows
        to_position = _Positions(self._files, self.plan, members) if columns.matches is not None else None
        # all chance comes from the block's number, and its rows are read in one order
        draw = torch_generator(self.plan.seed, "train.partner", self.plan.lane, number)
        held: list[tuple[int, list[dict[str, Tensor]]]] = []
        used = torch.zeros(self.plan.capacity, dtype=torch.bool)
        gathered = 0
        for slot, index in enumerate(members.tolist()):
            chunk = self.plan.chunks[index]
            for start in range(chunk.start, chunk.stop, _READ_ROWS):
                rows = self._reader.read(chunk.shard, start, min(start + _READ_ROWS, chunk.stop))
                if to_position is not None:
                    rows["matches"] = to_position(rows["matches"])
                position = slot * C + start - chunk.start
                count = len(rows["view"])
                used[position : position + count] = True
                if held and held[-1][0] + gathered == position and gathered + count <= _READ_ROWS:
                    held[-1][1].append(rows)
                    gathered += count
                else:
                    self._hand_over(columns, held, draw)
                    held, gathered = [(position, [rows])], count
        self._hand_over(columns, held, draw)
        return Block(number, columns, self._pools(columns, used.to(self._device)))

    def _hand_over(
        self, columns: Columns, held: list[tuple[int, list[dict[str, Tensor]]]], draw: torch.Generator
    ) -> None:
        for start, parts in held:
            joined = {k: torch.cat([p[k] for p in parts]) if len(parts) > 1 else parts[0][k] for k in parts[0]}
            if self.layout.partner:
                joined["partner"] = self._partners(joined.pop("matches"), joined["descriptor"], draw)
            if self._side is not None:
                joined = {k: v.pin_memory() for k, v in joined.items()}
            columns.put(start, joined)
            if self._side is not None:
                self._side.synchronize()  # the pinned memory is free to go after it

    def _partners(self, matches: Tensor, own: Tensor, draw: torch.Generator) -> Tensor:
        """Descriptors [n, d] float16 of one of the matches [n, M] (rows of the buffer, -1: none) of each sample."""
        column = torch.randint(0, matches.shape[1], (len(matches), 1), generator=draw)
        other = matches.gather(1, column).flatten().long()
        there = torch.nonzero(other >= 0).flatten()
        return own.index_copy(0, there, self._reader.descriptors(other[there]))

    def _pools(self, columns: Columns, used: Tensor) -> tuple[tuple[Tensor, int], ...]:
        """All used positions, or those of known depth and the others, each with its share of a batch."""
        if self._held_out is not None:
            used = used & ~self._held_out[columns.view.where(used, 0).long()]
        batch = self._batch
        if self._known_share is None or columns.depth is None:
            pools = [(used, batch)]
        else:
            known = torch.isfinite(columns.depth)
            first = round(self._known_share * batch)
            pools = [(used & known, first), (used & ~known, batch - first)]
        found = [(torch.nonzero(mask).flatten().int(), count) for mask, count in pools]
        filled = [(pool, count) for pool, count in found if len(pool)]
        if not filled:
            raise ScrflowError(f"{self._files.paths[0].parent}: no samples to train on; lower training.holdout")
        if len(filled) == 1:  # a pool that is empty leaves its share to the other
            filled = [(filled[0][0], batch)]
        return tuple((pool, count) for pool, count in filled if count)

    def _positions(self, which: int, pool: Tensor, count: int, in_block: int) -> Tensor:
        """``count`` positions of a pool, which is gone through again and again, shuffled anew each time."""
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
            seed = derived_seed(self.plan.seed, "train.order", self.plan.lane, self._block.number, which, cycle)
            generator = torch.Generator(self._device).manual_seed(seed)
            order = torch.randperm(len(pool), generator=generator, device=self._device, dtype=torch.int32)
            held = self._orders[which] = (cycle, pool[order])
        return held[1]


class _Positions:
    """From rows of the buffer to positions in a block of chunks."""

    def __init__(self, files: BufferFiles, plan: BlockPlan, members: np.ndarray):
        self._rows = torch.tensor(files.first_row)
        self._chunk_rows = plan.chunk_rows
        slots = torch.full((len(plan.chunks) + 1,), -1)
        slots[torch.from_numpy(members)] = torch.arange(len(members))
        self._slots = slots  # the last one stands for what is in no shard of this plan
        first = torch.full((len(files.paths),), -1)
        for index in range(len(plan.chunks) - 1, -1, -1):
            first[plan.chunks[index].shard] = index
        self._first_chunk = first

    def __call__(self, matches: Tensor) -> Tensor:
        """Positions [n, M] int32 of matches [n, M]. Those of other processes' shards give way to others of the same
        sample; -1 where there is none."""
        rows = matches.long()
        shard = torch.searchsorted(self._rows, rows.clamp(min=0), right=True) - 1
        offset = rows - self._rows[shard]
        first = self._first_chunk[shard]
        chunk = torch.where((first >= 0) & (rows >= 0), first + offset // self._chunk_rows, len(self._slots) - 1)
        slot = self._slots[chunk]
        position = torch.where(slot >= 0, slot * self._chunk_rows + offset % self._chunk_rows, -1)
        there = position >= 0
        if bool((there == (rows >= 0)).all()):
            return position.int()
        order = torch.argsort((~there).int(), dim=1, stable=True)
        position, count = position.gather(1, order), there.sum(1, keepdim=True)
        column = torch.arange(matches.shape[1]).expand_as(position)
        cycled = position.gather(1, column % count.clamp(min=1))
        return torch.where((column < (rows >= 0).sum(1, keepdim=True)) & (count > 0), cycled, -1).int()
