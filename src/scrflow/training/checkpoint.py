"""The checkpoint of a training: written whole or not at all, and believed only as it was written.

A line with the SHA-256 of the rest, and what ``torch.save`` makes of the state.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from scrflow.core.progress import log
from scrflow.storage.artifact import atomic_path

_MARK = b"scrflow checkpoint, sha256 "
_LINE = len(_MARK) + 65


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the state (tensors, numbers, strings, lists and dictionaries of them)."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    with atomic_path(path) as temporary, open(temporary, "wb") as f:
        f.write(_MARK + hashlib.sha256(data).hexdigest().encode() + b"\n")
        f.write(data)


def load_checkpoint(path: Path, digest: str) -> dict[str, Any] | None:
    """The state, on the CPU, where its ``digest`` is the one given; None, and a warning that says why, otherwise.

    Nothing in a checkpoint is run: it is read with ``weights_only``, and after its SHA-256 was found right.
    """
    if not path.exists():
        return None
    data = path.read_bytes()
    if data[:_LINE] != _MARK + hashlib.sha256(data[_LINE:]).hexdigest().encode() + b"\n":
        log.warning("%s: damaged checkpoint (SHA-256 differs): training begins anew", path)
        return None
    try:
        state = torch.load(io.BytesIO(data[_LINE:]), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for what it does not take
        log.warning("%s: not a checkpoint (%s): training begins anew", path, type(error).__name__)
        return None
    if not isinstance(state, dict) or state.get("digest") != digest:
        log.warning("%s: checkpoint of another config or other inputs: training begins anew", path)
        return None
    return state
