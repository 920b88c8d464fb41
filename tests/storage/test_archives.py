"""Archives are unpacked inside their folder, and what was fetched is remembered. Harmful archives: tests/badinput."""

import io
import subprocess
import tarfile

import pytest
from fake_server import sha, zipped

from scrflow.core.errors import ScrflowError
from scrflow.storage.fetch import check_fetched, list_path, unpack, write_list


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
def test_tars(tmp_path, mode):
    with tarfile.open(tmp_path / "x.tar", mode) as t:
        for name, data in {"a/b.txt": b"b" * 5000, "c.txt": b"", "d/skipped.depth.png": b"d"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    out = tmp_path / "out"
    (out / ".unpacking-x.tar/old").mkdir(parents=True)  # left by a run that was killed
    found = unpack(tmp_path / "x.tar", out, ("*.depth.png",))
    assert found == {out / "a/b.txt": sha(b"b" * 5000), out / "c.txt": sha(b"")}
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == {
        out / "a/b.txt": b"b" * 5000,
        out / "c.txt": b"",
    }
    assert sorted(p.name for p in out.iterdir()) == ["a", "c.txt"]


def test_a_damaged_archive_leaves_what_was_there(tmp_path):
    data = zipped({"a.txt": b"new", "b.bin": bytes(range(256)) * 4000})
    at = data.index(b"b.bin") + 500
    (tmp_path / "x.zip").write_bytes(data[:at] + b"\xff" * 50 + data[at + 50 :])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.txt").write_bytes(b"old")
    with pytest.raises(ScrflowError, match=r"x\.zip: damaged or not an archive"):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    assert [p.read_bytes() for p in (tmp_path / "out").iterdir()] == [b"old"]


AGAIN = r"delete .*room/\.scrflow/room\.zip\.sha256 and .*room\.downloaded and run again"


@pytest.fixture
def room(tmp_path):
    root = tmp_path / "room"
    for name in ("a.txt", "seq/b.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    write_list(root, "room.zip", {name: sha(name.encode()) for name in ("a.txt", "seq/b.png")})
    return root


def test_lists_are_sha256sums(room):
    command = ["sha256sum", "--check", "--strict", list_path(room, "room.zip")]
    assert subprocess.check_output(command, cwd=room, text=True).count(": OK") == 2
    check_fetched(room, [room / "a.txt", room / "seq/b.png", room / "mine.txt"])


def test_changed_and_lost_files(room):
    (room / "seq/b.png").write_bytes(b"other")
    check_fetched(room, [room / "a.txt"])
    with pytest.raises(ScrflowError, match=rf"seq/b\.png: is not what was fetched.*{AGAIN}"):
        check_fetched(room, [room / "seq/b.png"])
    write_list(room, "z.zip", {"seq/b.png": sha(b"other")})  # a later archive brought it again
    check_fetched(room, [room / "seq/b.png"])
    (room / "a.txt").unlink()
    with pytest.raises(ScrflowError, match=rf"a\.txt: was fetched, and is gone.*{AGAIN}"):
        check_fetched(room, [room / "a.txt"])


@pytest.mark.parametrize(
    "change", [lambda t: t[:-3], lambda t: t[70:], lambda t: t.replace("  ", " ", 1), lambda t: ""]
)
def test_a_damaged_list(room, change):
    listed = list_path(room, "room.zip")
    listed.write_text(change(listed.read_text()))
    with pytest.raises(ScrflowError, match=rf"damaged list of what was fetched; {AGAIN}"):
        check_fetched(room, [room / "a.txt"])


def test_a_link_in_the_folder_is_not_followed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "x.zip").write_bytes(zipped({"a/b": b"b"}))
    with pytest.raises(ScrflowError, match="symbolic link"):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())
