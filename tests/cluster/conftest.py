"""Gives tests a SLURM of one node."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_project import SlurmProject
from slurm_node import SlurmNode, missing


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmNode]:
    """A node that takes jobs, for as long as the tests last."""
    if reason := missing():
        pytest.skip(reason)
    node = SlurmNode(tmp_path_factory.mktemp("slurm"))
    try:
        node.start()
        yield node
    finally:
        node.stop()


@pytest.fixture()
def slurm_project(tmp_path: Path, slurm: SlurmNode) -> SlurmProject:
    """A fresh project that runs on the node."""
    return SlurmProject(tmp_path / "project", slurm)
