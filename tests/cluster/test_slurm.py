"""Small runs on a real SLURM of one node: what they make, and what becomes of a job that fails."""

from __future__ import annotations

import pytest
from cluster_project import SlurmProject, submitted
from tiny_project import POSES, SCENE, Project

pytestmark = pytest.mark.long

MADE = [
    POSES,
    "results/tiny/quick/map.safetensors",
    "results/tiny/quick/head.safetensors",
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
