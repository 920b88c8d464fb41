"""The profiles, without a cluster: Snakemake and its plugins know every key, and the commands say what they should."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import stat
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
import yaml
from cluster_project import plugin_environment
from tiny_project import POSES, REPO, Project

PROFILES = {"default": None, "slurm": "slurm", "cluster-generic": "cluster-generic", "kubernetes": "cluster-generic"}
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
    return subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, timeout=120)


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

    assert "slurm_array_job" not in args


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "default"])
def test_dry_run(project: Project, profile: str):
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--workflow-profile", f"profiles/{profile}", POSES],
        cwd=project.folder,
        env={**project.environment(), **plugin_environment(PROFILES[profile])},
        text=True,
        capture_output=True,
        timeout=120,
    )
    out = done.stdout + done.stderr
    assert done.returncode == 0, out
    assert re.search(r"^total +12$", out, re.M), out


def test_every_key_has_its_reason():
    """A comment above each key, or above the keys that go with it."""
    for path in sorted(REPO.glob("profiles/*/config.yaml")):
        for block in path.read_text().split("\n\n"):
            keys = re.findall(r"^([\w-]+):", block, re.M)
            comments = [line for line in block.splitlines() if line.lstrip().startswith("#")]
            assert not keys or comments or keys == ["executor"], f"{path}: {keys}"


def test_commands_can_be_run():
    for path in sorted(REPO.glob("profiles/*/*")):
        if path.suffix != ".yaml":
            assert path.stat().st_mode & stat.S_IXUSR, path


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
    done = subprocess.run(command, cwd=project.folder, env=env, text=True, capture_output=True, timeout=120)
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
    asked = answer("cluster-generic", "submit", "build_graph", "1", "2000", "5", "0", "job.sh", cwd=tmp_path, env=env)
    assert "gpu" not in asked
    assert (tmp_path / ".snakemake/cluster_logs").is_dir()


@pytest.mark.parametrize(
    ("queue", "account", "said"),
    [
        ("7 0.5 scrflow root r now", "", "running"),
        ("7 0.5 scrflow root qw now", "", "running"),
        ("7 0.5 scrflow root Eqw now", "", "failed"),
        ("8 0.5 scrflow root r now", "failed 0\nexit_status 0", "success"),
        ("", "failed       0    \nexit_status  1", "failed"),
        ("", "failed       37  : qmaster enforced h_rt limit\nexit_status  137", "failed"),
        ("", "", "running"),
    ],
)
def test_status_of_a_grid_engine_job(tmp_path, queue, account, said):
    stand_in(tmp_path / "bin", "qdel", "exit 0")
    stand_in(tmp_path / "bin", "qacct", f"printf '%s\\n' '{account}'" if account else "exit 1")
    env = stand_in(tmp_path / "bin", "qstat", f"printf 'job-ID prior\\n----\\n{queue}\\n'")
    assert answer("cluster-generic", "status", "7", cwd=tmp_path, env=env) == f"{said}\n"


def test_kubernetes_job(tmp_path, monkeypatch):
    for name, value in {"IMAGE": "image:1", "CLAIM": "projects", "MOUNT": "/projects"}.items():
        monkeypatch.setenv(f"SCRFLOW_K8S_{name}", value)
    env = stand_in(tmp_path / "bin", "kubectl", "cat")
    made = answer("kubernetes", "submit", "train_head", "8", "3500", "90", "1", "job.sh", cwd=tmp_path, env=env)
    job = json.loads(made)
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert job["spec"]["activeDeadlineSeconds"] == 5400
    assert container["resources"]["limits"] == {"memory": "3500M", "nvidia.com/gpu": "1"}
    assert container["workingDir"] == str(tmp_path) and container["command"][-1] == "job.sh"

    monkeypatch.delenv("SCRFLOW_K8S_CLAIM")
    command = [REPO / "profiles/kubernetes/submit", "build_graph", "1", "2000", "5", "0", "job.sh"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: SCRFLOW_K8S_CLAIM is not set")


@pytest.mark.skipif(os.getuid() != 0, reason="a process namespace of its own is made by root")
@pytest.mark.parametrize("passes_on", [True, False])
def test_signal_to_a_pod_reaches_the_job(tmp_path, passes_on):
    """The first process of a pod gets SIGTERM alone; training is to have the time to save."""
    loader = SourceFileLoader("kubernetes_submit", str(REPO / "profiles/kubernetes/submit"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    script = tmp_path / "job.sh"
    script.write_text("trap 'sleep 0.3; echo saved; exit 3' TERM; echo begun; sleep 60 & wait $!\n")
    shell = module.SHELL if passes_on else module.SHELL.replace("trap 'kill -TERM -1' TERM", "")
    pod = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", shell, script],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert pod.stdout.readline() == "begun\n"
        first = int(subprocess.run(["pgrep", "-P", str(pod.pid)], text=True, capture_output=True, check=True).stdout)
        os.kill(first, 15)
        if passes_on:
            assert pod.stdout.read() == "saved\n"
            assert pod.wait(10) == 3
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                pod.wait(2)
    finally:
        pod.kill()
        pod.wait()
