"""The demo on a real SLURM of one node, and what takes minutes of waiting."""

from __future__ import annotations

import re
import shutil
import subprocess
import time

import pytest
from cluster_project import SlurmProject, submitted
from tiny_project import REPO, Project

pytestmark = pytest.mark.long

DEMO = "results/demo/poses.txt"
HEAD = "results/tiny/quick/head.safetensors"


def give_demo(project: Project) -> None:
    """The project's own config and demo scene in place of the tiny ones."""
    shutil.rmtree(project.folder / "config")
    shutil.copytree(REPO / "config", project.folder / "config")
    (project.folder / "demo").symlink_to(REPO / "demo")


def test_demo_has_the_poses_of_a_local_run(tmp_path, slurm_project: SlurmProject):
    local = Project(tmp_path / "local")
    for project in (slurm_project, local):
        give_demo(project)
        out = project.snakemake(DEMO).stdout
        if project is slurm_project:
            jobs = slurm_project.node.queue("%i|%T|%C|%m|%M|%k")
            jobs = [job for job in jobs if job[0] in submitted(out)]
            asked = {job[0]: slurm_project.node.run("scontrol", "show", "job", job[0]) for job in jobs}
    assert slurm_project.read(DEMO) == local.read(DEMO)
    assert {state for _, state, *_ in jobs} == {"COMPLETED"}
    # training alone asks for a GPU
    with_gpu = [job[-1].split("_wildcards")[0] for job in jobs if "gpu" in asked[job[0]]]
    assert with_gpu == ["rule_train_head"], asked


def test_training_goes_on_after_its_time_limit(tmp_path, slurm_project: SlurmProject):
    """SLURM's signals at the limit (two, from two sides), a checkpoint, another attempt; the head is that of a run
    without."""
    local, node = Project(tmp_path / "local"), slurm_project.node
    others = {job for (job,) in node.queue("%i")}  # of tests before this one

    def attempts() -> list[list[str]]:
        rows = node.queue("%i|%T|%M|%l|%k")
        return [row for row in rows if row[-1].startswith("rule_train_head") and row[0] not in others]

    for project in (local, slurm_project):
        # long enough to be stopped
        project.edit("config/methods/quick.yaml", "steps: 60", "steps: 8000")
        project.edit("config/methods/quick.yaml", "checkpoint_every: 10", "checkpoint_every: 100000")

    log = slurm_project.folder / "results/tiny/logs/train_head/quick.log"
    with subprocess.Popen(
        slurm_project.command(HEAD),
        cwd=slurm_project.folder,
        env=slurm_project.environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as run:
        try:
            while not (log.exists() and "training: " in log.read_text()):  # its first progress
                assert run.poll() is None, run.stdout.read()
                time.sleep(0.2)
            job = attempts()[0][0]
            node.run("scontrol", "update", f"JobId={job}", "TimeLimit=1")
            out = run.communicate(timeout=600)[0]
        finally:
            run.terminate()
    assert run.returncode == 0, out
    # there is no checkpoint but that of the signal
    assert re.search(r"training continues from step [1-9]", log.read_text())
    assert [row[1] != "COMPLETED" for row in attempts()] == [True, False], attempts()

    local.snakemake(HEAD)
    assert slurm_project.read(HEAD) == local.read(HEAD)
