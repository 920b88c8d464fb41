"""Work on many photos (or pairs of them) side by side: one thread each, in place of all threads on one after another.

Networks of this size hardly gain from several threads on one photo, as each operator is over in a fraction of a
millisecond; photos beside each other do not wait for each other. Results do not depend on the number of threads: each
item is worked on by one.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2  # items a thread that may be under way or done before their turn: bounds what is held


def mapped(function: Callable[[T], R], items: Iterable[T], threads: int, side_by_side: bool = True) -> Iterator[R]:
    """``function`` of each item, in order, ``threads`` at a time; torch has one thread for each meanwhile.

    An error of the function is raised where its result would have come; items after the few under way are not begun.
    Without ``side_by_side`` (what takes much memory, or is not for several threads at once) items come one by one, and
    torch keeps the threads that it has.
    """
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


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """torch's operators run in the thread that calls them, instead of spreading over all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
