"""Artifacts: stamped, checksummed, and written in one step.

A stamp holds the schema version, the kind, the config subset, the version of the stage's code, and digests of the
inputs. A checksum (scrflow.storage.checksum) is verified whenever the content is read. A file is written beside its
final place and renamed, so that no half-written file has a final name.
"""

import contextlib
import glob
import hashlib
import json
import os
import shutil
import socket
import time
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from pydantic import BaseModel

from scrflow.core.errors import WRITING, ScrflowError, damage_reported
from scrflow.storage import checksum
from scrflow.storage.checksum import verify_checksum, write_checksum

SCHEMA_VERSION = 1
STAMP_KEY = "scrflow"
FORMS = (".h5", ".npz", ".safetensors", ".json")
_MAX_STAMP = 1 << 20  # bytes
_STALE_S = 86400.0  # age at which another machine's temporary file is abandoned

os.umask(_UMASK := os.umask(0o077))  # the only way to read it is to set it


@dataclass(frozen=True)
class Stamp:
    """How an artifact was made. Equal digests mean the same recipe on the same inputs."""

    kind: str
    config: dict[str, Any] = field(default_factory=dict)
    code: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA_VERSION

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def make(cls, kind: str, config: BaseModel, code: str, **inputs: Path | str) -> Self:
        """Stamp of an artifact made from ``inputs``, each an artifact path (its stamp is read) or a digest."""
        digests = {name: read_stamp(p).digest if isinstance(p, Path) else p for name, p in inputs.items()}
        return cls(kind, config.model_dump(mode="json"), code, digests)

    @classmethod
    def from_json(cls, text: str, path: Path) -> Self:
        try:
            stamp = cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise ScrflowError(f"{path}: its stamp cannot be read ({error}); delete the file and run again") from None
        if stamp.schema != SCHEMA_VERSION:
            raise ScrflowError(
                f"{path}: schema version {stamp.schema}, this scrflow reads {SCHEMA_VERSION}; "
                "delete the file and run again, or use the scrflow that wrote it"
            )
        return stamp


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Note the file that the block writes on its errors, for core.errors.error_line."""
    try:
        yield
    except Exception as error:
        error.add_note(f"{WRITING}{path}")
        raise


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` (same suffix), renamed to it when the block ends well and removed otherwise."""
    path = Path(path)
    with _temporary(path, path.suffix) as temporary:
        yield temporary
        # libraries make temporary files for their owner alone: give the file the mode of the umask
        os.chmod(temporary, 0o666 & ~_UMASK)
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)


@contextlib.contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Like atomic_path for a folder: an existing folder is replaced as a whole when the block ends well."""
    path = Path(path)
    with _temporary(path, "") as temporary:
        temporary.mkdir()
        yield temporary
        _remove(path)
        os.replace(temporary, path)


@contextlib.contextmanager
def _temporary(path: Path, suffix: str) -> Iterator[Path]:
    """``.STEM.HOST-PID.tmp`` and suffix, removed with the block. First remove what processes that are gone left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stem, host = path.name.removesuffix(suffix), socket.gethostname()
    for other in path.parent.glob(f".{glob.escape(stem)}.*.tmp{glob.escape(suffix)}"):
        where, _, pid = other.name.removesuffix(f".tmp{suffix}").removeprefix(f".{stem}.").rpartition("-")
        old = where != host and time.time() - other.lstat().st_mtime > _STALE_S
        if pid.isdigit() and (old or (where == host and not _is_another_process(int(pid)))):
            _remove(other)
    temporary = path.with_name(f".{stem}.{host}-{os.getpid()}.tmp{suffix}")
    try:
        with writing(path):
            yield temporary
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _is_another_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def folder_digest(folder: Path, *but: str) -> str:
    """Digest of names and contents of all files in a folder, except the names ``but`` and hidden files."""
    found = sorted(p for p in Path(folder).rglob("*") if p.is_file() and not p.name.startswith("."))
    names = [(p.relative_to(folder).as_posix(), p) for p in found]
    text = "".join(f"{name} {sha256_file(p)}\n" for name, p in names if name not in but)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------- writing


def write_text(path: Path, text: str) -> None:
    """Text without a stamp, in a format that others fixed (poses.txt)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: dict[str, Any], stamp: Stamp) -> None:
    """JSON object; the stamp under the key ``scrflow``, with the checksum at its end."""
    values = {**values, STAMP_KEY: {**json.loads(stamp.to_json()), checksum.KEY: checksum.EMPTY}}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        write_checksum(temporary)


def write_npz(path: Path, arrays: dict[str, np.ndarray], stamp: Stamp) -> None:
    """Arrays plus the stamp; zip entries carry a fixed date, so equal content is equal bytes."""
    with atomic_path(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as z:
            for name, array in {**arrays, STAMP_KEY: np.frombuffer(stamp.to_json().encode(), np.uint8)}.items():
                with z.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as f:
                    np.lib.format.write_array(f, np.asarray(array), allow_pickle=False)
            z.comment = checksum.COMMENT + checksum.EMPTY.encode()
        write_checksum(temporary)


@contextlib.contextmanager
def create_h5(path: Path, stamp: Stamp) -> Iterator[h5py.File]:
    """A new HDF5 file with the stamp in its user block."""
    block = checksum.user_block(stamp.to_json())
    with atomic_path(path) as temporary:
        with h5_file(temporary, userblock_size=len(block)) as f:
            yield f
        with open(temporary, "r+b") as f:
            f.write(block)
        write_checksum(temporary)


def _unbuffered(plist: h5py.h5p.PropFAID) -> None:
    plist.set_fapl_sec2()
    plist.set_sieve_buf_size(0)


h5py.register_driver("scrflow-unbuffered", _unbuffered)


@contextlib.contextmanager
def h5_file(path: Path, **options: Any) -> Iterator[h5py.File]:
    """A new HDF5 file that raises when the disk is full.

    HDF5 buffers a dataset until it is closed; h5py only prints a failure there, and HDF5 crashes at the next flush or
    at the end of the process (h5py 3.16). So nothing is buffered, and after an error the rest is written to memory.
    """
    with h5py.File(path, "w", driver="scrflow-unbuffered", libver="latest", rdcc_nbytes=0, **options) as f:
        try:
            yield f
            f.flush()
        except BaseException:
            nowhere = os.memfd_create("h5") if hasattr(os, "memfd_create") else os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, f.id.get_vfd_handle(), inheritable=False)
            os.close(nowhere)
            raise


def write_safetensors(
    path: Path, tensors: dict[str, Any], stamp: Stamp, metadata: dict[str, str] | None = None
) -> None:
    """Torch tensors plus string metadata plus the stamp."""
    from safetensors.torch import save_file

    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    metadata = {**(metadata or {}), STAMP_KEY: stamp.to_json(), checksum.KEY: checksum.EMPTY}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
        _sort_safetensors_metadata(temporary)
        write_checksum(temporary)


def _sort_safetensors_metadata(path: Path) -> None:
    """Sort the metadata in place: safetensors writes it in a random order, and equal content is to be equal bytes."""
    with open(path, "r+b") as f:
        size = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        if len(text) != size:
            raise RuntimeError(f"{path}: header of {size} bytes became one of {len(text)}")
        f.seek(8)
        f.write(text)


# ------------------------------------------------------------------------------------------------------------- reading


def require(path: Path, what: str) -> Path:
    """The path itself, or a ScrflowError that says which ``what`` is missing."""
    if not Path(path).exists():
        raise ScrflowError(f"{path}: {what} is missing; run the stage that makes it (snakemake does)")
    return Path(path)


def read_stamp(path: Path, kind: str | None = None, whole: bool = True) -> Stamp:
    """The stamp of any artifact; ScrflowError if it has none, is of another kind, or is damaged.

    With ``whole`` the checksum is verified first, which reads the whole file (once a process).
    """
    path = Path(path)
    require(path, kind or "artifact")
    with damage_reported(path, "not an artifact of scrflow"):
        if whole:
            verify_checksum(path)
        text = stamp_text(path)
        if text is None:
            raise ValueError("it has no stamp")
    stamp = Stamp.from_json(text, path)
    if kind is not None and stamp.kind != kind:
        raise ScrflowError(f"{path}: expected a {kind}, found a {stamp.kind}; give the right file")
    return stamp


def stamp_text(path: Path) -> str | None:
    """The stamp as JSON text, not checked; None if the file has none."""
    if path.suffix == ".json":
        values = json.loads(path.read_text(encoding="utf-8"))
        stamp = values.get(STAMP_KEY) if isinstance(values, dict) else None
        return None if stamp is None else json.dumps({k: v for k, v in stamp.items() if k != checksum.KEY})
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as z:
            if STAMP_KEY not in z.files:
                return None
            if z.zip.getinfo(f"{STAMP_KEY}.npy").file_size > _MAX_STAMP:
                raise ValueError("a stamp of over a megabyte")
            return z[STAMP_KEY].tobytes().decode()
    if path.suffix == ".safetensors":
        return read_safetensors_metadata(path).get(STAMP_KEY)
    return checksum.stamp_in_user_block(path)


def read_json(path: Path, kind: str) -> dict[str, Any]:
    """The object without its stamp. ScrflowError for a damaged file, as in the functions below."""
    read_stamp(path, kind)
    values = json.loads(Path(path).read_text(encoding="utf-8"))
    del values[STAMP_KEY]
    return values


def open_h5(path: Path, kind: str) -> h5py.File:
    """The file, open for reading, after its checksum and stamp were verified."""
    read_stamp(path, kind)
    with damage_reported(path, "not an HDF5 file"):
        return h5py.File(path, "r")


def read_safetensors_metadata(path: Path) -> dict[str, str]:
    """The string metadata of a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, "np") as f:  # "pt" would import torch
        return f.metadata() or {}


def read_safetensors(path: Path, kind: str) -> dict[str, Any]:
    """All tensors, on the CPU."""
    from safetensors.torch import load_file

    read_stamp(path, kind)
    return load_file(path)
