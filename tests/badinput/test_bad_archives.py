"""Archives that are damaged or made to do harm: nothing is written outside the folder, and little is read."""

import gzip
import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from bad import Bad, changed, check_refused, written
from fake_server import zipped


def a_zip(members: dict[str | zipfile.ZipInfo, bytes]):
    return written("bad.zip", zipped(members))


def a_tar(member: tarfile.TarInfo, keep: int | None = None):
    def make(sound: dict[str, Path], folder: Path) -> Path:
        path = folder / "bad.tar"
        with tarfile.open(path, "w:") as t:
            t.addfile(member, io.BytesIO(b"x" * member.size) if member.isreg() else None)
        path.write_bytes(path.read_bytes()[:keep])
        return path

    return make


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def link_in_zip() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def encrypted(data: bytes) -> bytes:
    """The flag of encryption set in both headers of the first member."""
    at = data.index(b"PK\x01\x02") + 8
    return data[:6] + b"\x01\x00" + data[8:at] + b"\x01\x00" + data[at + 2 :]


def nameless() -> bytes:
    """A member without a name: its letter belongs to the extra field (found by fuzzing)."""
    data = bytearray(zipped({"a": b"x"}))
    for signature, at in ((b"PK\x03\x04", 26), (b"PK\x01\x02", 28)):
        place = data.index(signature) + at
        data[place : place + 4] = struct.pack("<HH", 0, 1)
    return bytes(data)


def before_the_start(data: bytes) -> bytes:
    """The directory is said to be larger than the file (found by fuzzing)."""
    end = data.rindex(b"PK\x05\x06") + 12
    return data[:end] + struct.pack("<I", len(data) + 100) + data[end + 4 :]


def zip_that_claims(size: int) -> Callable:
    """A member whose header says that it unpacks to ``size`` bytes."""
    data = zipped({"zeros.bin": bytes(1 << 20)})
    at = data.index(b"PK\x01\x02")
    return written("bad.zip", data[: at + 24] + struct.pack("<I", size) + data[at + 28 :])


def bomb_of_zeros(sound: dict[str, Path], folder: Path) -> Path:
    """3 GB of zeros."""
    header = gzip.compress(member("zeros.bin", size=3 << 30).tobuf())
    return written("bad.tar.gz", header + 48 * gzip.compress(bytes(1 << 26)))(sound, folder)


def many_members(sound: dict[str, Path], folder: Path) -> Path:
    """200 000 empty members in 0.5 MB."""
    return written("bad.tar.gz", gzip.compress(member("empty.txt").tobuf() * 1000) * 200)(sound, folder)


def huge_header(sound: dict[str, Path], folder: Path) -> Path:
    """A pax header that says it has 40 GB, of which 64 MB of zeros exist."""
    header = member("long", tarfile.XHDTYPE, size=40 << 30).tobuf(tarfile.GNU_FORMAT)
    return written("bad.tar.gz", gzip.compress(header + bytes(1 << 26)))(sound, folder)


CASES = [
    Bad("zip: name leads upwards", "archive", a_zip({"a/../../escaped": b"x"}), "leads out"),
    Bad("zip: name with backslashes", "archive", a_zip({"..\\escaped.txt": b"x"}), "leads out"),
    Bad("zip: symbolic link", "archive", a_zip({link_in_zip(): b"/etc/passwd"}), "link"),
    Bad("zip: encrypted", "archive", changed("archive", "", encrypted), "encrypted"),
    Bad("zip: name twice", "archive", a_zip({"a": b"1", "./a": b"2"}), "twice"),
    Bad("zip: name of 300 letters", "archive", a_zip({"n" * 300: b""}), "name"),
    Bad("zip: no name", "archive", written("bad.zip", nameless()), "archive"),
    Bad("zip: bomb of 3.9 GB", "archive", zip_that_claims(3_900_000_000), "200 times its size"),
    Bad("zip: member longer than its header says", "archive", zip_that_claims(1000), r"bad\.zip"),
    Bad("zip: directory before the file's start", "archive", changed("archive", "", before_the_start), "archive"),
    Bad("zip: bytes changed", "archive", changed("archive", "", lambda b: b[:45] + b"\xff" * 4 + b[49:]), "damaged"),
    Bad("tar: name leads upwards", "archive", a_tar(member("../escaped.txt", size=1)), "leads out"),
    Bad("tar: symbolic link", "archive", a_tar(member("a", tarfile.SYMTYPE, "/etc")), "link"),
    Bad("tar: device", "archive", a_tar(member("a", tarfile.CHRTYPE)), "device"),
    Bad("tar: bomb of 3 GB", "archive", bomb_of_zeros, "200 times"),
    Bad("tar: 200 000 members", "archive", many_members, "twice|size"),
    Bad("tar: header of 40 GB", "archive", huge_header, "header of 42949672960 bytes|damaged"),
    Bad("tar: cut off", "archive", a_tar(member("a", size=100_000), keep=5000), "damaged"),
    Bad("a web page", "archive", written("bad.zip", "<html>not found</html>"), "not an archive"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_archive(case, sound, tmp_path):
    check_refused(case, sound, tmp_path)
