"""The profiles, without a cluster: Snakemake and its plugins know every key, and the commands say what they should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cluster_project import plugin_environment
from tiny_project import POSES, REPO, Project

PROFILES = {"default": None, "slurm": "slurm", "cluster-generic": "cluster-generic"}
# prints what Snakemake's own parser makes of the command line and of the profiles
PARSE = """
import json, sys
from snakemake.cli import parse_args
parser, args = parse_args(sys.argv[1:])
print(json.dumps({key: str(value) for key, value in vars(args).items()}))
"""


def parse(folder: Path, profile: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**Project.environment(), **(plugin_environment(PROFILES[profile]) if PROFILES[profile] else {})}
    command = [sys.executable, "-c", PARSE, "--workflow-profile", f"profiles/{profile}", *arguments]
    return subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, timeout=300)


@pytest.mark.parametrize("profile", PROFILES)
def test_snakemake_knows_every_key(project: Project, profile: str):
    """It takes no notice of one that it does not know."""
    done = parse(project.folder, profile)
    assert done.returncode == 0, done.stderr
    args = json.loads(done.stdout)
    for key, value in yaml.safe_load(project.read(f"profiles/{profile}/config.yaml")).items():
        name = key.replace("-", "_")
        assert name in args, key
        if isinstance(value, (str, int)) and key != "max-jobs-per-timespan":
            assert args[name] in (str(value), f"{value}.0"), key  # some numbers become fractions


# ------------------------------------------------------------------------------------------------- memory and run time


# prints the resources of every job at its first, second and third attempt
RESOURCES = """
import json, sys
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import DAGSettings, OutputSettings, Quietness, ResourceSettings

asked = {}
with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
    workflow = api.workflow(ResourceSettings(cores=1), snakefile=Path("Snakefile"))
    workflow.dag(DAGSettings(targets={sys.argv[1]})).execute_workflow(executor="dryrun")
    for job in workflow._workflow.dag.jobs:
        asked[job.rule.name] = []
        for job.attempt in (1, 2, 3):
            job.reset_params_and_resources()
            asked[job.rule.name].append([job.resources[name] for name in ("mem_mb", "runtime")])
print(json.dumps(asked))
"""


def test_what_is_tried_again_gets_more(project: Project):
    """Every rule's memory doubles and its run time grows; of training the memory alone, as it goes on."""
    command = [sys.executable, "-c", RESOURCES, POSES]
    env = project.environment()
    done = subprocess.run(command, cwd=project.folder, env=env, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    asked = json.loads(done.stdout.splitlines()[-1])
    assert len(asked) == 11
    for rule, ((mem_mb, minutes), *again) in asked.items():
        longer = [minutes] * 2 if rule == "train_head" else [2 * minutes, 3 * minutes]
        assert again == [[2 * mem_mb, longer[0]], [4 * mem_mb, longer[1]]], rule


# -------------------------------------------------------------------------------------------- commands, with a stand-in


def stand_in(folder: Path, name: str, script: str) -> dict[str, str]:
    """A program of that name, first in the path."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def answer(profile: str, command: str, *arguments: str, cwd: Path, env: dict[str, str]) -> str:
    script = REPO / "profiles" / profile / command
    return subprocess.run([script, *arguments], cwd=cwd, env=env, check=True, text=True, capture_output=True).stdout


def test_grid_engine_is_asked_for_the_resources(tmp_path):
    env = stand_in(tmp_path / "bin", "qsub", 'echo "$@"')
    asked = answer("cluster-generic", "submit", "train_head", "8", "3500", "90", "2", "job.sh", cwd=tmp_path, env=env)
    assert asked.endswith("-pe smp 8 -l h_rt=5400 -l mem_free=3500M -l gpu=2 job.sh\n")
    assert (tmp_path / ".snakemake/cluster_logs").is_dir()
