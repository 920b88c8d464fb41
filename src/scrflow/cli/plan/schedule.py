"""How long the stages take together, on so many cores."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from scrflow.cli.plan.stages import Stage


def elapsed_s(stages: Sequence[Stage], threads: dict[str, int], cores: int) -> float:
    """Seconds from the first job's start to the last one's end: every job starts as soon as what it needs is there and
    its threads (stage -> number, at most ``cores``) are free; of several the one whose stage comes first."""
    left = {stage.name: stage.jobs for stage in stages}
    running: list[tuple[float, int, int]] = []  # end, number of the stage, threads
    now, free = 0.0, cores
    waiting = [(i, stage) for i, stage in enumerate(stages) for _ in range(stage.jobs)]
    while waiting or running:
        started = []
        for position, (i, stage) in enumerate(waiting):
            wanted = min(cores, threads[stage.name])
            if free >= wanted and not any(left.get(name, 0) for name in stage.after):
                heapq.heappush(running, (now + stage.wall_s(wanted), i, wanted))
                free -= wanted
                started.append(position)
            if free == 0:
                break
        for position in reversed(started):
            waiting.pop(position)
        now, i, freed = heapq.heappop(running)
        free += freed
        left[stages[i].name] -= 1
    return now
