"""Matches of image pairs in a COLMAP database, for SfM and for triangulation.

COLMAP's matcher may not have several threads (sfm_matching_worker tells why), so several processes take its place, each
with a copy of the database.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scrflow.errors import ScrflowError
from scrflow.plainnames import plain_names
from scrflow.progress import meter
from scrflow.sfm_matching_worker import match_listed

PAIRS_A_STEP = 64  # of which COLMAP keeps the photos' search trees in memory
_TABLES = ("matches", "two_view_geometries")
_ROOT = Path(__file__).resolve().parents[1]

Match = Callable[[Path], None]


def match_pairs(database: Path, pairs: Sequence[tuple[str, str]], threads: int, seed: int, verify: bool) -> None:
    """Mutual nearest neighbours with the ratio test for each pair of image names, and with ``verify`` RANSAC of a
    two-view geometry. Up to ``threads`` processes, each with one thread; the bytes do not depend on their number.

    ScrflowError where one of the processes is killed.
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
        processes = min(threads, len(lists))
        if processes <= 1:
            for listed, count in lists:
                match_listed(database, listed, seed, verify)
                _tell(step, count)
            return
        copies = [Path(folder, f"{k}.db") for k in range(processes)]
        for copy in copies:
            shutil.copyfile(database, copy)
        # processes are left first: where one fails the others are ended, and no thread waits for them
        with ThreadPoolExecutor(processes) as pool, contextlib.ExitStack() as stack:
            idle: queue.SimpleQueue[Match] = queue.SimpleQueue()
            for copy in copies:
                idle.put(stack.enter_context(_process(database, copy, seed, verify)))

            def matched(listed: Path, count: int) -> int:
                match = idle.get()
                try:
                    match(listed)
                finally:
                    idle.put(match)
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


@contextlib.contextmanager
def _process(database: Path, copy: Path, seed: int, verify: bool) -> Iterator[Match]:
    """A process that matches pairs in a copy of the database; what is yielded has it match the pairs of a list."""
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(
        [sys.executable, "-m", "scrflow.sfm_matching_worker", str(copy), str(seed), str(verify)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,  # what could not be written to a process that is gone is not tried again when its pipe is closed
        env={**os.environ, "PYTHONPATH": path},
    ) as process:

        def match(listed: Path) -> None:
            answer = b""
            # a process that is gone closes its side: what it ended with tells more than that
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(os.fsencode(listed) + b"\n")
                answer = process.stdout.readline()
            if not answer:
                raise ScrflowError(_ended(database, process.wait()))
            error = json.loads(answer)
            if error is not None:
                raise RuntimeError(f"{database}: matching pairs: {error}")

        try:
            yield match
        except BaseException:
            process.kill()
            raise


def _ended(database: Path, status: int) -> str:
    if status < 0:
        return (
            f"{database}: a process that matches image pairs ended by signal {-status} (9 is often the system's answer "
            "to a want of memory; what COLMAP says of itself is above): run again, with more memory (mem_mb) or fewer "
            "threads"
        )
    return f"{database}: a process that matches image pairs ended with exit {status}; the lines above tell more"


def _collect(database: Path, copies: Sequence[Path]) -> None:
    """Take over what the processes wrote."""
    with contextlib.closing(sqlite3.connect(database)) as whole:
        for copy in copies:
            whole.execute("ATTACH DATABASE ? AS part", (str(copy),))
            with whole:
                for table in _TABLES:
                    whole.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM part.{table}")
            whole.execute("DETACH DATABASE part")
