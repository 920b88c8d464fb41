"""Photos from, and results to, a real object store on this machine."""

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest
import yaml
from tiny_project import POSES, REPO, Project

PLUGINS = REPO / ".venv-storage"
SCENE = "results/tiny/scene/scene.json"
STORE = ("--default-storage-provider", "s3", "--default-storage-prefix", "s3://maps/run")

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not (PLUGINS / ".ready").exists(), reason="no server and no plugins here: make storage-plugins"),
]
_SERVE = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"
_PUT = """
import sys, boto3
client = boto3.client("s3")
client.create_bucket(Bucket=sys.argv[1])
for path in sys.argv[2:]:
    client.upload_file(path, sys.argv[1], "scenes/" + path.rsplit("/", 1)[1])
"""
_GET = """
import sys, boto3
print(boto3.client("s3").get_object(Bucket=sys.argv[1], Key=sys.argv[2])["Body"].read().decode(), end="")
"""


class Stored(Project):
    """A project whose commands find the plugins and the server."""

    def __init__(self, folder: Path, store: dict[str, str]):
        super().__init__(folder)
        self.store = store

    def environment(self) -> dict[str, str]:  # type: ignore[override]
        return {**super().environment(), **self.store}

    def download(self, url: str, sha256: str) -> None:
        """The scene is to come from this archive."""
        scene = yaml.safe_load(self.read("config/scenes/tiny.yaml"))
        scene |= {"in_project": False, "root": "tiny", "download": {"archives": [{"url": url, "sha256": sha256}]}}
        self.write("config/scenes/tiny.yaml", scene)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> dict[str, str]:
    """The environment in which boto3 finds a store on this machine."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    env = {
        "PYTHONPATH": str(PLUGINS),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    log = tmp_path_factory.mktemp("store") / "log"
    with open(log, "wb") as out:
        server = subprocess.Popen(
            [sys.executable, "-c", _SERVE, port], env={**os.environ, **env}, stdout=out, stderr=out
        )
    try:
        end = time.monotonic() + 300
        while True:
            assert server.poll() is None and time.monotonic() < end, log.read_text()
            with contextlib.suppress(OSError):
                urllib.request.urlopen(env["AWS_ENDPOINT_URL"], timeout=5).close()
                break
            time.sleep(0.1)
        yield env
    finally:
        server.terminate()
        server.wait()


def in_store(store: dict[str, str], code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **store},
        text=True,
        capture_output=True,
        check=True,
    )
    return done.stdout


@pytest.fixture()
def stored(store, tmp_path) -> Stored:
    return Stored(tmp_path / "project", store)


def archived(project: Project, folder: Path) -> tuple[Path, str]:
    """The scene's folder as a zip, taken out of the project; its SHA-256."""
    path = folder / "tiny scene.zip"
    data = project.folder / "data"
    with zipfile.ZipFile(path, "w") as z:
        for root, _, names in os.walk(data, followlinks=True):
            for name in sorted(names):
                z.write(Path(root, name), Path(root, name).relative_to(data))
    shutil.rmtree(data)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_photos_from_a_bucket(stored: Stored, tmp_path):
    archive, sha256 = archived(stored, tmp_path)
    in_store(stored.store, _PUT, "photos", str(archive))

    stored.download("s3://photos/scenes/tiny%20scene.zip", "0" * 64)
    out = stored.snakemake(SCENE, check=False).stdout
    assert "Traceback" not in out and f"SHA-256 is {sha256}" in out, out
    (stored.folder / "resources/tiny/tiny scene.zip").unlink()

    stored.download("s3://photos/scenes/other.zip", sha256)
    out = stored.snakemake(SCENE, check=False).stdout
    assert "Traceback" not in out and "s3://photos/scenes/other.zip" in out and "HTTP 404" in out, out

    # what a broken transfer left is gone on with: the second half comes, and the whole has the right digest
    stored.download("s3://photos/scenes/tiny%20scene.zip", sha256)
    part = stored.folder / "resources/tiny/.scrflow/tiny scene.zip.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    stored.snakemake(SCENE)
    assert (stored.folder / "resources/tiny/mapping.txt").is_file()


def test_without_boto3_the_fix_is_named(stored: Stored):
    stored.store = {key: value for key, value in stored.store.items() if key != "PYTHONPATH"}
    stored.download("s3://photos/scenes/tiny.zip", "0" * 64)
    out = stored.snakemake(SCENE, check=False).stdout
    assert "Traceback" not in out and "needs boto3: make storage-plugins" in out, out


def test_results_in_a_bucket(stored: Stored, finished: Project):
    """Nothing but the photos, the config and the log of Snakemake on this machine; and the same poses."""
    in_store(stored.store, _PUT, "maps")
    stored.snakemake(*STORE, "--", POSES)
    found = in_store(stored.store, _GET, "maps", f"run/{POSES}")
    assert found.encode() == finished.read(POSES)
    assert not [path for path in (stored.folder / "results").rglob("*") if path.is_file()]
    assert "Nothing to be done" in stored.snakemake("-n", *STORE, "--", POSES).stdout

    # files of the scene that no rule names are only where the scene was read: elsewhere that is told, not passed over
    shutil.rmtree(stored.folder / ".snakemake/storage")
    stored.edit("config/methods/quick.yaml", "iterations: 100", "iterations: 99")
    out = stored.snakemake(*STORE, "--", POSES, check=False).stdout
    assert "damaged scene" in out and "Traceback" not in out, out
