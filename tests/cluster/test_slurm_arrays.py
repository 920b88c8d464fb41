"""What keeps clear of the faults of the SLURM plugin's job arrays, without a SLURM."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from scrflow.core.errors import ScrflowError
from scrflow.pipeline.slurm import check_array_budget, own_command


def argument(commands: dict[str, str]) -> str:
    """As the plugin hands over the commands of an array's tasks."""
    packed = {task: zlib.compress(command.encode()).hex() for task, command in commands.items()}
    return "--slurm-jobstep-array-execs=" + base64.b64encode(json.dumps(packed).encode()).decode()


def test_every_task_but_the_first_has_a_command_of_its_own():
    argv = ["snakemake", argument({"2": "two", "3": "three"}), "--jobs", "1"]
    task = {"SLURM_ARRAY_TASK_MIN": "1"}
    assert own_command(argv, {**task, "SLURM_ARRAY_TASK_ID": "1"}) is None
    assert own_command(argv, {**task, "SLURM_ARRAY_TASK_ID": "2"}) == "two"
    assert own_command(argv, {**task, "SLURM_ARRAY_TASK_ID": "3"}) == "three"
    # the own command's process, and one outside of SLURM
    assert own_command(["snakemake"], {**task, "SLURM_ARRAY_TASK_ID": "3"}) is None
    assert own_command(argv, {}) is None


@pytest.mark.parametrize("given", [argument({"2": "two"}), "--slurm-jobstep-array-execs=%", argument({})])
def test_a_command_that_cannot_be_read(given):
    with pytest.raises(ScrflowError, match="SLURM array task 3: its command cannot be read"):
        own_command(["snakemake", given], {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1"})


def test_the_process_becomes_the_command():
    """After what it was told to clean up, and with the command's exit status."""
    code = "from scrflow.pipeline.slurm import become_own_array_task as b; b(lambda: print('clean')); print('stayed')"
    done = subprocess.run(
        [sys.executable, "-c", code, argument({"2": "echo own; exit 3"})],
        env={
            "SLURM_ARRAY_TASK_ID": "2",
            "SLURM_ARRAY_TASK_MIN": "1",
            "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
        },
        text=True,
        capture_output=True,
    )
    assert (done.stdout, done.returncode) == ("clean\nown\n", 3), done.stderr


def test_limits_that_hold_back_a_part():
    check_array_budget(12, {"jobs": 12, "max-jobs-per-timespan": None}, [])
    with pytest.raises(ScrflowError, match=r"jobs \(11\), resources mem_mb: limits a run of 12 jobs"):
        check_array_budget(12, {"jobs": 11, "max-jobs-per-timespan": 100}, ["mem_mb"])
