"""Files that were fetched and are others by now."""

import subprocess

import pytest
from test_archives import config, zipped
from test_download import HOST, Server, sha, write_table

from scrflow.config import Download
from scrflow.core.errors import ScrflowError
from scrflow.scene.downloads import download_dataset
from scrflow.storage.fetched import check_fetched, list_path

MEND = r"delete .*room/\.scrflow/room\.zip\.sha256 and .*room\.downloaded and run again"


@pytest.fixture
def room(tmp_path):
    """A dataset of an archive in an archive, and of a table."""
    inner = zipped({"a.png": b"photo a", "b.png": b"photo b"})
    archive = zipped({"seq/1.zip": inner, "poses.txt": b"1 0 0 0\n"})
    table = write_table(tmp_path, ("split/mapping.txt", sha(b"a.png\n"), HOST + "m"))
    server = Server({HOST + "room.zip": archive, HOST + "m": b"a.png\n"})
    download = Download(files="scene.tsv", archives=config(nested="seq/*.zip").archives)
    out = tmp_path / "room"
    download_dataset(download, table, out, server)
    return out, lambda: download_dataset(download, table, out, server)


def files(root):
    return [path for path in sorted(root.rglob("*")) if path.is_file() and ".scrflow" not in path.parts]


def test_the_lists_are_sha256sums(room):
    root, _ = room
    assert [path.relative_to(root).as_posix() for path in files(root)] == [
        "poses.txt",
        "seq/a.png",
        "seq/b.png",
        "split/mapping.txt",
    ]
    for name in ("room.zip", "files"):
        done = subprocess.run(["sha256sum", "--check", "--strict", list_path(root, name)], cwd=root, text=True,
                              capture_output=True, check=True)  # fmt: skip
        assert done.stdout.count(": OK") == {"room.zip": 3, "files": 1}[name]
    check_fetched(root, files(root))


def test_a_changed_file_is_told_and_fetched_again(room):
    root, again = room
    photo = root / "seq/b.png"
    photo.write_bytes(b"photo B")
    check_fetched(root, [root / "seq/a.png", root / "mine.txt"])
    with pytest.raises(ScrflowError, match=rf"seq/b\.png: is not what was fetched.*{MEND}"):
        check_fetched(root, files(root))
    list_path(root, "room.zip").unlink()
    again()
    assert photo.read_bytes() == b"photo b"
    check_fetched(root, files(root))


def test_a_file_that_is_gone(room):
    root, _ = room
    (root / "poses.txt").unlink()
    with pytest.raises(ScrflowError, match=rf"poses\.txt: was fetched, and is gone.*{MEND}"):
        check_fetched(root, [root / "poses.txt"])


@pytest.mark.parametrize(
    "change", [lambda t: t[:-3], lambda t: t[70:], lambda t: t.replace("  ", " ", 1), lambda t: ""]
)
def test_a_damaged_list(room, change):
    root, _ = room
    listed = list_path(root, "room.zip")
    listed.write_text(change(listed.read_text()))
    with pytest.raises(ScrflowError, match=rf"damaged list of what was fetched; {MEND}"):
        check_fetched(root, files(root))


def test_a_file_that_two_archives_bring(tmp_path):
    """The later one is what is there; neither list is wrong."""
    first = zipped({"poses.txt": b"of the first\n"})
    download = Download(archives=({"url": HOST + "a.zip"}, {"url": HOST + "z.zip"}))
    server = Server({HOST + "a.zip": first, HOST + "z.zip": zipped({"poses.txt": b"of the second\n"})})
    download_dataset(download, None, tmp_path / "two", server)
    assert (tmp_path / "two/poses.txt").read_bytes() == b"of the second\n"
    check_fetched(tmp_path / "two", files(tmp_path / "two"))


def test_a_folder_that_we_did_not_download(tmp_path):
    check_fetched(tmp_path, [tmp_path / "nothing.txt"])
