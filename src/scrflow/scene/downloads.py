"""Fetch a dataset from the sources that its config names: files of a table, and archives. All are checked by SHA-256.

The table is a TSV with the columns ``path`` (relative to the scene's folder), ``sha256``, ``url`` and, optionally,
``keep``. A url without a scheme is a file of this project, relative to the table. ``keep`` names list files (relative
to the table): only the lines stay whose first field is in them, in their order and under their names (file endings
aside), and the SHA-256 is that of the result. ``.scrflow/NAME.json`` in the dataset's folder records what was unpacked.
"""

import csv
import hashlib
import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator

from scrflow.config import Archive, Download, Strict
from scrflow.config.base import validate
from scrflow.core.errors import ScrflowError
from scrflow.core.progress import meter
from scrflow.storage.artifact import atomic_path, sha256_file, write_text
from scrflow.storage.fetch import STATE, Unreachable, fetch, list_path, unpack, write_list
from scrflow.storage.listfile import read_text

log = logging.getLogger("scrflow")
_CONNECTIONS = 4


def download_dataset(config: Download, table: Path | None, out: Path) -> None:
    """Bring the folder ``out`` to hold the dataset; broken transfers are resumed.

    A file gets its final name only when its checksum is right. ScrflowError says what to do by hand.
    """
    out = Path(out)
    if table is not None:
        files = read_table(table)
        missing = [f for f in files if not ((out / f.path).is_file() and sha256_file(out / f.path) == f.sha256)]
        log.info("%s: %d of %d files are there", out, len(files) - len(missing), len(files))
        pool = ThreadPoolExecutor(_CONNECTIONS)
        try:
            with meter(f"downloading {out.name}", len(missing)) as step:
                for path in pool.map(lambda f: _fetch_file(f, table, out), missing):
                    step(path)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        write_list(out, "files", {file.path: file.sha256 for file in files})
    for archive in config.archives:
        _fetch_archive(archive, out, config.page)
    if table is None and not config.archives and not (out.is_dir() and any(out.iterdir())):
        raise ScrflowError(
            f"{out}: nothing there, and this dataset cannot be fetched without a person: get it from {config.page} and "
            "put it there, or set data_root (or the variable SCRFLOW_DATA) to the folder that holds it"
        )


class RemoteFile(Strict):
    """One line of the table."""

    path: str = Field(pattern=r"^[^/\\]", description="relative to the scene's folder, without ..")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    url: str = Field(min_length=1)
    keep: tuple[str, ...] = ()

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        if ".." in PurePosixPath(path).parts or "\\" in path:
            raise ValueError("leads out of the scene's folder; use one relative to it")
        return path

    @field_validator("url")
    @classmethod
    def _fetchable(cls, url: str) -> str:
        if urlsplit(url).scheme not in ("https", "s3", ""):  # ValueError for no url at all
            raise ValueError("is not https or s3")
        return url


def read_table(table: Path) -> list[RemoteFile]:
    """The lines of a download table; ScrflowError for a bad path, checksum, url or a path listed twice."""
    rows = csv.DictReader(read_text(table).splitlines(), delimiter="\t")
    files: dict[str, RemoteFile] = {}
    for row in rows:
        where = f"{table}: line {rows.line_num}"
        values = {key: value for key, value in row.items() if key in ("path", "sha256", "url") and value is not None}
        file = validate(RemoteFile, {**values, "keep": (row.get("keep") or "").split()}, where)
        if file.path in files:
            raise ScrflowError(f"{where}: {file.path} is listed twice; remove one line")
        files[file.path] = file
    if not files:
        raise ScrflowError(f"{table}: no file listed; give it the columns path, sha256, url, separated by tabs")
    return list(files.values())


def _fetch_file(file: RemoteFile, table: Path, out: Path) -> str:
    target = out / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.parent.resolve().is_relative_to(out.resolve()):
        raise ScrflowError(f"{target}: leads out of {out} by a symbolic link; remove the link")
    part = target.with_name(f".{target.name}.part")
    if urlsplit(file.url).scheme:
        extra = " (only the lines of the scene's images, see the keep column of the table)" if file.keep else ""
        _fetch(file.url, part, f"put the file{extra} at {target} (SHA-256 {file.sha256})")
        data = part.read_bytes()
        part.unlink()  # right or wrong: a wrong one must not be continued
    else:
        source = table.parent / file.url
        if not source.is_file():
            raise ScrflowError(f"{source}: file of the project is missing; put it there, {table} names it")
        data = source.read_bytes()
    if file.keep:
        data = _kept_lines(data, [table.parent / name for name in file.keep], file.url)
    found = hashlib.sha256(data).hexdigest()
    if found != file.sha256:
        raise ScrflowError(
            f"{file.url}: SHA-256 is {found}, expected {file.sha256} for {target}; try again, or put the file there"
        )
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)
    return file.path


def _kept_lines(data: bytes, lists: list[Path], url: str) -> bytes:
    rows = (line.split() for line in data.decode("utf-8", "replace").splitlines())
    lines = {str(PurePosixPath(fields[0]).with_suffix("")): fields for fields in rows if fields}
    out = []
    for path in lists:
        for name in read_text(path).split():
            fields = lines.get(str(PurePosixPath(name).with_suffix("")))
            if fields is None:
                raise ScrflowError(
                    f"{url}: has no line for {name}, which {path} lists; the source has changed: correct the list"
                )
            out.append(" ".join([name, *fields[1:]]) + "\n")
    return "".join(out).encode()


def _fetch_archive(archive: Archive, out: Path, page: str | None) -> None:
    """Unpack a published archive under ``out``, once; one that a person put into ``out`` is taken as it is."""
    name = PurePosixPath(unquote(urlsplit(archive.url).path)).name
    record = out / STATE / f"{name}.json"
    try:
        known = dict(json.loads(record.read_text(encoding="utf-8"))) if record.is_file() else {}
    except ValueError:
        raise ScrflowError(f"{record}: damaged; delete it, the archive is then fetched again") from None
    task = archive.model_dump(mode="json", include={"into", "unpack", "nested", "skip"})
    if known.get("unpacked") == task and list_path(out, name).is_file():
        return
    record.parent.mkdir(parents=True, exist_ok=True)
    path = out / name
    if not path.is_file():
        _download(archive, path, out / STATE / f"{name}.part", page)
    found = sha256_file(path)
    expected = archive.sha256 or known.get("sha256")
    if expected is not None and found != expected:
        origin = "the config" if archive.sha256 else f"{record}, recorded at the first download,"
        raise ScrflowError(
            f"{path}: SHA-256 is {found}, {origin} says {expected}; the source has changed or the transfer was "
            "tampered with. Delete the file and try again, or, if you want the new file, correct the checksum"
        )
    if expected is None:
        log.warning("%s: no checksum is published; SHA-256 %s is recorded and checked from now on", name, found)
    now = {"url": archive.url, "sha256": found}
    write_text(record, json.dumps(now, indent=1) + "\n")
    folder = out / archive.into
    if archive.unpack:
        files = unpack(path, folder, archive.skip)
        inner = sorted(p for p in folder.glob(archive.nested) if p.is_file()) if archive.nested else []
        if archive.nested and not inner:
            raise ScrflowError(f"{path}: holds no {archive.nested}; correct key nested of the scene's download")
        for each in inner:
            files |= unpack(each, each.parent, archive.skip)
            each.unlink()
        path.unlink()
    else:
        folder.mkdir(parents=True, exist_ok=True)
        os.replace(path, folder / name)
        files = {folder / name: found}
    os.sync()  # all of it in one go, before it counts as there
    write_list(out, name, {file.relative_to(out).as_posix(): digest for file, digest in files.items() if file.exists()})
    write_text(record, json.dumps({**now, "unpacked": task}, indent=1) + "\n")


def _fetch(url: str, part: Path, by_hand: str, progress: Callable[[int, int | None], None] | None = None) -> None:
    """Bring ``part`` to hold what ``url`` has; ScrflowError telling what to do ``by_hand`` where it gives nothing."""
    try:
        fetch(url, part, progress)
    except Unreachable as error:
        raise ScrflowError(
            f"{url}: cannot be downloaded ({error}). By hand: {by_hand}, or set data_root (or the variable "
            "SCRFLOW_DATA) to a folder that holds the dataset; then run again"
        ) from None


def _download(archive: Archive, path: Path, part: Path, page: str | None) -> None:
    checksum = f" (SHA-256 {archive.sha256})" if archive.sha256 else ""
    by_hand = f"get it from {page or archive.url} and put it at {path}{checksum}"
    with ExitStack() as stack:
        bars: list[meter] = []

        def progress(have: int, total: int | None) -> None:
            if not bars:  # the first bytes come with the total
                bars.append(meter(f"downloading {path.name} (MiB)", (total or have) >> 20, have >> 20))
                stack.enter_context(bars[0])
            bars[0].advance_to(have >> 20)

        _fetch(archive.url, part, by_hand, progress)
    os.replace(part, path)
