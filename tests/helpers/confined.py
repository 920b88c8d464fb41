"""What becomes of a bad file: a reader runs on it in a process of its own, under limits.

One process imports everything once and then forks for each call, so a C library that aborts, hangs or takes all memory
spoils its own call alone. Run as a script it is that process: a line of JSON (reader, path) in, one out.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

SECONDS = 5  # of CPU time
WALL_SECONDS = 60  # a busy machine gives little of a second
MEGABYTES = 2048  # of address space, beyond what the imports take


@dataclass(frozen=True)
class Outcome:
    """``kind``: told (ScrflowError), content, traceback, signal or timeout."""

    kind: str
    message: str
    megabytes: float  # most memory beyond what the process had before
    seconds: float  # of CPU time


class Confined:
    """The process that forks. ``run`` is the outcome of a reader of untrusted_readers on a path."""

    def __init__(self) -> None:
        src = Path(__file__).resolve().parents[2] / "src"
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(src), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def run(self, reader: str, path: Path) -> Outcome:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([reader, str(path)]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the process that forks has ended"
        return Outcome(**json.loads(line))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


# ----------------------------------------------------------------------------------------------------- in that process


def _status(key: str) -> int:
    """A number of /proc/self/status, kB."""
    with open("/proc/self/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(f"{key}:"))


def _in_child(reader: str, path: Path, out: int) -> None:
    """Run the reader and write the outcome; does not return."""
    from untrusted_readers import READERS

    from scrflow.core.errors import ScrflowError

    with open("/proc/self/clear_refs", "w", encoding="ascii") as f:
        f.write("5")  # the peak of memory begins anew
    before = _status("VmRSS")
    resource.setrlimit(resource.RLIMIT_AS, ((_status("VmSize") << 10) + (MEGABYTES << 20),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what C libraries say
    began = time.process_time()
    try:
        READERS[reader](path)
        kind, message = "content", ""
    except ScrflowError as error:
        kind, message = "told", str(error)
    except BaseException as error:
        where = error.__traceback__
        while where.tb_next is not None:
            where = where.tb_next
        at = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}"
        kind, message = "traceback", f"{type(error).__name__} at {at}: {str(error)[:500]}"
    took = time.process_time() - began
    peak = max(0, _status("VmHWM") - before) / 1024
    result = {"kind": kind, "message": message, "megabytes": peak, "seconds": took}
    os.write(out, json.dumps(result).encode())
    os._exit(0)


def _outcome(reader: str, path: Path) -> dict[str, object]:
    began = time.monotonic()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            _in_child(reader, path, write)
        finally:
            os._exit(1)
    os.close(write)
    text = b""
    while select.select([read], [], [], max(0.0, began + WALL_SECONDS - time.monotonic()))[0]:
        part = os.read(read, 1 << 16)
        if not part:
            break
        text += part
    else:
        os.kill(child, signal.SIGKILL)
    os.close(read)
    _, status = os.waitpid(child, 0)
    if text:
        return json.loads(text)
    late = time.monotonic() - began >= WALL_SECONDS
    name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"status {status}"
    kind = "timeout" if late or name in ("SIGXCPU", "SIGKILL") else "signal"
    return {"kind": kind, "message": name, "megabytes": -1.0, "seconds": time.monotonic() - began}


def _main() -> None:
    import untrusted_readers  # once, for all children

    untrusted_readers.settle()

    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        reader, path = json.loads(line)
        out.write(json.dumps(_outcome(reader, Path(path))) + "\n")


if __name__ == "__main__":
    _main()
