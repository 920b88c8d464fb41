"""Small runs on a real SLURM of one node: what they make, and what becomes of a job that fails or is stopped."""

import re
import subprocess
import time
from pathlib import Path

import pytest
from cluster_project import SlurmProject, submitted
from tiny_project import POSES, SCENE, Project

pytestmark = pytest.mark.long

HEAD = "results/tiny/quick/head.safetensors"
MADE = [
    POSES,
    "results/tiny/quick/map.safetensors",
    HEAD,
    "results/tiny/retrieval/vlad.safetensors",
    "results/tiny/local/small/pca.safetensors",
    "results/tiny/encodings/node2vec.h5",
    *(f"results/tiny/local/small/buffer-{shard}.h5" for shard in range(2)),
]


def test_same_bytes_as_without_slurm(finished: Project, slurm_project: SlurmProject):
    """Also where a job was killed for its memory, and tried again with more."""
    # its processes have more than 150 MB together for two seconds (measured), and SLURM looks once a second
    slurm_project.edit("rules/graph.smk", "growing(2000)", "growing(150)")

    out = slurm_project.snakemake(POSES).stdout
    for path in MADE:
        assert slurm_project.read(path) == finished.read(path), path

    node = slurm_project.node
    jobs = {job: state for job, state in node.queue() if job in submitted(out)}
    killed = [job for job, state in jobs.items() if state != "COMPLETED"]
    assert killed, jobs
    memory = dict(node.queue("%i|%m"))
    graph = [memory[job] for job, comment in node.queue("%i|%k") if comment.startswith("rule_build_graph")]
    assert graph[:2] == ["150M", "300M"], graph
    asked = {job: node.run("scontrol", "show", "job", job) for job in jobs}
    with_gpu = [comment.split("_wildcards")[0] for job, comment in node.queue("%i|%k") if "gpu" in asked.get(job, "")]
    assert with_gpu == ["rule_train_head"], asked
    assert "Nothing to be done" in slurm_project.snakemake(POSES).stdout


def test_error_of_a_job_is_shown(slurm_project: SlurmProject):
    """Its one line, and where to read more, on the terminal of the Snakemake that was started."""
    slurm_project.write("config/scenes/broken.yaml", SCENE)
    slurm_project.edit("config/scenes/broken.yaml", "mapping: mapping.txt", "mapping: absent.txt")
    done = slurm_project.snakemake("results/broken/scene/scene.json", "--retries", "0", check=False)
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if "absent.txt" in line]
    assert any("error: " in line for line in lines), done.stdout
    assert "results/broken/logs/build_scene.log" in done.stdout
    assert "Traceback" not in done.stdout


def test_training_goes_on_after_its_time_limit(tmp_path: Path, slurm_project: SlurmProject):
    """SLURM's signals at the limit (two, from two sides), a checkpoint, another attempt; the head is that of a run
    without."""
    local, node = Project(tmp_path / "local"), slurm_project.node
    others = {job for (job,) in node.queue("%i")}  # of tests before this one

    def attempts() -> list[list[str]]:
        rows = node.queue("%i|%T|%M|%l|%k")
        return [row for row in rows if row[-1].startswith("rule_train_head") and row[0] not in others]

    for project in (local, slurm_project):
        # long enough to be stopped: SLURM's least limit is a minute, and 8 000 steps took 27 s of two idle cores
        project.edit("config/methods/quick.yaml", "steps: 60", "steps: 40000")
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
