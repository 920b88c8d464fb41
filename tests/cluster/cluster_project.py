"""Projects whose jobs go to a cluster, and the plugins that they need."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from slurm_node import SlurmNode
from tiny_project import REPO, Project

PLUGINS = REPO / ".venv-cluster"  # where make puts them: every Snakemake that finds them starts slower


def plugin_environment(plugin: str) -> dict[str, str]:
    """What lets Snakemake find its executor plugin; skips the test where it is not installed."""
    module = f"snakemake_executor_plugin_{plugin.replace('-', '_')}"
    if find_spec(module) is not None:
        return {}
    if not (PLUGINS / module).is_dir():
        pytest.skip(f"no {module}: make cluster-plugins")
    return {"PYTHONPATH": str(PLUGINS)}


class SlurmProject(Project):
    """Runs by profiles/slurm on a node."""

    def __init__(self, folder: Path, node: SlurmNode):
        super().__init__(folder)
        self.node = node

    def command(self, *arguments: str) -> list[str]:  # type: ignore[override]
        # jobs last seconds here: look at them more often; and this SLURM keeps no accounts
        options = ["--slurm-init-seconds-before-status-checks", "2", "--slurm-status-command", "squeue"]
        return [sys.executable, "-m", "snakemake", *arguments, "--workflow-profile", "profiles/slurm", *options]

    def environment(self) -> dict[str, str]:  # type: ignore[override]
        return {**Project.environment(), **plugin_environment("slurm"), **self.node.environment}


def submitted(output: str) -> list[str]:
    """Ids of the jobs that Snakemake says it submitted."""
    return re.findall(r"SLURM (?:jobid|job ID) (\d+)", output)
