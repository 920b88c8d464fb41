"""One job of a stage, and the lock of a running workflow. ``job_frame`` sets the number of threads before numpy and
torch are loaded, so nothing here imports them."""

import contextlib
import faulthandler
import fcntl
import functools
import hashlib
import io
import logging
import os
import resource
import shutil
import socket
import stat
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TextIO

import psutil  # Snakemake brings it

from scrflow.config import SceneConfig
from scrflow.core.errors import ScrflowError, error_line

STATE = Path(".snakemake")  # of the working directory; Snakemake's own
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_MAIN_VARIABLE = "SCRFLOW_WORKFLOW"  # host:pid of the Snakemake that a local job belongs to
_WATCH_EVERY_S = 2.0
_LEAST_ROOM = 1 << 20  # bytes; measured: a run of 14 jobs leaves 0.3 MB in .snakemake

log = logging.getLogger("scrflow")


def run_stage(snakemake: Any) -> None:
    """The job of a rule: call the function of its stage (scrflow.pipeline.stages)."""
    with job_frame(snakemake):
        from scrflow.pipeline.stages import STAGES

        STAGES[snakemake.rule].run(snakemake)


@contextlib.contextmanager
def job_frame(snakemake: Any) -> Iterator[None]:
    """Threads, log, and errors of a job. A user's error becomes one line and exit code 1; any other exception is a bug
    and keeps its traceback, in the log and on the terminal. Import what needs numpy or torch inside the block."""
    limit_threads(snakemake.threads)
    _end_with_workflow()
    label = " ".join((snakemake.rule, *dict(snakemake.wildcards.items()).values()))
    with _logging(Path(snakemake.log[0]), label):
        try:
            with _counting_failures(snakemake):
                yield
            usage = Usage.of_this_process()
            log.debug("%s", usage)
            benchmark = getattr(snakemake.output, "benchmark", None)
            if benchmark is not None:
                usage.write(Path(benchmark))
        except Exception as error:
            line = error_line(error)
            log.error("%s", traceback.format_exc() if line is None else f"error: {line}")
            sys.exit(1)


@contextlib.contextmanager
def _counting_failures(snakemake: Any) -> Iterator[None]:
    """For rules with the param ``failures``: one more, beside the log, unless the block ends well. It is written ahead,
    as a killed job writes nothing."""
    if not hasattr(snakemake.params, "failures"):
        yield
        return
    from scrflow.storage.artifact import writing

    counted, before = Path(snakemake.log[0]).with_suffix(".failures"), snakemake.params.failures
    with writing(counted):
        counted.write_text(str(int(before or 0) + 1), encoding="utf-8")
    yield
    with writing(counted):
        counted.write_text(before, encoding="utf-8") if before else counted.unlink()


@dataclass(frozen=True)
class Usage:
    """Of a whole job with its child processes; Snakemake's benchmark only samples it, every 30 s."""

    wall_s: float
    cpu_s: float
    max_rss_mb: float  # 2^20 bytes, of the largest process
    gpu_mb: float | None  # 10^6 bytes, most that torch had allocated at once; None where no GPU was used

    @classmethod
    def of_this_process(cls) -> Self:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu = sum(u.ru_utime + u.ru_stime for u in used)
        largest = max(peak_kilobytes(used[0].ru_maxrss), used[1].ru_maxrss)
        wall = time.time() - psutil.Process().create_time()
        torch = sys.modules.get("torch")
        gpu = torch.cuda.max_memory_allocated() / 1e6 if torch is not None and torch.cuda.is_initialized() else None
        return cls(max(wall, 0.01), cpu, largest / 1024, gpu)

    def __str__(self) -> str:
        gpu = "" if self.gpu_mb is None else f", GPU at most {self.gpu_mb:.0f} MB"
        return f"CPU time {self.cpu_s:.2f} s, at most {self.max_rss_mb:.0f} MB{gpu}"

    def write(self, path: Path) -> None:
        """A benchmark file in Snakemake's form with ``gpu_mb`` added (NA: not measured), for rules whose outputs may
        come from a cache: the benchmark is an output like the others."""
        from scrflow.storage.artifact import write_text

        minutes, seconds = divmod(int(self.wall_s), 60)
        values = {
            "s": f"{self.wall_s:.4f}",
            "h:m:s": f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}",
            "max_rss": f"{self.max_rss_mb:.2f}",
            **dict.fromkeys(("max_vms", "max_uss", "max_pss", "io_in", "io_out"), "NA"),
            "mean_load": f"{100 * self.cpu_s / self.wall_s:.2f}",
            "cpu_time": f"{self.cpu_s:.2f}",
            "gpu_mb": "NA" if self.gpu_mb is None else f"{self.gpu_mb:.0f}",
        }
        write_text(path, "\t".join(values) + "\n" + "\t".join(values.values()) + "\n")


def peak_kilobytes(fallback: int) -> int:
    """The most memory this process had, from /proc; else ``fallback`` (resource usage counts the parent's too)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return fallback


def limit_threads(threads: int) -> None:
    """Let numpy's BLAS, torch, faiss and pycolmap use ``threads``; call it before they are imported. Waiting threads
    sleep: spinning ones of two jobs on the same cores slow each other down twentyfold."""
    loaded = [name for name in ("numpy", "torch", "faiss") if name in sys.modules]
    if loaded:
        raise RuntimeError(f"{', '.join(loaded)} imported before the number of threads was set")
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(threads)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


class _Terminal(logging.Handler):
    """Writes to whatever sys.stderr is at the moment: a progress bar replaces it while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """The log; a line and exit code 1 where it cannot be opened. A disk that is full later does not fail the job."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
    except OSError as error:
        print(f"error: log {error_line(error) or error}", file=sys.stderr)
        sys.exit(1)
    try:
        yield file
    finally:
        try:
            file.close()
        except OSError as error:
            print(f"log {path} is not whole: {error.strerror}", file=sys.stderr)


@contextlib.contextmanager
def _logging(path: Path, label: str) -> Iterator[None]:
    """Log to the file and the terminal. What C libraries print goes to the file; of several jobs that share a terminal
    one shows bars and lines, the others only warnings and errors."""
    logging.raiseExceptions = False  # a log on a full disk is not to hide what is wrong
    with _opened(path) as file, contextlib.ExitStack() as stack:
        sys.stdout.flush()
        sys.stderr.flush()
        terminal = io.TextIOWrapper(
            os.fdopen(os.dup(2), "wb", 0), encoding="utf-8", errors="replace", write_through=True
        )
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        faulthandler.enable(file)
        level = logging.INFO
        if terminal.isatty() and STATE.is_dir():
            lock = _try_lock(STATE / "scrflow.terminal")
            if lock is None:
                level = logging.WARNING
                terminal.isatty = lambda: False  # type: ignore[method-assign]
            else:
                stack.callback(os.close, lock)
        sys.stderr = terminal
        to_terminal, to_file = _Terminal(level), logging.StreamHandler(file)
        to_terminal.setFormatter(logging.Formatter(f"[{label}] %(message)s"))
        to_file.setLevel(logging.DEBUG)
        to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.setLevel(logging.DEBUG)
        log.propagate = False
        log.handlers[:] = [to_terminal, to_file]
        logging.captureWarnings(True)
        logging.getLogger("py.warnings").handlers[:] = [to_file]
        yield


def _try_lock(path: Path) -> int | None:
    """The open file with a lock that the kernel releases when this process closes it or ends, as no child inherits it;
    None when another process has the lock."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError as error:  # a file system without locks
        log.warning("%s: cannot be locked (%s); make sure that no other Snakemake runs here", path, error.strerror)
    return fd


def hold_workflow_lock(path: Path = STATE / "scrflow.lock") -> None:
    """Make this process the only Snakemake that runs jobs in the working directory, as long as it lives; ScrflowError
    when another one does. In place of Snakemake's own lock, which a killed run leaves behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = _try_lock(path)
    if fd is None:
        holder = path.read_text(errors="replace").strip() or "unknown process"
        raise ScrflowError(f"{Path.cwd()}: another Snakemake is running here ({holder}); wait for it, or stop it")
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{_this_process()}\n".encode(), 0)


def check_room(folder: Path = Path()) -> None:
    """ScrflowError where the disk has no room for Snakemake's own scripts, records and log."""
    free = shutil.disk_usage(folder).free
    if free < _LEAST_ROOM:
        raise ScrflowError(
            f"{folder.resolve()}: No space left on device but {free / 1024:.0f} kB, and a run needs "
            f"{_LEAST_ROOM >> 10} kB for its own records alone; make room and run again"
        )


def tie_local_jobs() -> None:
    """Let jobs that this process starts on this machine end with it, even by SIGKILL: a job that outlives its workflow
    would write beside the same job of the next one."""
    os.environ[_MAIN_VARIABLE] = _this_process()


def _this_process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _end_with_workflow() -> None:
    host, _, pid = os.environ.get(_MAIN_VARIABLE, "").rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return

    def watch() -> None:
        while psutil.pid_exists(int(pid)):
            time.sleep(_WATCH_EVERY_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch-workflow").start()


def file_digest(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes, once a process while it does not change; of a folder, of its files' names and
    digests."""
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        inside = sorted(p for p in Path(path).rglob("*") if p.is_file())
        text = "".join(f"{p.relative_to(path).as_posix()} {file_digest(p)}\n" for p in inside)
        return hashlib.sha256(text.encode()).hexdigest()
    return _digest(str(path), found.st_ino, found.st_size, found.st_mtime_ns)


@functools.cache
def _digest(path: str, *_identity: int) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def source_files(scene: SceneConfig, root: Path) -> list[str]:
    """Files of a dataset whose change makes another scene, as far as they exist: split lists, poses, models, and for
    bare photos the photos. Photos of other datasets have their checksums in scene.json."""
    split = scene.split
    lists = (split.mapping, *split.queries.values(), split.query_poses, scene.sfm.positions)
    listed = [root / name for name in lists if name]
    return inputs_of([path for path in [*listed, *scene.source.files(root)] if path.is_file()])


def inputs_of(paths: Iterable[Path]) -> list[str]:
    """The paths as inputs of a rule, each once. Snakemake takes {x} for a wildcard and <x> for a variable: in place of
    such a file its folder is an input."""
    watched = []
    for path in paths:
        while any(c in str(path) for c in "{<"):
            path = path.parent
        watched.append(str(path))
    return list(dict.fromkeys(watched))
