"""SIGTERM during training: what a scheduler sends ahead of a time limit, a pre-emption or a shutdown."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable
from types import FrameType

from scrflow.core.errors import ScrflowError


class StopRequest:
    """``with StopRequest() as stop``: SIGTERM sets ``stop.requested`` in place of ending the process.

    So does a second one, as SLURM sends several. Python hands signals to the main thread alone; elsewhere nothing is
    caught. With ``obey`` False the signal is passed over: of several processes the first saves and ends, and the others
    with it, as one that left a step early would leave the first waiting in it.
    """

    def __init__(self, obey: bool = True, also: Callable[[], None] | None = None):
        self.requested = False
        self._obey, self._also = obey, also
        self._before: signal.Handlers | int | None = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._handle if self._obey else signal.SIG_IGN)
        return self

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if self._also is not None:
            self._also()

    def __exit__(self, *exc: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)


def forwarding_sigterm(child: subprocess.Popen) -> StopRequest:
    """SIGTERM to this process is handed on to ``child``."""
    return StopRequest(also=lambda: child.send_signal(signal.SIGTERM))


class Stopped(ScrflowError):
    """Training was asked to stop and has saved where it is."""
