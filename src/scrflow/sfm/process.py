"""Processes in which COLMAP works on databases.

On a full disk its threads and its transactions (pycolmap.DatabaseTransaction too: the package uses none) end the whole
process without a word to it. In a process of its own that is an error like any other.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from scrflow.core.errors import ScrflowError
from scrflow.core.machine_errors import full_disk_told, no_room
from scrflow.sfm import worker as colmap_worker

_ROOT = Path(__file__).resolve().parents[2]


class Colmap(Protocol):
    """Has the process do a step (colmap_worker) with the database."""

    def __call__(self, step: str, **arguments: object) -> None: ...


@contextlib.contextmanager
def colmap(database: Path, what: str) -> Iterator[Colmap]:
    """A process that does steps with the database, which is ended when the block ends.

    Of what is yielded: ScrflowError where the process is killed, OSError (no space) where the disk is full, and
    RuntimeError with COLMAP's words where a step fails. ``what`` it was about begins these messages.
    """
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(
        [sys.executable, "-m", colmap_worker.__name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,  # what could not be written to a process that is gone is not tried again when its pipe is closed
        env={**os.environ, "PYTHONPATH": path},
    ) as process:

        def call(step: str, **arguments: object) -> None:
            request = json.dumps([step, {"database": os.fspath(database), **arguments}])
            answer = b""
            # a process that is gone closes its side: what it ended with tells more than that
            with contextlib.suppress(BrokenPipeError):
                _write(process, request.encode("ascii") + b"\n")
                answer = process.stdout.readline()
            if not answer:
                raise _ended(database, what, process.wait())
            error = json.loads(answer)
            if error is not None:
                with full_disk_told(database):
                    raise RuntimeError(f"{what}: {error}")

        try:
            yield call
        except BaseException:
            process.kill()
            raise


def _write(process: subprocess.Popen[bytes], data: bytes) -> None:
    """All of it: an unbuffered pipe takes what it has room for."""
    view = memoryview(data)
    while view:
        view = view[process.stdin.write(view) :]


def _ended(database: Path, what: str, status: int) -> Exception:
    full = no_room(database) if status == -signal.SIGABRT else None
    if full is not None:
        return full
    if status < 0:
        return ScrflowError(
            f"{what}: a process of COLMAP ended by signal {-status} (9 is often the system's answer to a want of "
            "memory; what COLMAP says of itself is above): run again, with more memory (mem_mb) or fewer threads"
        )
    return ScrflowError(f"{what}: a process of COLMAP ended with exit {status}; the lines above tell more")
