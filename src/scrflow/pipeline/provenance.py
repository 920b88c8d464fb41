"""Where a result comes from: code, config, data, packages, device.

Stamps say what made each stage, but not what it ran on, so that equal recipes give equal bytes. Training and
localization note what they ran on beside their results (``this_run``); evaluation gathers all of it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scrflow import __version__
from scrflow.core.errors import ScrflowError
from scrflow.pipeline.lineage import results_in, upstream
from scrflow.storage.artifact import Stamp, read_stamp, write_text

PACKAGES = (
    "torch", "numpy", "scipy", "pycolmap", "poselib", "kornia", "h5py", "faiss-cpu", "safetensors", "snakemake",
)  # fmt: skip
RAN = "ran"  # the key of this_run in localization.json and in the last line of train.jsonl
_ROOT = Path(__file__).resolve().parents[3]
_SOURCES = ("Snakefile", "rules", "workflow", "src")  # the code that makes results; config is in the stamps


def this_run(threads: int, processes: int = 1) -> dict[str, Any]:
    """What this process runs on: code, packages (None: not installed), processor, GPU and the most memory that torch
    allocated on it (MB of 10^6 bytes, of this process; None without a GPU)."""
    commit, clean = git_state(_ROOT)
    torch = sys.modules.get("torch")
    gpu = torch is not None and torch.cuda.is_initialized()
    return {
        "scrflow": __version__,
        "commit": commit,
        "clean": clean,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": cpu_name(),
        "threads": threads,
        "processes": processes,
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "gpu_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1) if gpu else None,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def cpu_name() -> str:
    """Model of the processor, as the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def git_state(root: Path) -> tuple[str | None, bool | None]:
    """Commit of the checkout ``root``, and whether the sources are as committed; None if git does not know."""
    if not (root / ".git").exists():
        return None, None
    commit, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--", *_SOURCES)
    return commit, None if changes is None else not changes


def _git(root: Path, *arguments: str) -> str | None:
    # without optional locks, which would disturb another git in this checkout
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def note_run(history: Path, ran: dict[str, Any]) -> None:
    """Add ``ran`` to the last line of a training's history (JSON lines)."""
    *before, last = history.read_text(encoding="utf-8").splitlines()
    write_text(history, "".join(f"{line}\n" for line in (*before, json.dumps({**json.loads(last), RAN: ran}))))


def last_of_history(history: Path) -> dict[str, Any]:
    """The last line of a training's history: ``seconds`` of the whole training, and what it ran on under RAN."""
    try:
        last = json.loads(history.read_text(encoding="utf-8").splitlines()[-1])
        return {**last, "seconds": float(last["seconds"]), RAN: last.get(RAN)}
    except (IndexError, ValueError, AttributeError, KeyError, TypeError):
        raise ScrflowError(f"{history}: last line of the training log cannot be used; train again") from None


def gather(stamp: Stamp, map_path: Path, details: Path, history: Path | None) -> dict[str, Any]:
    """The provenance of a result whose metrics have this ``stamp``, as metrics.json holds it.

    ``code``, ``config`` and ``data`` are digests: results with an equal one were made with equal code, config or data.
    ``stages`` are the stamps of everything upstream (path below results/ -> stamp or None), inputs first; ``lost`` are
    inputs that no longer exist; ``training``, ``localization`` and ``evaluation`` say what each ran on (None: unknown).
    """
    found = upstream([map_path, details])
    stamps = {path: artifact.stamp for path, artifact in found.items()}
    made = [s for s in (*stamps.values(), stamp) if s is not None]
    data = [item for s in made if s.kind == "scene" for item in s.inputs.items() if item[0] in ("images", "content")]
    return {
        "code": _digest((s.kind, s.code) for s in made),
        "config": _digest((s.kind, s.config) for s in made),
        "data": _digest(data),
        "stages": {path: None if s is None else json.loads(s.to_json()) for path, s in stamps.items()},
        "lost": [f"{path}: {key}" for path, artifact in found.items() for key in artifact.lost],
        "training": None if history is None else last_of_history(history)[RAN],
        "localization": json.loads(details.read_text(encoding="utf-8")).get(RAN),
        "evaluation": this_run(1),
    }


def _digest(parts: Iterable[tuple[str, Any]]) -> str:
    texts = sorted(json.dumps(part, sort_keys=True) for part in parts)
    return hashlib.sha256("\n".join(dict.fromkeys(texts)).encode()).hexdigest()[:16]


def stages_of(metrics_path: Path, metrics: dict[str, Any]) -> dict[str, Stamp | None]:
    """Stamps of everything upstream of a result, and its own under the name of its file: from metrics.json, or from the
    artifacts beside it if it does not hold them (older scrflow)."""
    held = metrics.get("provenance")
    if held is not None:
        stamps = {path: None if s is None else Stamp(**s) for path, s in held["stages"].items()}
    else:
        stamps = {path: artifact.stamp for path, artifact in upstream(results_in(metrics_path.parent)).items()}
    return {**stamps, metrics_path.name: read_stamp(metrics_path, "metrics")}
