"""Archives that somebody made to do harm, or that are damaged: nothing is written outside the folder, and little
read."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from bad import Bad, changed, message, written

LIST = ".scrflow/a.zip.sha256"
OTHER = r"room/a\.txt: is not what was fetched, .*a\.zip\.sha256 and .*fetched\.downloaded and run again"
DAMAGED = r"a\.zip\.sha256: damaged list of what was fetched"


def fetched(name: str, change: Callable[[bytes], bytes] | None):
    """A folder that was downloaded, with a file in it changed, or gone."""

    def make(sound: dict[str, Path], folder: Path) -> Path:
        root = changed("fetched", name, change or bytes)(sound, folder)
        if change is None:
            (root / name).unlink()
        return root

    return make


def zipped(members: list[tuple[str | zipfile.ZipInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in members:
            z.writestr(name, data)
    return buffer.getvalue()


def a_zip(*members: tuple[str | zipfile.ZipInfo, bytes]):
    return written("bad.zip", zipped(list(members)))


def a_tar(*members: tarfile.TarInfo, mode: str = "w:gz"):
    def make(sound: dict[str, Path], folder: Path) -> Path:
        with tarfile.open(folder / "bad.tar", mode) as t:
            for member in members:
                t.addfile(member, io.BytesIO(b"x" * member.size) if member.isreg() else None)
        return folder / "bad.tar"

    return make


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def link_in_zip() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def flagged(data: bytes) -> bytes:
    """The flag of encryption set in both headers of the first member."""
    at = data.index(b"PK\x01\x02") + 8
    return data[:6] + b"\x01\x00" + data[8:at] + b"\x01\x00" + data[at + 2 :]


def bomb_of_zeros(sound: dict[str, Path], folder: Path) -> Path:
    """3 GB of zeros behind the header of a member that claims them."""
    header = gzip.compress(member("zeros.bin", size=3 << 30).tobuf())
    (folder / "bad.tar.gz").write_bytes(header + 48 * gzip.compress(bytes(1 << 26)))
    return folder / "bad.tar.gz"


def zip_that_claims(size: int) -> Callable:
    """A member whose header says that it unpacks to ``size`` bytes."""

    def make(sound: dict[str, Path], folder: Path) -> Path:
        data = zipped([("zeros.bin", bytes(1 << 20))])
        at = data.index(b"PK\x01\x02")
        data = data[: at + 24] + struct.pack("<I", size) + data[at + 28 :]
        (folder / "bad.zip").write_bytes(data)
        return folder / "bad.zip"

    return make


def many_members(sound: dict[str, Path], folder: Path) -> Path:
    """200 000 empty members of one name in 0.5 MB."""
    thousand = gzip.compress(member("empty.txt").tobuf() * 1000)
    (folder / "bad.tar.gz").write_bytes(thousand * 200)
    return folder / "bad.tar.gz"


def huge_header(kind: bytes) -> Callable:
    """A header that says it has 40 GB, of which 64 MB of zeros are there."""

    def make(sound: dict[str, Path], folder: Path) -> Path:
        header = member("long", kind, size=40 << 30).tobuf(tarfile.GNU_FORMAT)
        (folder / "bad.tar.gz").write_bytes(gzip.compress(header + bytes(1 << 26)))
        return folder / "bad.tar.gz"

    return make


def cut_tar(sound: dict[str, Path], folder: Path) -> Path:
    path = a_tar(member("a", size=100_000), mode="w:")(sound, folder)
    path.write_bytes(path.read_bytes()[:5000])
    return path


CASES = [
    Bad("zip: name leads upwards", "archive", a_zip(("../escaped.txt", b"x")), r"'\.\./escaped\.txt' leads out"),
    Bad("zip: name leads upwards further in", "archive", a_zip(("a/../../escaped", b"x")), "leads out of the folder"),
    Bad("zip: absolute name", "archive", a_zip(("/tmp/escaped.txt", b"x")), "leads out of the folder"),
    Bad("zip: name with backslashes", "archive", a_zip(("..\\escaped.txt", b"x")), "leads out of the folder"),
    Bad("zip: symbolic link", "archive", a_zip((link_in_zip(), b"/etc/passwd")), "a link or a device"),
    Bad("zip: encrypted", "archive", changed("archive", "", flagged), "is encrypted; unpack it by hand"),
    Bad("zip: name twice", "archive", a_zip(("a.txt", b"1"), ("a.txt", b"22")), r"'a\.txt' is in it twice"),
    Bad("zip: name twice, written otherwise", "archive", a_zip(("a", b"1"), ("./a", b"2")), r"'\./a' is in it twice"),
    Bad("zip: a file that is a folder too", "archive", a_zip(("a", b"1"), ("a/b", b"2")), "both file and folder"),
    Bad("zip: name of 300 letters", "archive", a_zip(("n" * 300, b"")), "too long a name"),
    Bad("zip: name with a terminal's codes", "archive", a_zip(("\x1b[2Ja", b"")), "a name that is not printable"),
    Bad("zip: bomb, 3.9 GB by its header", "archive", zip_that_claims(3_900_000_000), "over 200 times its size"),
    Bad("zip: member longer than its header says", "archive", zip_that_claims(1000), "damaged|not of the size"),
    Bad("zip: cut off", "archive", changed("archive", "", lambda b: b[:-30]), "damaged or not an archive"),
    Bad(
        "zip: bytes of a member changed",
        "archive",
        changed("archive", "", lambda b: b[:45] + b"\xff" * 4 + b[49:]),
        "damaged or not an archive",
    ),
    Bad("tar: name leads upwards", "archive", a_tar(member("../escaped.txt", size=1)), "leads out of the folder"),
    Bad("tar: absolute name", "archive", a_tar(member("/tmp/escaped", size=1)), "leads out of the folder"),
    Bad("tar: symbolic link", "archive", a_tar(member("a", tarfile.SYMTYPE, "/etc")), "a link or a device"),
    Bad("tar: hard link", "archive", a_tar(member("a", tarfile.LNKTYPE, "/etc/passwd")), "a link or a device"),
    Bad("tar: device", "archive", a_tar(member("a", tarfile.CHRTYPE)), "a link or a device"),
    Bad("tar: pipe", "archive", a_tar(member("a", tarfile.FIFOTYPE)), "a link or a device"),
    Bad("tar: name that is no UTF-8", "archive", a_tar(member("a\udcff")), "a name that is not printable"),
    Bad("tar: bomb of 3 GB in 3 MB", "archive", bomb_of_zeros, "over 200 times its size"),
    Bad("tar: 200 000 members in 0.5 MB", "archive", many_members, "too many for its size|in it twice"),
    Bad("tar: pax header of 40 GB", "archive", huge_header(tarfile.XHDTYPE), "header of 42949672960 bytes|damaged"),
    Bad("tar: long name of 40 GB", "archive", huge_header(tarfile.GNUTYPE_LONGNAME), "header of 4294|damaged"),
    Bad("tar: cut off", "archive", cut_tar, "damaged or not an archive"),
    Bad("a web page in place of an archive", "archive", written("bad.zip", "<html>not found</html>"), "not an archive"),
    Bad("an empty file in place of an archive", "archive", written("bad.zip", b""), "damaged or not an archive"),
    Bad("fetched: a file is another", "fetched", fetched("room/a.txt", lambda b: b[::-1] + b"x"), OTHER),
    Bad("fetched: a file is cut", "fetched", fetched("room/a.txt", lambda b: b[:100]), OTHER),
    Bad("fetched: a file is gone", "fetched", fetched("room/b.txt", None), r"room/b\.txt: was fetched, and is gone"),
    Bad("fetched: the list is cut", "fetched", fetched(LIST, lambda b: b[:-9]), DAMAGED),
    Bad("fetched: a line of the list is gone", "fetched", fetched(LIST, lambda b: b[b.index(b"\n") + 1 :]), DAMAGED),
    Bad("fetched: the list is random bytes", "fetched", fetched(LIST, lambda b: bytes(range(256))), DAMAGED),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_bad_archive(case, confined, sound, tmp_path):
    message(case, confined, sound, tmp_path)
