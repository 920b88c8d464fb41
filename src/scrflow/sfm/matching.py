"""Matches of image pairs in a COLMAP database, for SfM and for triangulation.

COLMAP's matcher may not have several threads (colmap_worker tells why), so several processes take its place, each with
a copy of the database.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scrflow.core.progress import meter
from scrflow.sfm.plain_names import plain_names
from scrflow.sfm.process import Colmap, colmap

PAIRS_A_STEP = 64  # of which COLMAP keeps the photos' search trees in memory
_TABLES = ("matches", "two_view_geometries")


def match_pairs(database: Path, pairs: Sequence[tuple[str, str]], threads: int, seed: int, verify: bool) -> None:
    """Mutual nearest neighbours with the ratio test for each pair of image names, and with ``verify`` RANSAC of a
    two-view geometry. Up to ``threads`` processes, each with one thread; the bytes do not depend on their number.

    ScrflowError where one of the processes is killed, OSError where the disk is full.
    """
    with (
        tempfile.TemporaryDirectory(dir=database.parent) as folder,
        plain_names(database, pairs) as pairs,
        meter("matching pairs", len(pairs)) as step,
    ):
        lists = []
        for at in range(0, len(pairs), PAIRS_A_STEP):
            some = pairs[at : at + PAIRS_A_STEP]
            lists.append((Path(folder, f"{at}.txt"), len(some)))
            lists[-1][0].write_text("".join(f"{a} {b}\n" for a, b in some), encoding="utf-8")
        processes = max(1, min(threads, len(lists)))
        copies = [Path(folder, f"{k}.db") for k in range(processes)] if processes > 1 else []
        for copy in copies:
            shutil.copyfile(database, copy)
        # processes are left first: where one fails the others are ended, and no thread waits for them
        with ThreadPoolExecutor(processes) as pool, contextlib.ExitStack() as stack:
            idle: queue.SimpleQueue[Colmap] = queue.SimpleQueue()
            for of in copies or [database]:
                idle.put(stack.enter_context(colmap(of, f"{database}: matching pairs")))

            def matched(listed: Path, count: int) -> int:
                process = idle.get()
                try:
                    process("match", listed=str(listed), seed=seed, verify=verify)
                finally:
                    idle.put(process)
                return count

            futures = [pool.submit(matched, *some) for some in lists]
            try:
                for future in futures:
                    _tell(step, future.result())
            finally:
                for future in futures:
                    future.cancel()
        _collect(database, copies)


def _tell(step: Callable[[str], None], count: int) -> None:
    for _ in range(count):
        step("")


def _collect(database: Path, copies: Sequence[Path]) -> None:
    """Take over what the processes wrote."""
    with contextlib.closing(sqlite3.connect(database)) as whole:
        for copy in copies:
            whole.execute("ATTACH DATABASE ? AS part", (str(copy),))
            with whole:
                for table in _TABLES:
                    whole.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM part.{table}")
            whole.execute("DETACH DATABASE part")
