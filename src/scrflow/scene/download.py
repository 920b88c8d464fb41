"""Fetch the files of a scene from the sources that its table names, each checked by SHA-256.

The table is a TSV with the columns ``path`` (where the file goes, relative to the scene's folder), ``sha256``, ``url``
and, optionally, ``keep``. An url without a scheme is a file of this project, relative to the table. ``keep`` names list
files (relative to the table, separated by blanks): of the downloaded text only the lines whose first field is in the
lists stay, in the lists' order and under the lists' names (file endings aside: published pose lists name PNGs where the
photos at hand are JPEGs), and the SHA-256 is that of the result.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from scrflow.artifacts import atomic_path, sha256_file
from scrflow.errors import ScrflowError
from scrflow.progress import meter

log = logging.getLogger("scrflow")

_TIMEOUT_S = 30.0
_ATTEMPTS = 3
_CONNECTIONS = 4
_CHUNK = 1 << 16
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RemoteFile:
    """One line of the table."""

    path: str
    sha256: str
    url: str
    keep: tuple[str, ...] = ()


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if urlsplit(newurl).scheme != "https":
            raise urllib.error.URLError(f"redirected to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_HttpsOnly)


def read_table(table: Path) -> list[RemoteFile]:
    """The lines of a download table; ScrflowError for a bad path, checksum, url or a path listed twice."""
    table = Path(table)
    try:
        text = table.read_text(encoding="utf-8")
    except OSError as error:
        raise ScrflowError(f"{table}: download table cannot be read ({error.strerror})") from None
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
        scheme = urlsplit(url).scheme
        if not url or scheme not in ("https", ""):
            raise ScrflowError(f"{where}: url {url!r} of {path} is not https")
        if path in files:
            raise ScrflowError(f"{where}: {path} is listed twice")
        files[path] = RemoteFile(path, sha256, url, tuple((row.get("keep") or "").split()))
    if not files:
        raise ScrflowError(f"{table}: no file listed")
    return list(files.values())


def download_scene(table: Path, out: Path, open_url: Callable[..., Any] | None = None) -> None:
    """Bring the folder ``out`` to hold every file of the table with its checksum.

    Files that are right are left alone, a broken transfer goes on where it stopped, and a file has its final name only
    when its checksum is right. ``open_url`` stands in for urllib's opener in tests. ScrflowError when a file cannot be
    had, saying where it comes from and what to do by hand.
    """
    table, out = Path(table), Path(out)
    files = read_table(table)
    missing = [f for f in files if not ((out / f.path).is_file() and sha256_file(out / f.path) == f.sha256)]
    log.info("%s: %d of %d files are there", out, len(files) - len(missing), len(files))
    if not missing:
        return
    pool = ThreadPoolExecutor(_CONNECTIONS)
    try:
        with meter(f"downloading {out.name}", len(missing)) as step:
            for done in pool.map(lambda f: _fetch(f, table, out, open_url or _OPENER.open), missing):
                step(done.path)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _fetch(file: RemoteFile, table: Path, out: Path, open_url: Callable[..., Any]) -> RemoteFile:
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
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _transfer(file.url, part, open_url)
            break
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the part is as long as the file or longer: begin anew
                part.unlink(missing_ok=True)
            if attempt == _ATTEMPTS or (error.code < 500 and error.code not in (408, 416, 429)):
                raise _unreachable(file, target, f"HTTP {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            if attempt == _ATTEMPTS:
                raise _unreachable(file, target, str(getattr(error, "reason", error)) or type(error).__name__) from None
        time.sleep(min(2.0 ** (attempt - 1), 4.0) if open_url is _OPENER.open else 0.0)
    try:
        _put(part.read_bytes(), file, table, target)
    finally:
        part.unlink(missing_ok=True)  # right or wrong: a wrong one must not be continued
    return file


def _transfer(url: str, part: Path, open_url: Callable[..., Any]) -> None:
    """Append what is missing of ``url`` to ``part``."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(
        url, headers={"User-Agent": "scrflow", **({"Range": f"bytes={have}-"} if have else {})}
    )
    with contextlib.closing(open_url(request, timeout=_TIMEOUT_S)) as response:
        resumed = have and response.status == 206
        expected = response.headers.get("Content-Length")
        received = 0
        with open(part, "ab" if resumed else "wb") as f:
            while chunk := response.read(_CHUNK):
                f.write(chunk)
                received += len(chunk)
            f.flush()
            os.fsync(f.fileno())
        if expected is not None and received < int(expected):
            raise OSError(f"connection closed after {received} of {expected} bytes")


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
        except OSError as error:
            raise ScrflowError(f"{path}: list cannot be read ({error.strerror})") from None
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
