"""Published archives: fetched, checked, and unpacked inside their folder.

``.scrflow/`` in the dataset's folder remembers what was unpacked (an archive is deleted then) and the SHA-256 of
archives whose publisher gives none: recorded at the first download, checked from then on. What came out of an archive
is listed there too (scrflow.storage.fetched).
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import fnmatch
import gzip
import hashlib
import json
import logging
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast
from urllib.parse import unquote, urlsplit

from scrflow.config import Archive
from scrflow.core.errors import ScrflowError
from scrflow.core.progress import meter
from scrflow.storage.artifact import atomic_path, sha256_file
from scrflow.storage.fetched import STATE, list_path, write_list
from scrflow.storage.transfer import OpenUrl, Unreachable, fetch

_MEBIBYTE = 1 << 20
_COPY = 1 << 20
# photos hardly shrink in an archive; text by some tens. Beyond this it is a bomb, below a GiB it does no harm
_MAX_RATIO = 200
_HARMLESS = 1 << 30
# a member with something in it takes some hundred bytes; thousands of empty ones shrink to nothing
_MIN_MEMBER = 32
_FEW = 10_000
_LONGEST_READ = 16 << 20  # by tarfile itself: a header of a member, which may be as long as it says
_LONGEST_NAME = 255  # bytes, of one part of a path

_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,  # a method of compression, encryption
    zlib.error,
    lzma.LZMAError,
    OverflowError,
    struct.error,
    IndexError,
)

log = logging.getLogger("scrflow")


def fetch_archive(archive: Archive, out: Path, page: str | None = None, open_url: OpenUrl | None = None) -> None:
    """Unpack a published archive under ``out``; nothing is done where that was done before.

    An archive that a person put into ``out`` under its own name is taken instead of a download. ScrflowError when it
    cannot be had, has another checksum, is damaged, or has members that lead out of the folder.
    """
    out = Path(out)
    name = PurePosixPath(unquote(urlsplit(archive.url).path)).name
    state = out / STATE
    record = state / f"{name}.json"
    known = _read_record(record)
    if known.get("unpacked") == _task(archive) and list_path(out, name).is_file():
        return
    state.mkdir(parents=True, exist_ok=True)
    path = out / name
    if not path.is_file():
        _download(archive, path, state / f"{name}.part", page, open_url)
    found = sha256_file(path)
    expected = archive.sha256 or known.get("sha256")
    if expected is not None and found != expected:
        origin = "the config" if archive.sha256 else f"{record}, recorded at the first download,"
        raise ScrflowError(
            f"{path}: SHA-256 is {found}, {origin} says {expected}; the source has changed or the transfer was "
            f"tampered with. Delete the file and try again, or, where the new file is wanted, mend the checksum"
        )
    if expected is None:
        log.warning("%s: no checksum is published; SHA-256 %s is recorded and checked from now on", name, found)
    _write_record(record, {"url": archive.url, "sha256": found})
    folder = out / archive.into
    if not archive.unpack:
        folder.mkdir(parents=True, exist_ok=True)
        os.replace(path, folder / name)
        files = {folder / name: found}
    else:
        files = unpack(path, folder, archive.skip)
        files |= _unpack_nested(archive, path, folder)
        path.unlink()
    os.sync()  # all of it in one go, before it counts as there
    write_list(out, name, {file.relative_to(out).as_posix(): digest for file, digest in files.items() if file.exists()})
    _write_record(record, {"url": archive.url, "sha256": found, "unpacked": _task(archive)})


def _unpack_nested(archive: Archive, path: Path, folder: Path) -> dict[Path, str]:
    if archive.nested is None:
        return {}
    inner = sorted(p for p in folder.glob(archive.nested) if p.is_file())
    if not inner:
        raise ScrflowError(f"{path}: holds no {archive.nested}; mend key nested of the scene's download")
    files: dict[Path, str] = {}
    for each in inner:
        files |= unpack(each, each.parent, archive.skip)
        each.unlink()
    return files


def unpack(archive: Path, folder: Path, skip: tuple[str, ...] = ()) -> dict[Path, str]:
    """Unpack a zip or tar archive into ``folder``, members that match a glob of ``skip`` left out: file -> SHA-256.

    Each file comes under its name when it is complete. ScrflowError, before anything is written, for a damaged archive,
    a member that leads out of the folder, a link, a device, a name that a file cannot have or that is there twice, an
    encrypted member, and more bytes or members than the archive's size can stand for or the disk has free.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        with _opened(archive) as opened:
            listed = _counted(archive, opened.members())
            members = [m for m in listed if not any(fnmatch.fnmatch(m[0], s) for s in skip)]
            for name, size, kind in members:
                _check_member(archive, name, kind)
                _check_member_size(archive, name, size)
            _check_places(archive, members)
            needed = sum(size for _, size, _ in members)
            if needed > max(_HARMLESS, _MAX_RATIO * archive.stat().st_size):
                raise ScrflowError(
                    f"{archive}: unpacks to {needed / 1e9:.1f} GB, {_MAX_RATIO} times its size and more; do not use it"
                )
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
            if needed > free:
                raise ScrflowError(
                    f"{archive}: unpacks to {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free; make room"
                )
            files = {name: size for name, size, kind in members if kind == "file"}
            written: dict[str, Path] = {}
            digests: dict[Path, str] = {}
            with meter(f"unpacking {archive.name}", len(files)) as step:
                for name, source in opened.contents(files):
                    digests[folder / name] = _write(archive, folder, name, source, files[name], written)
                    step(name)
    except _DAMAGED as error:
        # the disk, not the archive; a place before the file's beginning, of a crafted zip, is EINVAL
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = " ".join(str(error).split())
        raise ScrflowError(
            f"{archive}: damaged or not an archive ({reason}); delete it, so that it is fetched again"
        ) from None
    return digests


# --------------------------------------------------------------------------------------------------------------- forms

_ENCRYPTED = 0x1  # flag of a member of a zip
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


class _Zip:
    def __init__(self, path: Path):
        self._file = zipfile.ZipFile(path)

    def __enter__(self) -> _Zip:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def members(self) -> Iterator[tuple[str, int, str]]:
        """(name, bytes, file | folder | encrypted | other) of all members."""
        return ((i.filename, i.file_size, self._kind(i)) for i in self._file.infolist())

    def contents(self, names: dict[str, int]) -> Iterator[tuple[str, IO[bytes]]]:
        for info in self._file.infolist():
            if info.filename in names and self._kind(info) == "file":
                with self._file.open(info) as source:
                    yield info.filename, source

    @staticmethod
    def _kind(info: zipfile.ZipInfo) -> str:
        mode = info.external_attr >> 16
        if info.flag_bits & _ENCRYPTED:
            return "encrypted"
        if info.filename.endswith("/"):
            return "folder"
        return "file" if stat.S_IFMT(mode) in (0, stat.S_IFREG) else "other"


class _Bounded:
    """What a tar archive is read through: uncompressed, no longer than an honest one, and in reads of some length.

    tarfile takes a long header whole, however long it says it is, and finds members by reading all before them.
    """

    def __init__(self, path: Path):
        with open(path, "rb") as f:
            head = f.read(6)
        opened = next((o for magic, o in _COMPRESSED.items() if head.startswith(magic)), open)
        self._file = opened(path, "rb")
        self._longest = max(_HARMLESS, _MAX_RATIO * path.stat().st_size)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_READ:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self._check(self._file.tell() + size)
        return self._file.read(size)

    def seek(self, offset: int) -> int:
        self._check(offset)
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()

    def _check(self, end: int) -> None:
        if end > self._longest + tarfile.RECORDSIZE:
            raise tarfile.ReadError(f"unpacks to over {self._longest / 1e9:.1f} GB, {_MAX_RATIO} times its size")


class _Tar:
    def __init__(self, path: Path):
        self._bounded = _Bounded(path)
        self._file = tarfile.open(fileobj=cast(IO[bytes], self._bounded), mode="r:")  # noqa: SIM115 (by __exit__)

    def __enter__(self) -> _Tar:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._bounded.close()

    def members(self) -> Iterator[tuple[str, int, str]]:
        """(name, bytes, file | folder | other) of all members."""
        return ((m.name, m.size if m.isfile() else 0, self._kind(m)) for m in self._file)

    def contents(self, names: dict[str, int]) -> Iterator[tuple[str, IO[bytes]]]:
        # in the archive's order: a compressed one cannot be read backwards
        for member in self._file.getmembers():
            if member.name in names and member.isfile():
                source = self._file.extractfile(member)
                assert source is not None  # isfile() was asked
                with source:
                    yield member.name, source

    @staticmethod
    def _kind(member: tarfile.TarInfo) -> str:
        return "file" if member.isfile() else "folder" if member.isdir() else "other"


def _opened(path: Path) -> _Zip | _Tar:
    return _Zip(path) if zipfile.is_zipfile(path) else _Tar(path)


# --------------------------------------------------------------------------------------------------------------- parts


def _counted(archive: Path, members: Iterable[tuple[str, int, str]]) -> list[tuple[str, int, str]]:
    """All members, as long as they are no more than the archive has room for."""
    most = max(_FEW, archive.stat().st_size // _MIN_MEMBER)
    listed = []
    for member in members:
        listed.append(member)
        if len(listed) > most:
            raise ScrflowError(f"{archive}: has over {most} members, more than its size has room for; do not use it")
    return listed


def _check_member(archive: Path, name: str, kind: str) -> None:
    pure = PurePosixPath(name)
    if kind == "encrypted":
        raise ScrflowError(f"{archive}: member {name!r} is encrypted; unpack it by hand, and put the files there")
    if not name.isprintable() or not (pure.parts or kind == "folder"):
        raise ScrflowError(f"{archive}: member {name!r} has a name that is not printable; do not use this archive")
    if any(len(part.encode()) > _LONGEST_NAME for part in pure.parts):
        raise ScrflowError(f"{archive}: member {name[:60]!r}... has too long a name; do not use this archive")
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        raise ScrflowError(f"{archive}: member {name!r} leads out of the folder; do not use this archive")
    if kind == "other":
        raise ScrflowError(f"{archive}: member {name!r} is a link or a device, which no dataset needs; do not use it")


def _check_places(archive: Path, members: list[tuple[str, int, str]]) -> None:
    """No file is there twice, or is the folder of another."""
    places: set[PurePosixPath] = set()
    for name, _, kind in members:
        if kind == "file":
            place = PurePosixPath(name)
            if place in places:
                raise ScrflowError(f"{archive}: member {name!r} is in it twice; do not use this archive")
            places.add(place)
    for name, _, _ in members:
        if not places.isdisjoint(PurePosixPath(name).parents) or (name.endswith("/") and PurePosixPath(name) in places):
            raise ScrflowError(f"{archive}: member {name!r} is in a folder that is a file too; do not use this archive")


def _check_member_size(archive: Path, name: str, size: int) -> None:
    if size < 0:
        raise ScrflowError(f"{archive}: member {name!r} has size {size}; do not use this archive")


def _write(archive: Path, folder: Path, name: str, source: IO[bytes], size: int, written: dict[str, Path]) -> str:
    """SHA-256. ``written``: what came out of the archive before, by its name without case; grows by this one."""
    target = folder / name
    same = written.setdefault(name.casefold(), target)
    if same != target and target.exists() and target.samefile(same):
        raise ScrflowError(
            f"{archive}: {name!r} would replace {same.name!r} on this disk, which knows no case; use another"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise ScrflowError(f"{target}: leads out of {folder} by a symbolic link; remove the link")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    length, digest = 0, hashlib.sha256()
    try:
        with open(temporary, "wb") as f:
            while chunk := source.read(_COPY):
                length += len(chunk)
                if length > size:
                    raise ScrflowError(f"{archive}: member {name!r} is longer than it says; do not use this archive")
                f.write(chunk)
                digest.update(chunk)
        if length != size:
            raise ScrflowError(f"{archive}: member {name!r} has {length} of {size} bytes; delete the archive")
        os.replace(temporary, target)
        return digest.hexdigest()
    finally:
        temporary.unlink(missing_ok=True)


def _download(archive: Archive, path: Path, part: Path, page: str | None, open_url: OpenUrl | None) -> None:
    if os.environ.get("SCRFLOW_OFFLINE", "") not in ("", "0"):
        raise _unreachable(archive, path, page, "SCRFLOW_OFFLINE is set")
    bars: list[meter] = []
    try:
        with contextlib.ExitStack() as stack:

            def progress(have: int, total: int | None) -> None:
                if not bars:
                    what = f"downloading {path.name} (MiB)"
                    bars.append(meter(what, (total or have) // _MEBIBYTE, have // _MEBIBYTE))
                    stack.enter_context(bars[0])
                bars[0].advance_to(have // _MEBIBYTE)

            fetch(archive.url, part, open_url, progress)
    except Unreachable as error:
        raise _unreachable(archive, path, page, str(error)) from None
    os.replace(part, path)


def _unreachable(archive: Archive, path: Path, page: str | None, reason: str) -> ScrflowError:
    source = f"get it from {page or archive.url}"
    checksum = f" (SHA-256 {archive.sha256})" if archive.sha256 else ""
    return ScrflowError(
        f"{archive.url}: cannot be downloaded ({reason}). By hand: {source} and put it at {path}{checksum}, or set "
        "data_root (or the variable SCRFLOW_DATA) to a folder that holds the dataset unpacked; then run again"
    )


def _task(archive: Archive) -> dict[str, object]:
    return archive.model_dump(mode="json", include={"into", "unpack", "nested", "skip"})


def _read_record(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        raise ScrflowError(f"{path}: damaged; delete it, the archive is then fetched again") from None


def _write_record(path: Path, values: dict[str, object]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
