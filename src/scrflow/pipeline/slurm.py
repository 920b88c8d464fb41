"""Job arrays of Snakemake's SLURM plugin, made to run as they should. Known of versions 2.6.1 to 2.8.0.

Nothing here imports numpy or torch: every Snakemake reads this.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence

from scrflow.core.errors import ScrflowError

_OPTION = "--slurm-jobstep-array-execs"


def become_own_array_task(clean_up: Callable[[], object], argv: Sequence[str] = sys.argv) -> None:
    """In a task of a job array but the first: ``clean_up``, and go on as the Snakemake of the task's own job.

    The plugin starts all tasks with the Snakemake of the first task's job, which runs the task's own command, and then
    checks and cleans up the files of the first job. A task that ends before the first one does would count as failed,
    and one that fails would delete what the first one made (its issue 447). So the process is given to the own command
    before any of that, while the Snakefile is read. Raises ScrflowError when the command cannot be found.
    """
    command = own_command(argv, os.environ)
    if command is None:
        return
    clean_up()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv("/bin/sh", ["/bin/sh", "-c", command])


def own_command(argv: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """The shell command of this array task; None where the process has the right one already."""
    task, first = (environment.get(f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "MIN"))
    commands = next((a.removeprefix(f"{_OPTION}=") for a in argv if a.startswith(f"{_OPTION}=")), None)
    if commands is None or task is None or task == first:
        return None
    try:
        return zlib.decompress(bytes.fromhex(json.loads(base64.b64decode(commands, validate=True))[task])).decode()
    except (binascii.Error, ValueError, KeyError, TypeError, zlib.error) as error:
        raise ScrflowError(
            f"SLURM array task {task}: its command cannot be read ({type(error).__name__}: {error}); is this another "
            "snakemake-executor-plugin-slurm than requirements-cluster.txt names? Without slurm-array-jobs it works"
        ) from error


def check_array_budget(planned: int, limits: Mapping[str, int | None], limited: Sequence[str]) -> None:
    """Nothing may hold back a part of the jobs that are ready. Of a rule with arrays the plugin drops those that it is
    handed while more are held back, and waits for them for ever (its issue 473).

    ``planned`` jobs in all, by the ``limits`` on how many are handed over at once, and with a sum set for resources of
    the names ``limited``. Raises ScrflowError.
    """
    low = [f"{name} ({limit})" for name, limit in limits.items() if limit is not None and limit < planned]
    low += [f"resources {name}" for name in limited]
    if low:
        raise ScrflowError(
            f"{', '.join(low)}: limits a run of {planned} jobs, and with job arrays the SLURM plugin would lose jobs; "
            "raise or remove the limit (profiles/slurm, command line), or set slurm-array-jobs to none"
        )
