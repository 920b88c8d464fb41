"""Archives of datasets: fetched by a stand-in for the network, unpacked for real."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from test_download import HOST, Server, sha

from scrflow.config import Archive, Download
from scrflow.core.errors import ScrflowError
from scrflow.scene.downloads import download_dataset
from scrflow.storage.archives import unpack


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in files.items():
            z.writestr(name, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w:gz", **special: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as t:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
        for name, kind in special.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            t.addfile(info)
    return buffer.getvalue()


def config(**archive) -> Download:
    return Download(archives=(Archive(url=f"{HOST}room.zip", **archive),))


def tree(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and ".scrflow" not in p.parts}


def test_an_archive_with_archives_in_it(tmp_path):
    """7-Scenes: a zip a room, with a zip a sequence in it."""
    inner = zipped({"seq-01/a.color.png": b"a", "seq-01/a.depth.png": b"d"})
    data = zipped({"chess/TrainSplit.txt": b"sequence1\n", "chess/seq-01.zip": inner})
    server = Server({HOST + "room.zip": data})
    download = config(sha256=sha(data), nested="chess/seq-*.zip", skip=("*.depth.png",))
    download_dataset(download, None, tmp_path, server)
    assert tree(tmp_path) == {"chess/TrainSplit.txt", "chess/seq-01/a.color.png"}
    download_dataset(download, None, tmp_path, server)
    assert len(server.ranges) == 1  # it is known to be unpacked
    # other members wanted: fetched again
    download_dataset(config(sha256=sha(data), nested="chess/seq-*.zip"), None, tmp_path, server)
    assert "chess/seq-01/a.depth.png" in tree(tmp_path) and len(server.ranges) == 2


def test_a_single_file_is_put_in_its_folder(tmp_path):
    download = Download(archives=(Archive(url=f"{HOST}queries/day.txt", into="queries", unpack=False),))
    server = Server({HOST + "queries/day.txt": b"a.jpg\n"})
    for _ in range(2):
        download_dataset(download, None, tmp_path, server)
    assert tree(tmp_path) == {"queries/day.txt"} and len(server.ranges) == 1


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
def test_tars(tmp_path, mode):
    (tmp_path / "x.tar").write_bytes(tarred({"a/b.txt": b"b" * 5000, "c.txt": b""}, mode))
    out = tmp_path / "out"
    assert unpack(tmp_path / "x.tar", out) == {out / "a/b.txt": sha(b"b" * 5000), out / "c.txt": sha(b"")}
    assert (tmp_path / "out/a/b.txt").read_bytes() == b"b" * 5000 and tree(tmp_path / "out") == {"a/b.txt", "c.txt"}


def test_a_broken_transfer_goes_on_where_it_stopped(tmp_path):
    data = zipped({"a.bin": bytes(range(256)) * 4000})
    server = Server({HOST + "room.zip": data}, break_after=1000)
    download_dataset(config(), None, tmp_path, server)
    assert server.ranges == [None, "bytes=1000-"] and tree(tmp_path) == {"a.bin"}


def test_an_archive_that_a_person_put_there_is_taken(tmp_path):
    (tmp_path / "room.zip").write_bytes(zipped({"a.txt": b"a"}))
    download_dataset(config(), None, tmp_path, Server({}))
    assert tree(tmp_path) == {"a.txt"}


def test_a_checksum_nobody_published_is_recorded_and_checked(tmp_path):
    first, second = zipped({"a.txt": b"a"}), zipped({"a.txt": b"other"})
    download_dataset(config(), None, tmp_path, Server({HOST + "room.zip": first}))
    record = tmp_path / ".scrflow/room.zip.json"
    assert json.loads(record.read_text())["sha256"] == sha(first)
    with pytest.raises(ScrflowError, match=rf"room\.zip: SHA-256 is {sha(second)}, .*room\.zip\.json.*{sha(first)}"):
        download_dataset(config(into="b"), None, tmp_path, Server({HOST + "room.zip": second}))
    assert (tmp_path / "a.txt").read_bytes() == b"a"


def test_a_wrong_checksum_unpacks_nothing(tmp_path):
    with pytest.raises(ScrflowError, match=r"room\.zip: SHA-256 is .* the config says 0000"):
        download_dataset(config(sha256="0" * 64), None, tmp_path, Server({HOST + "room.zip": zipped({"a": b"a"})}))
    assert tree(tmp_path) == {"room.zip"}


def test_what_cannot_be_fetched_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(ScrflowError, match=r"room\.zip: cannot be downloaded \(HTTP 404.*put it at .*room\.zip"):
        download_dataset(config(), None, tmp_path, Server({}))
    monkeypatch.setenv("SCRFLOW_OFFLINE", "1")
    with pytest.raises(ScrflowError, match="SCRFLOW_OFFLINE is set"):
        download_dataset(config(), None, tmp_path, Server({}))
    with pytest.raises(ScrflowError, match=r"gone: nothing there.*https://example\.org/terms"):
        download_dataset(Download(page="https://example.org/terms"), None, tmp_path / "gone")


def truncated_tar() -> bytes:
    return tarred({"a.bin": bytes(range(256)) * 4000}, "w:")[:9000]


def link_in_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        z.writestr(info, "/etc/passwd")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not an archive", "damaged or not an archive"),
        (zipped({"a": bytes(100_000)})[:-30], "damaged or not an archive"),
        (truncated_tar(), "damaged or not an archive"),
        (zipped({"../a": b"x"}), "leads out of the folder"),
        (zipped({"/etc/a": b"x"}), "leads out of the folder"),
        (zipped({"b\\..\\a": b"x"}), "leads out of the folder"),
        (tarred({"x/../../a": b"x"}), "leads out of the folder"),
        (tarred({}, link=tarfile.SYMTYPE), "a link or a device"),
        (tarred({}, link=tarfile.LNKTYPE), "a link or a device"),
        (tarred({}, link=tarfile.CHRTYPE), "a link or a device"),
        (link_in_zip(), "a link or a device"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,  # the bytes hold the time
)
def test_bad_archives_write_nothing(tmp_path, data, message):
    (tmp_path / "bad.zip").write_bytes(data)
    with pytest.raises(ScrflowError, match=rf"bad\.zip: .*{message}"):
        unpack(tmp_path / "bad.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists() or not tree(tmp_path / "out")


def test_a_bomb_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as z, z.open("zeros", "w") as f:
        for _ in range(1100):
            f.write(bytes(1 << 20))
    assert (tmp_path / "bomb.zip").stat().st_size < 2e6
    with pytest.raises(ScrflowError, match=r"unpacks to 1\.2 GB, 200 times its size"):
        unpack(tmp_path / "bomb.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_in_the_folder_is_not_followed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "x.zip").write_bytes(zipped({"a/b": b"b"}))
    with pytest.raises(ScrflowError, match="symbolic link"):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())
