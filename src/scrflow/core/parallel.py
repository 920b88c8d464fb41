"""Process many photos (or pairs) in parallel, one thread each, so that results do not depend on the number of threads.

Small networks gain little from several threads on one photo: each operator takes a fraction of a millisecond.
"""

import collections
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2  # items a thread that may be started before the oldest is returned: bounds the memory


def mapped(function: Callable[[T], R], items: Iterable[T], threads: int, side_by_side: bool = True) -> Iterator[R]:
    """``function`` of each item, in order, ``threads`` items at a time; each uses one thread of torch. An error is
    raised in place of its result, and later items are dropped. Without ``side_by_side`` (for functions that take much
    memory or are not thread-safe) items are processed one by one, each with all threads of torch."""
    if not side_by_side:
        yield from map(function, items)
        return
    with one_thread_each():
        if threads <= 1:
            yield from map(function, items)
            return
        under_way: collections.deque[Future[R]] = collections.deque()
        with ThreadPoolExecutor(threads, thread_name_prefix="scrflow") as pool:
            try:
                for item in items:
                    under_way.append(pool.submit(function, item))
                    if len(under_way) > _AHEAD * threads:
                        yield under_way.popleft().result()
                while under_way:
                    yield under_way.popleft().result()
            finally:
                for future in under_way:
                    future.cancel()


def read_ahead(function: Callable[[T], R], items: Iterable[T], threads: int, device: torch.device) -> Iterator[R]:
    """``function``, which reads and decodes, of each item in order: on a GPU by ``threads`` beside it; on a CPU, which
    has enough to do, one by one when the result is wanted."""
    return map(function, items) if device.type == "cpu" else mapped(function, items, max(2, threads))


def batched(items: Iterable[T], most: int) -> Iterator[list[T]]:
    """The items in lists of ``most``, the last one shorter (itertools.batched of Python 3.12)."""
    left = iter(items)
    while batch := list(itertools.islice(left, most)):
        yield batch


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """torch's operators use one thread in this block: the one that calls them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
