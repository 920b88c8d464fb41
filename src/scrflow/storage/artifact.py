"""Reading and writing artifacts: atomic, stamped, validated.

Every artifact carries a stamp: schema version, kind, digest of the config subset that made it, version of the stage's
code and digests of its inputs; and a seal (scrflow.storage.checksum), which is checked whenever its content is read.
It is written
beside its place and renamed, so no half file ever has a final name.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import socket
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pydantic import BaseModel

from scrflow.core.errors import WRITING, ScrflowError
from scrflow.storage import checksum as seal
from scrflow.storage.checksum import check_seal

SCHEMA_VERSION = 1
_KEY = "scrflow"
_MAX_STAMP = 1 << 20  # bytes
_STALE_S = 86400.0  # age of another machine's temporary file that nobody can be writing any more

os.umask(_UMASK := os.umask(0o077))  # it can only be read by setting it


@dataclass(frozen=True)
class Stamp:
    """Provenance of an artifact. ``digest`` identifies it: equal digests mean the same recipe on the same inputs."""

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
    def make(cls, kind: str, config: BaseModel, code: str, **inputs: Path | str) -> Stamp:
        """Stamp of an artifact made from ``inputs``, each an artifact path (its stamp is read) or a digest."""
        digests = {name: read_stamp(p).digest if isinstance(p, Path) else p for name, p in inputs.items()}
        return cls(kind, config.model_dump(mode="json"), code, digests)

    @classmethod
    def from_json(cls, text: str, path: Path) -> Stamp:
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
    """Errors of the block bear the name of the file that is written, for core.errors."""
    try:
        yield
    except Exception as error:
        error.add_note(f"{WRITING}{path}")
        raise


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` (same suffix), renamed onto it when the block ends well, removed otherwise.

    What a killed process left of the same file is removed. The file's mode is that of the umask.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path, path.suffix)
    try:
        with writing(path):
            yield temporary
            # safetensors and temporary files of libraries are for their owner alone
            os.chmod(temporary, 0o666 & ~_UMASK)
            with open(temporary, "rb") as f:
                os.fsync(f.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Like atomic_path for a folder: an existing folder is replaced as a whole when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path, "")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with writing(path):
            temporary.mkdir()
            yield temporary
            if path.exists():
                shutil.rmtree(path)
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path: Path, suffix: str) -> Path:
    """``.STEM.HOST-PID.tmp`` and suffix, after those of processes that are no more were removed."""
    stem, host = path.name.removesuffix(suffix), socket.gethostname()
    for other in path.parent.glob(f".{glob.escape(stem)}.*.tmp{glob.escape(suffix)}"):
        where, _, pid = other.name.removesuffix(f".tmp{suffix}").removeprefix(f".{stem}.").rpartition("-")
        if not pid.isdigit():
            continue
        gone = not _is_alive(int(pid)) if where == host else time.time() - other.lstat().st_mtime > _STALE_S
        if gone:
            shutil.rmtree(other, ignore_errors=True) if other.is_dir() else other.unlink(missing_ok=True)
    return path.with_name(f".{stem}.{host}-{os.getpid()}.tmp{suffix}")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def folder_digest(folder: Path, *but: str) -> str:
    """Digest of the names and contents of all files in a folder, ``but`` some names in it; hidden ones do not count."""
    found = sorted(p for p in Path(folder).rglob("*") if p.is_file() and not p.name.startswith("."))
    lines = ((p.relative_to(folder).as_posix(), p) for p in found)
    text = "".join(f"{name} {sha256_file(p)}\n" for name, p in lines if name not in but)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------- writing


def write_text(path: Path, text: str) -> None:
    """Text without a stamp (forms fixed by others, such as poses.txt)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: dict[str, Any], stamp: Stamp) -> None:
    """JSON object; the stamp under the key ``scrflow``, with the seal at its end."""
    sealed = {**json.loads(stamp.to_json()), seal.KEY: seal.EMPTY}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({**values, _KEY: sealed}, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        seal.seal(temporary)


def write_npz(path: Path, arrays: dict[str, np.ndarray], stamp: Stamp) -> None:
    """Arrays plus the stamp; zip entries carry a fixed date, so equal content is equal bytes."""
    with atomic_path(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as z:
            for name, array in {**arrays, _KEY: np.frombuffer(stamp.to_json().encode(), np.uint8)}.items():
                with z.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as f:
                    np.lib.format.write_array(f, np.asarray(array), allow_pickle=False)
            z.comment = seal.COMMENT + seal.EMPTY.encode()
        seal.seal(temporary)


@contextlib.contextmanager
def create_h5(path: Path, stamp: Stamp) -> Iterator[h5py.File]:
    """A new HDF5 file with the stamp in its user block."""
    block = seal.user_block(stamp.to_json())
    with atomic_path(path) as temporary:
        with h5_file(temporary, userblock_size=len(block)) as f:
            yield f
        with open(temporary, "r+b") as f:
            f.write(block)
        seal.seal(temporary)


def _unbuffered(plist: h5py.h5p.PropFAID) -> None:
    plist.set_fapl_sec2()
    plist.set_sieve_buf_size(0)


h5py.register_driver("scrflow-unbuffered", _unbuffered)


@contextlib.contextmanager
def h5_file(path: Path, **options: Any) -> Iterator[h5py.File]:
    """A new HDF5 file, which fails as a file does.

    What HDF5 keeps back of a dataset it writes when the dataset is closed, where h5py prints a failure and goes on, and
    after one HDF5 crashes at the next flush or at the end of the process (h5py 3.16, a full disk). So nothing is kept
    back, and where the block fails the rest goes to memory, and from there nowhere.
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

    with atomic_path(path) as temporary:
        tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        save_file(tensors, temporary, metadata={**(metadata or {}), _KEY: stamp.to_json(), seal.KEY: seal.EMPTY})
        _sort_safetensors_metadata(temporary)
        seal.seal(temporary)


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
    """The stamp of any artifact; ScrflowError when there is none, or when it is of another kind.

    With ``whole`` the file's seal is checked before anything of it is believed, which reads all of it: once a process.
    """
    path = Path(path)
    require(path, kind or "artifact")
    try:
        if whole:
            check_seal(path)
        text = _stamp_text(path)
    except PermissionError:
        raise  # the file may be sound: it is not to be deleted
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, NotImplementedError, RecursionError,
            RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        message = _first_line(error)
        raise ScrflowError(
            f"{path}: damaged or not an artifact of scrflow ({message}); delete it and run again"
        ) from None
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise ScrflowError(f"{path}: damaged safetensors file ({error}); delete it and run again") from None
    stamp = Stamp.from_json(text, path)
    if kind is not None and stamp.kind != kind:
        raise ScrflowError(f"{path}: expected a {kind}, found a {stamp.kind}")
    return stamp


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _stamp_text(path: Path) -> str:
    if path.suffix == ".json":
        stamp = json.loads(path.read_text(encoding="utf-8"))[_KEY]
        return json.dumps({k: v for k, v in stamp.items() if k != seal.KEY})
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as z:
            if z.zip.getinfo(f"{_KEY}.npy").file_size > _MAX_STAMP:
                raise ValueError("a stamp of over a megabyte")
            return z[_KEY].tobytes().decode()
    if path.suffix == ".safetensors":
        return read_safetensors_metadata(path)[_KEY]
    text = seal.stamp_in_user_block(path)
    if text is None:
        raise KeyError(_KEY)
    return text


def read_json(path: Path, kind: str) -> dict[str, Any]:
    """The object without its stamp. ScrflowError where the file is damaged, as with the functions below."""
    read_stamp(path, kind)
    values = json.loads(Path(path).read_text(encoding="utf-8"))
    del values[_KEY]
    return values


def open_h5(path: Path, kind: str) -> h5py.File:
    """The file, open for reading, after its seal and stamp were checked."""
    read_stamp(path, kind)
    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError, ValueError) as error:
        raise ScrflowError(f"{path}: damaged HDF5 file ({_first_line(error)}); delete it and run again") from None


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
