"""Progress of long work: a bar on a terminal, a line every ten seconds in a log."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
log = logging.getLogger("scrflow")

_LINE_EVERY_S = 10.0


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Iterate with progress; give ``total`` if ``items`` has no length."""
    total = len(items) if total is None else total  # type: ignore[arg-type]
    with meter(what, total) as step:
        for item in items:
            yield item
            step("")


class meter:
    """``with meter("training", steps) as step: step("loss 1.2")`` counts one step and shows the note."""

    def __init__(self, what: str, total: int, start: int = 0):
        self.what, self.total, self.done = what, total, start
        self._bar = None

    def __enter__(self) -> Callable[[str], None]:
        self._began = self._last = time.monotonic()
        self._first = self.done
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=self.total, completed=self.done, note="")
        return self._step

    def _step(self, note: str = "") -> None:
        self.done += 1
        if self._bar is not None:
            self._bar.update(self._task, advance=1, note=note or None) if note else self._bar.advance(self._task)
            return
        now = time.monotonic()
        if now - self._last >= _LINE_EVERY_S:
            self._last = now
            rate = (self.done - self._first) / (now - self._began)
            left = (self.total - self.done) / rate if rate else 0
            log.info("%s: %d of %d, %.0f s left%s", self.what, self.done, self.total, left, f", {note}" if note else "")

    def advance_to(self, done: int) -> None:
        """Count the steps up to ``done``."""
        while self.done < done:
            self._step()

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if exc[0] is None:
            log.info("%s: %d in %.1f s", self.what, self.done - self._first, time.monotonic() - self._began)
