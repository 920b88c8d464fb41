"""Fetch files over https or from object stores, unpack untrusted archives, and remember what was fetched.

No library does this: pooch and fsspec begin a broken transfer anew and follow redirects away from https. All members of
an archive stay in the folder and take no more room than its size can stand for. Lists in ``.scrflow/`` of a dataset's
folder hold the SHA-256 of its files in the form of ``sha256sum``; a scene is read against them.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import fnmatch
import functools
import gzip
import hashlib
import http.client
import lzma
import os
import re
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, cast
from urllib.parse import unquote, urlsplit

from scrflow.core.errors import WRITING, ScrflowError
from scrflow.core.progress import meter
from scrflow.storage.artifact import sha256_file, write_text, writing

_CHUNK = 1 << 20
# photos hardly shrink in an archive; text by some tens. Beyond this it is a bomb, below a GiB it does no harm
_MAX_RATIO = 200
_HARMLESS = 1 << 30
# a member with something in it takes some hundred bytes; thousands of empty ones shrink to nothing
_MIN_MEMBER = 32
_FEW = 10_000
_LONGEST_READ = 16 << 20  # by tarfile itself: a header of a member may be as long as it says
_LONGEST_NAME = 255  # bytes, of one part of a path
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_ENCRYPTED = 0x1  # flag of a member of a zip


def unpack(archive: Path, folder: Path, skip: tuple[str, ...] = ()) -> dict[Path, str]:
    """Unpack an archive into ``folder``, members that match a glob of ``skip`` left out: file -> SHA-256.

    ScrflowError, with nothing left in the folder, for a damaged archive or a harmful member.
    """
    archive, folder = Path(archive), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    inside = folder / f".unpacking-{archive.name}"
    shutil.rmtree(inside, ignore_errors=True)  # of a run that was killed
    inside.mkdir()
    try:
        digests = _unpack_new(archive, inside, skip)
        for name in digests:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.parent.resolve().is_relative_to(folder.resolve()):
                raise ScrflowError(f"{target}: leads out of {folder} by a symbolic link; remove the link")
            os.replace(inside / name, target)
    except Exception as error:  # zipfile, tarfile and what they uncompress by raise a dozen kinds
        # errors of the disk go on; a place before the file's beginning, of a crafted zip, is EINVAL
        of_the_disk = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
        if of_the_disk or isinstance(error, ScrflowError):
            raise
        reason = " ".join(str(error).split())
        raise ScrflowError(f"{archive}: damaged or not an archive ({reason}); delete it and run again") from None
    finally:
        shutil.rmtree(inside, ignore_errors=True)
    return {folder / name: digest for name, digest in digests.items()}


def _unpack_new(archive: Path, inside: Path, skip: tuple[str, ...]) -> dict[str, str]:
    """Unpack into a new folder: name -> SHA-256."""
    size = archive.stat().st_size
    left, most = max(_HARMLESS, _MAX_RATIO * size), max(_FEW, size // _MIN_MEMBER)
    digests: dict[str, str] = {}
    progress = meter(f"unpacking {archive.name} (MiB)", size // _CHUNK)
    with open(archive, "rb") as f, closing(_members(f, left)) as members, progress:
        for count, member in enumerate(members, start=1):
            if count > most:
                raise ScrflowError(f"{archive}: has over {most} members, too many for its size; do not use it")
            if any(fnmatch.fnmatch(member.name, pattern) for pattern in skip):
                continue
            _check_member(archive, member)
            left -= member.size
            if left < 0:
                raise ScrflowError(f"{archive}: unpacks to over {_MAX_RATIO} times its size; do not use it")
            if member.size > shutil.disk_usage(inside).free:
                raise ScrflowError(f"{archive}: {member.name} needs {member.size / 1e6:.0f} MB of disk; make room")
            target = inside / member.name
            try:
                if member.kind == "folder":
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                file = open(target, "xb")  # noqa: SIM115
            except (FileExistsError, NotADirectoryError):
                raise ScrflowError(
                    f"{archive}: member {member.name!r} is in it twice, or is both file and folder; do not use it"
                ) from None
            digest, length = hashlib.sha256(), 0
            with writing(target), file, member.open() as source:
                while length <= member.size and (chunk := source.read(_CHUNK)):
                    length += file.write(chunk)
                    digest.update(chunk)
            if length != member.size:
                raise ScrflowError(f"{archive}: member {member.name!r} is not of the size it says; do not use it")
            digests[member.name] = digest.hexdigest()
            progress.advance_to(f.tell() // _CHUNK)
    return digests


def _check_member(archive: Path, member: _Member) -> None:
    name, pure = member.name, PurePosixPath(member.name)
    wrong = None
    if member.kind == "encrypted":
        raise ScrflowError(f"{archive}: member {name!r} is encrypted; unpack it by hand, and put the files there")
    if not name.isprintable() or not (pure.parts or member.kind == "folder"):
        wrong = "has a name that is not printable"
    elif any(len(part.encode()) > _LONGEST_NAME for part in pure.parts):
        name, wrong = f"{name[:60]}...", "has too long a name"
    elif pure.is_absolute() or ".." in pure.parts or "\\" in name:
        wrong = "leads out of the folder"
    elif member.kind == "other":
        wrong = "is a link or a device, which no dataset needs"
    elif member.size < 0:
        wrong = f"has size {member.size}"
    if wrong:
        raise ScrflowError(f"{archive}: member {name!r} {wrong}; do not use this archive")


class _Member(NamedTuple):
    name: str
    size: int
    kind: str  # file, folder, encrypted, other
    open: Callable[[], IO[bytes]]  # its bytes, to be read before the next member


def _members(f: IO[bytes], most: int) -> Iterator[_Member]:
    """All members of the opened archive, in its order; of a tar at most so many bytes are uncompressed."""
    if zipfile.is_zipfile(f):
        with zipfile.ZipFile(f) as archive:
            for info in archive.infolist():
                regular = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
                kind = "folder" if info.filename.endswith("/") else "file" if regular else "other"
                kind = "encrypted" if info.flag_bits & _ENCRYPTED else kind
                yield _Member(info.filename, info.file_size, kind, functools.partial(archive.open, info))
        return
    with tarfile.open(fileobj=cast(IO[bytes], _Bounded(f, most)), mode="r:") as archive:
        for info in archive:
            kind = "file" if info.isfile() else "folder" if info.isdir() else "other"
            size = info.size if info.isfile() else 0
            yield _Member(info.name, size, kind, functools.partial(archive.extractfile, info))


class _Bounded:
    """What a tar archive is read through: uncompressed, at most so many bytes, in reads of bounded length (tarfile
    reads a long header whole)."""

    def __init__(self, f: IO[bytes], most: int):
        f.seek(0)
        head = f.read(6)
        f.seek(0)
        form = next((form for magic, form in _COMPRESSED.items() if head.startswith(magic)), None)
        self._file = f if form is None else form(f)
        self._most = most + tarfile.RECORDSIZE
        self.tell = self._file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_READ:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self._check(self.tell() + size)
        return self._file.read(size)

    def seek(self, offset: int) -> int:
        self._check(offset)
        return self._file.seek(offset)

    def _check(self, end: int) -> None:
        if end > self._most:
            raise tarfile.ReadError(f"unpacks to over {self._most / 1e9:.1f} GB, {_MAX_RATIO} times its size")


STATE = ".scrflow"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def list_path(root: Path, name: str) -> Path:
    """The list of an archive's or a table's files."""
    return Path(root) / STATE / f"{name}.sha256"


def write_list(root: Path, name: str, files: Mapping[str, str]) -> None:
    """Remember what came with ``name``: path (relative to root) -> SHA-256."""
    lines = [f"{digest}  {path}" for path, digest in sorted(files.items())]
    write_text(list_path(root, name), "\n".join([*lines, f"# {len(lines)} files"]) + "\n")


def check_fetched(root: Path, paths: Iterable[Path]) -> None:
    """ScrflowError where one of the files was fetched and is gone or has changed. Other files are skipped."""
    root = Path(root)
    known: dict[Path, dict[str, Path]] = {}  # a file may have come with two archives
    for listed in sorted((root / STATE).glob("*.sha256")):
        for path, digest in _read_list(listed, root):
            known.setdefault(root / path, {})[digest] = listed
    for path in paths if known else ():
        expected = known.get(Path(path))
        if expected is None:
            continue
        again = _fetch_again(next(iter(expected.values())), root)
        if not path.is_file():
            raise ScrflowError(f"{path}: was fetched, and is gone; {again}")
        if sha256_file(path) not in expected:
            raise ScrflowError(f"{path}: is not what was fetched, its SHA-256 is another; {again}")


def _read_list(listed: Path, root: Path) -> list[tuple[str, str]]:
    """(path, SHA-256) of each line."""
    try:
        *lines, last = listed.read_text(encoding="utf-8").splitlines()
    except ValueError:  # not UTF-8, or empty
        lines, last = [], ""
    found = [_LINE.fullmatch(line) for line in lines]
    if last != f"# {len(lines)} files" or not all(found):
        raise ScrflowError(f"{listed}: damaged list of what was fetched; {_fetch_again(listed, root)}")
    return [(match[2], match[1]) for match in found if match]


def _fetch_again(listed: Path, root: Path) -> str:
    return f"delete {listed} and {root.with_name(root.name + '.downloaded')} and run again, which fetches it anew"


_TIMEOUT_S = 30.0
_WAITS_S = (1.0, 2.0)  # before the second and the third attempt
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)

Progress = Callable[[int, int | None], None]  # (bytes that are there, bytes in the end where the server says)


class Unreachable(Exception):
    """A source that does not give the file; the message says why."""


class HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if urlsplit(newurl).scheme != "https":
            raise urllib.error.URLError(f"redirected to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


open_url = urllib.request.build_opener(HttpsOnly).open


def offline() -> bool:
    """Whether SCRFLOW_OFFLINE asks to keep off the network."""
    return os.environ.get("SCRFLOW_OFFLINE", "") not in ("", "0")


def fetch(url: str, part: Path, progress: Progress | None = None, most: int | None = None) -> None:
    """Bring the file ``part`` to hold what ``url`` (https, or s3://BUCKET/KEY) has, beginning where the file ends.

    Unreachable when offline, after three attempts, or for more than ``most`` bytes.
    """
    if offline():
        raise Unreachable("SCRFLOW_OFFLINE is set")
    for wait in (*_WAITS_S, None):
        try:
            _transfer(url, part, progress, most)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the part is as long as the file or longer: begin anew
                part.unlink(missing_ok=True)
            if wait is None or (error.code < 500 and error.code not in (408, 416, 429)):
                raise Unreachable(f"HTTP {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and (error.errno in _OF_THE_DISK or error.filename == str(part)):
                error.add_note(f"{WRITING}{part}")
                raise  # the disk's error, not the server's: another attempt would not help
            if wait is None:
                raise Unreachable(str(getattr(error, "reason", error)) or type(error).__name__) from None
        time.sleep(wait)


def _transfer(url: str, part: Path, progress: Progress | None, most: int | None) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "scrflow", **({"Range": f"bytes={have}-"} if have else {})}
    address = _signed(url) if urlsplit(url).scheme == "s3" else url
    request = urllib.request.Request(address, headers=headers)
    with contextlib.closing(open_url(request, timeout=_TIMEOUT_S)) as response:
        have = have if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        expected = have + int(length) if length is not None else None
        with open(part, "ab" if have else "wb") as f:
            while chunk := response.read(_CHUNK):
                have += f.write(chunk)
                if most is not None and have > most:
                    raise Unreachable(f"over {most} bytes long")
                if progress is not None:
                    progress(have, expected)
            f.flush()
            os.fsync(f.fileno())
        if expected is not None and have < expected:
            raise OSError(f"connection closed after {have} of {expected} bytes")


def _signed(url: str) -> str:
    """An address of the object that holds for an hour; boto3 finds credentials, region and AWS_ENDPOINT_URL."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise ScrflowError(f"{url}: s3:// needs boto3: make storage-plugins") from None
    parts = urlsplit(url)
    place = {"Bucket": parts.netloc, "Key": unquote(parts.path).removeprefix("/")}
    try:
        client = boto3.client("s3", config=Config(signature_version="s3v4"))
        return client.generate_presigned_url("get_object", Params=place, ExpiresIn=3600)
    except BotoCoreError as error:
        raise ScrflowError(f"{url}: {error} (boto3; set AWS_ACCESS_KEY_ID ..., or ~/.aws)") from None
