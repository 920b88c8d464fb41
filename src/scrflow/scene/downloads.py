"""Fetch a dataset from the sources that its config names, everything checked by SHA-256: single files of a table, and
archives, which are unpacked (see scrflow.storage.archives).

The table is a TSV with the columns ``path`` (where the file goes, relative to the scene's folder), ``sha256``, ``url``
and, optionally, ``keep``. An url without a scheme is a file of this project, relative to the table. ``keep`` names list
files (relative to the table, separated by blanks): of the downloaded text only the lines whose first field is in the
lists stay, in the lists' order and under the lists' names (file endings aside: published pose lists name PNGs where the
photos at hand are JPEGs), and the SHA-256 is that of the result.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from scrflow.config import Download
from scrflow.core.errors import ScrflowError
from scrflow.core.progress import meter
from scrflow.storage.archives import fetch_archive
from scrflow.storage.artifact import atomic_path, sha256_file
from scrflow.storage.fetched import write_list
from scrflow.storage.transfer import OpenUrl, Unreachable, fetch

log = logging.getLogger("scrflow")

_CONNECTIONS = 4
_TABLE = "files"  # name of the list of what a table names
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RemoteFile:
    """One line of the table."""

    path: str
    sha256: str
    url: str
    keep: tuple[str, ...] = ()


def read_table(table: Path) -> list[RemoteFile]:
    """The lines of a download table; ScrflowError for a bad path, checksum, url or a path listed twice."""
    table = Path(table)
    try:
        text = table.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8"
        raise ScrflowError(f"{table}: download table cannot be read ({reason}); mend it") from None
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    if not {"path", "sha256", "url"} <= set(rows.fieldnames or ()):
        raise ScrflowError(
            f"{table}: expected the columns path, sha256, url (separated by tabs), found {rows.fieldnames}"
        )
    files: dict[str, RemoteFile] = {}
    for row in rows:
        where = f"{table}: line {rows.line_num}"
        path, sha256, url = (row[key] or "" for key in ("path", "sha256", "url"))
        pure = PurePosixPath(path)
        if not path or pure.is_absolute() or ".." in pure.parts or "\\" in path:
            raise ScrflowError(f"{where}: path {path!r} leads out of the scene's folder; use one relative to it")
        if not _SHA256.fullmatch(sha256):
            raise ScrflowError(f"{where}: sha256 {sha256!r} of {path} is not 64 hexadecimal digits")
        try:
            scheme = urlsplit(url).scheme
        except ValueError:
            scheme = "none"
        if not url or scheme not in ("https", "s3", ""):
            raise ScrflowError(f"{where}: url {url!r} of {path} is not https or s3")
        if path in files:
            raise ScrflowError(f"{where}: {path} is listed twice")
        files[path] = RemoteFile(path, sha256, url, tuple((row.get("keep") or "").split()))
    if not files:
        raise ScrflowError(f"{table}: no file listed")
    return list(files.values())


def download_dataset(config: Download, table: Path | None, out: Path, open_url: OpenUrl | None = None) -> None:
    """Bring the folder ``out`` to hold the dataset.

    Files and archives that are there are left alone, a broken transfer goes on where it stopped, and a file has its
    final name only when its checksum is right. ``open_url`` stands in for urllib's opener in tests. ScrflowError when
    something cannot be had, saying where it comes from and what to do by hand.
    """
    if table is not None:
        download_files(table, out, open_url)
        write_list(out, _TABLE, {file.path: file.sha256 for file in read_table(table)})
    for archive in config.archives:
        fetch_archive(archive, out, config.page, open_url)
    if table is None and not config.archives and not (out.is_dir() and any(out.iterdir())):
        raise ScrflowError(
            f"{out}: nothing there, and this dataset cannot be fetched without a person: get it from {config.page} and "
            "put it there, or set data_root (or the variable SCRFLOW_DATA) to the folder that holds it"
        )


def download_files(table: Path, out: Path, open_url: OpenUrl | None = None) -> None:
    """Every file of a table; see download_dataset."""
    table, out = Path(table), Path(out)
    files = read_table(table)
    missing = [f for f in files if not ((out / f.path).is_file() and sha256_file(out / f.path) == f.sha256)]
    log.info("%s: %d of %d files are there", out, len(files) - len(missing), len(files))
    if not missing:
        return
    pool = ThreadPoolExecutor(_CONNECTIONS)
    try:
        with meter(f"downloading {out.name}", len(missing)) as step:
            for done in pool.map(lambda f: _fetch(f, table, out, open_url), missing):
                step(done.path)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _fetch(file: RemoteFile, table: Path, out: Path, open_url: OpenUrl | None) -> RemoteFile:
    target = out / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.parent.resolve().is_relative_to(out.resolve()):
        raise ScrflowError(f"{target}: leads out of {out} by a symbolic link; remove the link")
    if not urlsplit(file.url).scheme:
        source = table.parent / file.url
        if not source.is_file():
            raise ScrflowError(f"{source}: file of the project is missing; {table} names it for {file.path}")
        _put(source.read_bytes(), file, table, target)
        return file
    part = target.with_name(f".{target.name}.part")
    try:
        fetch(file.url, part, open_url)
    except Unreachable as error:
        raise _unreachable(file, target, str(error)) from None
    try:
        _put(part.read_bytes(), file, table, target)
    finally:
        part.unlink(missing_ok=True)  # right or wrong: a wrong one must not be continued
    return file


def _put(data: bytes, file: RemoteFile, table: Path, target: Path) -> None:
    """Give the file its final name when its checksum is right."""
    if file.keep:
        data = _kept_lines(data, [table.parent / name for name in file.keep], file.url)
    found = hashlib.sha256(data).hexdigest()
    if found != file.sha256:
        raise ScrflowError(
            f"{file.url}: SHA-256 is {found}, expected {file.sha256} for {target}; the source has changed or the "
            f"transfer was tampered with. Try again, or put the right file there by hand"
        )
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)


def _kept_lines(data: bytes, lists: list[Path], url: str) -> bytes:
    lines: dict[str, list[str]] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        fields = line.split()
        if fields:
            lines[str(PurePosixPath(fields[0]).with_suffix(""))] = fields
    out = []
    for path in lists:
        try:
            names = path.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "no UTF-8"
            raise ScrflowError(f"{path}: list cannot be read ({reason}); mend it") from None
        for name in names:
            fields = lines.get(str(PurePosixPath(name).with_suffix("")))
            if fields is None:
                raise ScrflowError(f"{url}: has no line for {name}, which {path} lists; the source has changed")
            out.append(" ".join([name, *fields[1:]]) + "\n")
    return "".join(out).encode()


def _unreachable(file: RemoteFile, target: Path, reason: str) -> ScrflowError:
    extra = " (only the lines of the scene's images, see the keep column of the table)" if file.keep else ""
    return ScrflowError(
        f"{file.url}: cannot be downloaded ({reason}). By hand: put the file{extra} at {target} "
        f"(SHA-256 {file.sha256}), or set data_root (or the variable SCRFLOW_DATA) to a folder "
        "that holds the scene; then run again"
    )
