"""Least, mean and greatest number of arrays that need not fit in memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.markup import escape

from scrflow.cli.inspection.layout import HEAD, number, short

CHUNK = 1 << 22  # numbers read at once
FULL = 1 << 27  # numbers up to which statistics are over all of an array; beyond, over evenly spaced slabs


@dataclass
class Range:
    """Running minimum, mean and maximum of finite numbers, and how many were not finite."""

    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0
    count: int = 0
    bad: int = 0
    sampled: bool = False

    def add(self, values: np.ndarray) -> None:
        """Take in numbers of any shape."""
        values = np.asarray(values, np.float64).ravel()
        finite = values[np.isfinite(values)]
        self.bad += len(values) - len(finite)
        if len(finite):
            self.low, self.high = min(self.low, finite.min()), max(self.high, finite.max())
            self.total, self.count = self.total + finite.sum(), self.count + len(finite)

    def merge(self, other: Range) -> None:
        """Take in another range."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.total, self.count, self.bad = self.total + other.total, self.count + other.count, self.bad + other.bad
        self.sampled |= other.sampled

    def cells(self) -> tuple[str, str, str, str]:
        """min, mean, max, and a remark."""
        remark = "; ".join(
            filter(None, [f"{self.bad} not finite" if self.bad else "", "of a sample" if self.sampled else ""])
        )
        if not self.count:
            return "", "", "", remark
        return number(self.low), number(self.total / self.count), number(self.high), remark


def range_of(shape: tuple[int, ...], read: Callable[[slice], np.ndarray]) -> Range:
    """Range of an array that ``read`` gives by slabs along its first axis."""
    found = Range()
    if math.prod(shape) == 0:
        return found
    if not shape:
        found.add(read(slice(None)))
        return found
    step = max(1, CHUNK // max(1, math.prod(shape[1:])))
    starts = range(0, shape[0], step)
    every = max(1, math.ceil(math.prod(shape) / FULL))
    found.sampled = every > 1
    for start in starts[::every]:
        found.add(read(slice(start, start + step)))
    return found


def is_numeric(dtype: np.dtype) -> bool:
    """Whether an array of this type has a range."""
    return np.dtype(dtype).kind in "biuf"


def contents(values: np.ndarray) -> str:
    """Head of an array of strings."""
    flat = [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values.ravel()[: HEAD + 1]]
    return escape(short(", ".join(flat[:HEAD]), 200)) + (" ..." if values.size > HEAD else "")


def slab(array: Any, part: slice) -> np.ndarray:
    """A part along the first axis, or the one value of a scalar."""
    return np.asarray(array[part] if array.ndim else array[()])
