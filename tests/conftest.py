"""Makes tiny_project.py importable, and gives projects to the tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "workflow"))

from tiny_project import POSES, Project


@pytest.fixture()
def project(tmp_path: Path) -> Project:
    """A fresh project, nothing run."""
    return Project(tmp_path / "project")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose poses are made; tests that change something in it must put it back."""
    done = Project(tmp_path_factory.mktemp("finished") / "project")
    done.snakemake(POSES)
    return done


@pytest.fixture()
def copied(finished: Project, tmp_path: Path) -> Project:
    """A copy of it, to be changed."""
    return finished.copy(tmp_path / "project")
