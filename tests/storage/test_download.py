"""Downloads, with a stand-in for the network: nothing here leaves the machine."""

import hashlib
import io
import urllib.error
from pathlib import Path

import pytest

from scrflow.core.errors import ScrflowError, error_line
from scrflow.scene.downloads import download_files, read_table
from scrflow.storage.transfer import fetch

HOST = "https://example.org/"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Server:
    """Serves bytes by url, honours Range, and can break a transfer off after some bytes."""

    def __init__(self, files: dict[str, bytes], break_after: int | None = None):
        self.files, self.break_after, self.ranges = files, break_after, []

    def __call__(self, request, timeout):
        url = request.full_url
        if url not in self.files:
            raise urllib.error.HTTPError(url, 404, "Not Found", {}, io.BytesIO())
        wanted = request.get_header("Range")
        self.ranges.append(wanted)
        start = int(wanted.split("=")[1].rstrip("-")) if wanted else 0
        body = self.files[url][start:]
        sent = body
        if self.break_after is not None:
            sent, self.break_after = body[: self.break_after], None
        response = io.BytesIO(sent)
        response.status = 206 if wanted else 200
        response.headers = {"Content-Length": str(len(body))}
        return response


def write_table(folder: Path, *rows: tuple[str, ...]) -> Path:
    table = folder / "scene.tsv"
    table.write_text("path\tsha256\turl\tkeep\n" + "".join("\t".join(r) + "\n" for r in rows))
    return table


def test_files_arrive_with_their_checksum_and_stay(tmp_path):
    (tmp_path / "mapping.txt").write_text("a.jpg\n")
    table = write_table(
        tmp_path, ("images/a.jpg", sha(b"photo"), HOST + "a"), ("lists/m.txt", sha(b"a.jpg\n"), "mapping.txt")
    )
    server = Server({HOST + "a": b"photo"})
    download_files(table, tmp_path / "out", server)
    assert (tmp_path / "out/images/a.jpg").read_bytes() == b"photo"
    assert (tmp_path / "out/lists/m.txt").read_text() == "a.jpg\n"
    download_files(table, tmp_path / "out", server)
    assert len(server.ranges) == 1


def test_a_broken_transfer_goes_on_where_it_stopped(tmp_path):
    data = bytes(range(256)) * 1000
    table = write_table(tmp_path, ("a.bin", sha(data), HOST + "a"))
    server = Server({HOST + "a": data}, break_after=100_000)
    download_files(table, tmp_path / "out", server)
    assert (tmp_path / "out/a.bin").read_bytes() == data
    assert server.ranges == [None, "bytes=100000-"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.bin"]


def test_a_full_disk_is_not_the_server_s(tmp_path):
    """It is not tried again, and not told as a file to be had by hand."""
    part = tmp_path / "part"
    part.symlink_to("/dev/full")
    server = Server({HOST + "a": b"photo"})
    with pytest.raises(OSError) as found:
        fetch(HOST + "a", part, server)
    assert error_line(found.value) == f"{part}: No space left on device; make room and run again"
    assert len(server.ranges) == 1


def test_a_wrong_checksum_is_an_error_and_leaves_no_file(tmp_path):
    table = write_table(tmp_path, ("a.bin", sha(b"right"), HOST + "a"))
    with pytest.raises(ScrflowError, match=r"SHA-256 is .* expected .*a\.bin"):
        download_files(table, tmp_path / "out", Server({HOST + "a": b"wrong"}))
    assert not list((tmp_path / "out").iterdir())


def test_an_unreachable_source_says_what_to_do_by_hand(tmp_path):
    table = write_table(tmp_path, ("a.bin", sha(b"x"), HOST + "a"))
    with pytest.raises(
        ScrflowError, match=r"https://example.org/a: cannot be downloaded \(HTTP 404.*out/a\.bin.*data_root"
    ):
        download_files(table, tmp_path / "out", Server({}))


def test_kept_lines_take_the_names_of_the_list(tmp_path):
    (tmp_path / "list.txt").write_text("seq/b.jpg\nseq/a.jpg\n")
    expected = b"seq/b.jpg 4 5\nseq/a.jpg 1 2\n"
    table = write_table(tmp_path, ("poses.txt", sha(expected), HOST + "p", "list.txt"))
    published = b"seq/a.png 1 2\r\nother/c.png 9 9\r\nseq/b.png 4  5\r\n"
    download_files(table, tmp_path / "out", Server({HOST + "p": published}))
    assert (tmp_path / "out/poses.txt").read_bytes() == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("../a", "0" * 64, HOST), "leads out"),
        (("/etc/a", "0" * 64, HOST), "leads out"),
        (("a", "0" * 63, HOST), "64 hexadecimal"),
        (("a", "0" * 64, "http://example.org/a"), "not https"),
        (("a", "0" * 64, "ftp://example.org/a"), "not https"),
    ],
)
def test_bad_tables_are_refused(tmp_path, row, message):
    table = write_table(tmp_path, row)
    with pytest.raises(ScrflowError, match=f"scene.tsv: line 2.*{message}"):
        read_table(table)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/images").symlink_to(tmp_path / "elsewhere")
    table = write_table(tmp_path, ("images/a", sha(b"x"), HOST + "a"))
    with pytest.raises(ScrflowError, match="symbolic link"):
        download_files(table, tmp_path / "out", Server({HOST + "a": b"x"}))


@pytest.mark.parametrize("scene", ["fox", "redkitchen"])
def test_the_project_tables_match_the_data_at_hand(scene):
    """The checksums that downloads are held against are those of the real files, where these are present."""
    table = Path("config/scenes/downloads") / f"{scene}.tsv"
    files = read_table(table)
    assert any(f.path == "mapping.txt" for f in files)
    data = Path("../shared/data") / scene
    if not data.is_dir():
        pytest.skip("real photos are not at hand (../shared/data)")
    for file in files:
        if not file.keep:
            assert sha((data / file.path).read_bytes()) == file.sha256, file.path
