"""Makes tiny_project.py importable, gives projects to the tests, and deals the tests out to processes (pytest -n)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parent / "workflow"))

from tiny_project import POSES, REPO, Project

# folders whose files take minutes: begun last, one of them would be waited for by the other processes
_LONG = ("tests/cluster", "tests/workflow", "tests/faults")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist, which reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one group run in one process, one after another: those of a file, and those of the SLURM node."""
    paths = {item: item.path.relative_to(REPO).as_posix() for item in items}
    items.sort(key=lambda item: next((i for i, long in enumerate(_LONG) if paths[item].startswith(long)), len(_LONG)))
    for item in items:
        cluster = paths[item].startswith("tests/cluster")
        item.add_marker(pytest.mark.xdist_group("cluster" if cluster else paths[item]))


@pytest.fixture()
def project(tmp_path: Path) -> Project:
    """A fresh project, nothing run."""
    return Project(tmp_path / "project")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose poses are made; tests that change something in it must put it back."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    # it is run once for all processes; each has a copy, as one may change something while another reads it
    with FileLock(shared / "pristine.lock"):
        if not (shared / "pristine.done").exists():
            Project(shared / "pristine").snakemake(POSES)
            (shared / "pristine.done").touch()
        return Project.at(shared / "pristine").copy(own / "finished" / "project")


@pytest.fixture()
def copied(finished: Project, tmp_path: Path) -> Project:
    """A copy of it, to be changed."""
    return finished.copy(tmp_path / "project")
