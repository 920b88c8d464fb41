"""Whether a SLURM may be started here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import slurm_node


@pytest.fixture
def etc(tmp_path, monkeypatch) -> Path:
    """The folder in place of /etc/slurm, linked to that of a node."""
    monkeypatch.setattr(slurm_node, "ETC", tmp_path / "etc")
    (tmp_path / "etc").mkdir()
    (tmp_path / "node").mkdir()
    for name in slurm_node.FILES:
        (tmp_path / "node" / name).touch()
        (tmp_path / "etc" / name).symlink_to(tmp_path / "node" / name)
    return tmp_path / "etc"


def taken(etc: Path) -> bool:
    return str(etc) in slurm_node.missing()


def test_what_a_killed_node_left_is_in_nobodys_way(etc, tmp_path):
    if reason := slurm_node.missing().partition("this machine has")[0]:
        pytest.skip(reason)
    assert taken(etc), "links that we cannot tell are ours"
    pid = tmp_path / "node/munged.pid"  # as SlurmNode has munged write it
    pid.write_text(f"{os.getpid()}\n")
    assert taken(etc), "a node that runs"
    ended = subprocess.Popen(["true"])
    ended.wait()
    pid.write_text(f"{ended.pid}\n")
    assert not taken(etc)
    (etc / slurm_node.FILES[0]).unlink()
    (etc / slurm_node.FILES[0]).touch()
    assert taken(etc), "a file of the machine's own"
