"""The profiles, without a cluster: Snakemake and its plugins know every key, and the commands say what they should."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cluster_project import plugin_environment
from tiny_project import REPO, Project

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


def test_the_generic_profile_asks_for_the_resources(tmp_path):
    qsub = tmp_path / "bin/qsub"
    qsub.parent.mkdir()
    qsub.write_text('#!/bin/sh\necho "$@"\n')
    qsub.chmod(0o755)
    env = {**os.environ, "PATH": f"{qsub.parent}:{os.environ['PATH']}"}
    command = [REPO / "profiles/cluster-generic/submit", "train_head", "8", "3500", "90", "2", "job.sh"]
    asked = subprocess.run(command, cwd=tmp_path, env=env, check=True, text=True, capture_output=True).stdout
    assert asked.endswith("-pe smp 8 -l h_rt=5400 -l mem_free=3500M -l gpu=2 job.sh\n")
    assert (tmp_path / ".snakemake/cluster_logs").is_dir()
