"""Datasets from tables of files and from archives, by a stand-in for the network."""

import json
from pathlib import Path

import pytest
from exif_photos import real
from fake_server import HOST, sha, zipped

from scrflow.config import Archive, Download
from scrflow.core.errors import ScrflowError, error_line
from scrflow.scene.downloads import download_dataset, read_table
from scrflow.storage.fetch import check_fetched, fetch, list_path

ZIP = f"{HOST}room.zip"


def write_table(folder: Path, *rows: tuple[str, ...]) -> Path:
    table = folder / "scene.tsv"
    table.write_text("path\tsha256\turl\tkeep\n" + "".join("\t".join(r) + "\n" for r in rows))
    return table


def get(out: Path, table: Path | None = None, **archive) -> None:
    archives = (Archive(url=ZIP, **archive),) if table is None else ()
    download_dataset(Download(files=table and "scene.tsv", archives=archives), table, out)


def tree(folder: Path) -> list[str]:
    files = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in files if not name.startswith(".scrflow/"))


def test_files_arrive_with_their_checksum_and_stay(tmp_path, server):
    (tmp_path / "mapping.txt").write_text("a.jpg\n")
    rows = ("images/a.jpg", sha(b"photo"), HOST + "a"), ("lists/m.txt", sha(b"a.jpg\n"), "mapping.txt")
    table, out = write_table(tmp_path, *rows), tmp_path / "out"
    server.files[HOST + "a"] = b"photo"
    for _ in range(2):
        get(out, table)
    assert tree(out) == ["images/a.jpg", "lists/m.txt"] and len(server.asked) == 1
    (out / "images/a.jpg").write_bytes(b"other")
    with pytest.raises(ScrflowError, match="is not what was fetched"):
        check_fetched(out, [out / "images/a.jpg"])
    get(out, table)
    check_fetched(out, [out / "images/a.jpg"])


@pytest.mark.parametrize("kind", ["table", "archive"])
def test_a_broken_transfer_goes_on_where_it_stopped(tmp_path, server, kind):
    inside = bytes(range(256)) * 4000
    data = zipped({"a.bin": inside}) if kind == "archive" else inside
    server.files[ZIP], server.break_after = data, 1000
    get(tmp_path / "out", write_table(tmp_path, ("a.bin", sha(data), ZIP)) if kind == "table" else None)
    assert (tmp_path / "out/a.bin").read_bytes() == inside and tree(tmp_path / "out") == ["a.bin"]
    assert server.asked == [(ZIP, None), (ZIP, "bytes=1000-")]


def test_a_full_disk_is_not_the_server_s(tmp_path, server):
    """No second attempt, and no advice to fetch the file by hand."""
    part = tmp_path / "part"
    part.symlink_to("/dev/full")
    server.files[HOST + "a"] = b"photo"
    with pytest.raises(OSError) as found:
        fetch(HOST + "a", part)
    assert error_line(found.value) == f"{part}: No space left on device; make room and run again"
    assert len(server.asked) == 1


def test_kept_lines_take_the_names_of_the_list(tmp_path, server):
    (tmp_path / "list.txt").write_text("seq/b.jpg\nseq/a.jpg\n")
    expected = b"seq/b.jpg 4 5\nseq/a.jpg 1 2\n"
    server.files[HOST + "p"] = b"seq/a.png 1 2\r\nother/c.png 9 9\r\nseq/b.png 4  5\r\n"
    get(tmp_path / "out", write_table(tmp_path, ("poses.txt", sha(expected), HOST + "p", "list.txt")))
    assert (tmp_path / "out/poses.txt").read_bytes() == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("../a", "0" * 64, HOST), "line 2: key path"),
        (("/etc/a", "0" * 64, HOST), "line 2: key path"),
        (("a", "0" * 63, HOST), "line 2: key sha256"),
        (("a", "0" * 64, "http://example.org/a"), "line 2: key url"),
        (("linked/a", sha(b"right"), HOST + "a"), "symbolic link"),
        (("a.bin", sha(b"wrong"), HOST + "a"), r"SHA-256 is .* expected .*a\.bin"),
        (("a.bin", sha(b"x"), HOST + "none"), r"org/none: cannot be downloaded \(HTTP 404.*out/a\.bin.*data_root"),
    ],
)
def test_what_cannot_be_had_leaves_no_file(tmp_path, server, row, message):
    server.files[HOST + "a"] = b"right"
    for folder in ("out", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "out/linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ScrflowError, match=message):
        get(tmp_path / "out", write_table(tmp_path, row))
    assert not tree(tmp_path / "out") and not tree(tmp_path / "elsewhere")


@pytest.mark.parametrize("scene", ["fox", "redkitchen"])
def test_the_project_tables_match_the_data_at_hand(scene):
    files = read_table(Path("config/scenes/downloads") / f"{scene}.tsv")
    for file in files:
        assert file.keep or sha((real(scene) / file.path).read_bytes()) == file.sha256, file.path


def test_an_archive_with_archives_in_it(tmp_path, server):
    """7-Scenes: a zip a room, with a zip a sequence in it."""
    inner = zipped({"seq-01/a.color.png": b"a", "seq-01/a.depth.png": b"d"})
    data = zipped({"chess/TrainSplit.txt": b"sequence1\n", "chess/seq-01.zip": inner})
    server.files[ZIP] = data
    keys = {"sha256": sha(data), "nested": "chess/seq-*.zip"}
    for _ in range(2):
        get(tmp_path, skip=("*.depth.png",), **keys)
    assert tree(tmp_path) == ["chess/TrainSplit.txt", "chess/seq-01/a.color.png"] and len(server.asked) == 1
    check_fetched(tmp_path, [tmp_path / name for name in tree(tmp_path)])
    get(tmp_path, **keys)  # other members wanted: fetched again
    assert "chess/seq-01/a.depth.png" in tree(tmp_path) and len(server.asked) == 2
    list_path(tmp_path, "room.zip").unlink()  # as the error of a changed file says
    get(tmp_path, **keys)
    assert len(server.asked) == 3
    with pytest.raises(ScrflowError, match=r"room\.zip: holds no b\*\.zip; correct key nested"):
        get(tmp_path, sha256=sha(data), nested="b*.zip")


def test_a_checksum_nobody_published_is_recorded_and_checked(tmp_path, server):
    first, second = zipped({"a.txt": b"a"}), zipped({"a.txt": b"other"})
    server.files[ZIP] = first
    get(tmp_path)
    assert json.loads((tmp_path / ".scrflow/room.zip.json").read_text())["sha256"] == sha(first)
    server.files[ZIP] = second
    with pytest.raises(ScrflowError, match=rf"room\.zip: SHA-256 is {sha(second)}, .*room\.zip\.json.*{sha(first)}"):
        get(tmp_path, into="b")
    with pytest.raises(ScrflowError, match=r"room\.zip: SHA-256 is .* the config says 0000"):
        get(tmp_path, into="b", sha256="0" * 64)
    assert (tmp_path / "a.txt").read_bytes() == b"a"


def test_what_cannot_be_fetched_says_what_to_do(tmp_path, server, monkeypatch):
    monkeypatch.setenv("SCRFLOW_OFFLINE", "1")
    with pytest.raises(ScrflowError, match="SCRFLOW_OFFLINE is set"):
        get(tmp_path)
    with pytest.raises(ScrflowError, match=r"gone: nothing there.*https://example\.org/terms"):
        download_dataset(Download(page="https://example.org/terms"), None, tmp_path / "gone")


def test_an_archive_that_a_person_put_there_is_taken(tmp_path, server):
    (tmp_path / "room.zip").write_bytes(zipped({"a.txt": b"a"}))
    get(tmp_path)
    assert tree(tmp_path) == ["a.txt"] and not server.asked
