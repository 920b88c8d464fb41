"""Worker processes: photos wait in a bounded queue, and one that stalls or ends its worker fails alone."""

import asyncio
import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from scrflow.core.errors import ScrflowError
from scrflow.core.progress import log

_START_S = 300  # to load the maps: published weights may have to be fetched first
_AGAIN_S = 5  # between attempts to start a worker again


SHOWN_MATCHES = 1000


@dataclass(frozen=True)
class Job:
    """A photo to localize; texts are as the client sent them."""

    photo: bytes
    camera: str | None = None
    near: str | None = None
    map: str | None = None
    matches: bool = False


@dataclass(frozen=True)
class Reply:
    """One of the three is set."""

    answer: dict[str, Any] | None = None  # fields of an Answer
    refused: str | None = None  # the client's mistake, in one line
    failed: str | None = None  # a bug or a lack of memory: for the log alone


class Busy(Exception):
    """The queue is full; ``retry_s`` is when a place may be free."""

    def __init__(self, retry_s: int):
        super().__init__()
        self.retry_s = retry_s


class Overdue(Exception):
    """The photo waited or took longer than the timeout."""


class Crashed(Exception):
    """The worker ended while it localized the photo."""


def _work(connection: Connection, arguments: tuple[Any, ...]) -> None:
    from scrflow.serve.worker import work  # torch is for the workers alone

    work(connection, *arguments)


class _Worker:
    """A process of scrflow.serve.worker.work, and the connection to it."""

    def __init__(self, arguments: tuple[Any, ...]):
        # a fork of a process that has imported torch: it starts in a moment, and shares that memory
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["scrflow.serve.worker"])
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, job: Job | None, timeout_s: float) -> Any:
        """The reply to a job, or the first message. Raises Overdue or Crashed; then the worker is of no more use."""
        try:
            if job is not None:
                self._connection.send(job)
            if not self._connection.poll(timeout_s):
                raise Overdue
            return self._connection.recv()
        except (EOFError, OSError):
            raise Crashed from None

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


class Pool:
    """``workers`` processes that localize photos, first come, first served. At most ``most`` photos wait; one that is
    not done after ``timeout_s`` seconds is given up."""

    def __init__(self, maps: Mapping[str, Path], workers: int, most: int, timeout_s: float, device: str | None):
        self._count, self._most, self.timeout_s = workers, most, timeout_s
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that spin slow down the other workers
        self._arguments = (dict(maps), device, max(1, (os.cpu_count() or 1) // workers))
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="worker")
        self._workers: set[_Worker] = set()
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._mean_s = 1.0  # of a photo; a moving average
        self.waiting = self.restarts = 0
        # of scrflow.serve.worker.Maps, when the workers have started
        self.maps: dict[str, dict[str, Any]] = {}
        self.routed = False

    @property
    def ready(self) -> int:
        """Number of workers that have loaded the maps, idle or busy."""
        return len(self._workers)

    async def start(self) -> None:
        """Start all workers. ScrflowError if they cannot load the maps."""
        hellos = await asyncio.gather(*(self._launch() for _ in range(self._count)))
        self.maps, self.routed = hellos[0]

    async def localize(self, job: Job, gone: Callable[[], Awaitable[bool]]) -> Reply | None:
        """The reply to a job; None if ``gone`` says, when its turn comes, that nobody waits for it. Raises Busy,
        Overdue or Crashed."""
        if self._idle.empty() and self.waiting >= self._most:
            raise Busy(max(1, round(self._mean_s * self.waiting / self._count)))
        began, self.waiting = time.monotonic(), self.waiting + 1
        try:
            async with asyncio.timeout(self.timeout_s):
                worker = await self._idle.get()
        except TimeoutError:
            raise Overdue from None
        finally:
            self.waiting -= 1
        if await gone():
            self._idle.put_nowait(worker)
            return None
        left = max(0.0, self.timeout_s - (time.monotonic() - began))
        return await asyncio.shield(self._task(self._asked(worker, job, left)))

    def close(self) -> None:
        """End all workers."""
        for task in self._tasks:
            task.cancel()
        for worker in self._workers:
            worker.end()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _asked(self, worker: _Worker, job: Job, timeout_s: float) -> Reply:
        began = time.monotonic()
        try:
            reply = await self._in_thread(lambda: worker.ask(job, timeout_s))
        except Exception:  # Overdue, Crashed, or a bug: its state is not known
            self._workers.discard(worker)
            worker.end()
            self._task(self._replace())
            raise
        self._mean_s += 0.1 * (time.monotonic() - began - self._mean_s)
        self._idle.put_nowait(worker)
        return reply

    async def _replace(self) -> None:
        while True:
            self.restarts += 1
            try:
                await self._launch()
                return
            except ScrflowError as error:
                log.error("a worker does not start again: %s", error)
            await asyncio.sleep(_AGAIN_S)

    async def _launch(self) -> Any:
        worker, hello = await self._in_thread(lambda: _started(self._arguments))
        self._workers.add(worker)
        self._idle.put_nowait(worker)
        return hello

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    def _task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)  # asyncio itself holds tasks only weakly
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _started(arguments: tuple[Any, ...]) -> tuple[_Worker, Any]:
    worker = _Worker(arguments)
    try:
        hello = worker.ask(None, _START_S)
    except (Overdue, Crashed):
        hello = "a worker ended while it loaded the maps; give fewer --workers if memory is short"
    if isinstance(hello, str):
        worker.end()
        raise ScrflowError(hello)
    return worker, hello
