"""Where a result comes from: code, config, data, packages, device.

What a stage was made by is in the stamps; what it ran on is not, as equal bytes are to come of equal recipes. Training
and localization note the latter beside their results (``this_run``), and evaluation gathers all of it.
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
_SOURCES = ("Snakefile", "rules", "workflow", "src")  # what results are made by; config is in the stamps


def this_run(threads: int, processes: int = 1) -> dict[str, Any]:
    """What this process runs on: code, packages (None: not installed), processor, GPU and the most memory that torch
    had allocated on it (MB of 10^6 bytes, of this process; None where no GPU was used)."""
    commit, clean = git_state(_ROOT)
    gpu, gpu_mb = _gpu()
    return {
        "scrflow": __version__,
        "commit": commit,
        "clean": clean,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": cpu_name(),
        "threads": threads,
        "processes": processes,
        "gpu": gpu,
        "gpu_mb": gpu_mb,
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
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _gpu() -> tuple[str | None, float | None]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None, None
    return torch.cuda.get_device_name(), round(torch.cuda.max_memory_allocated() / 1e6, 1)


def git_state(root: Path) -> tuple[str | None, bool | None]:
    """Commit of the checkout ``root``, and whether the sources are as committed; None where there is no checkout, or
    git cannot tell."""
    if not (root / ".git").exists():
        return None, None
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", *_SOURCES)
    return commit, None if changes is None else not changes


def _git(root: Path, *arguments: str) -> str | None:
    try:
        # without optional locks: another git at work in this checkout is not to be disturbed
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *arguments], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def note_run(history: Path, ran: dict[str, Any]) -> None:
    """Enter ``ran`` in the last line of a training's history (JSON lines)."""
    *before, last = history.read_text(encoding="utf-8").splitlines()
    write_text(history, "".join(f"{line}\n" for line in (*before, json.dumps({**json.loads(last), RAN: ran}))))


# ------------------------------------------------------------------------------------------------------------- results


def gather(stamp: Stamp, map_path: Path, details: Path, history: Path | None) -> dict[str, Any]:
    """The provenance of a result whose metrics have this ``stamp``, as metrics.json holds it.

    ``code``, ``config`` and ``data`` are digests: results that agree in one come of the same.
    ``stages`` are the stamps of everything upstream (path below results/ -> stamp; without one, None), inputs before
    what was made of them, ``lost`` what is no longer there; ``training``, ``localization`` and ``evaluation`` what each
    ran on (None: not known).
    """
    found = upstream([map_path, details])
    stamps = {path: artifact.stamp for path, artifact in found.items()}
    made = [s for s in (*stamps.values(), stamp) if s is not None]
    data = {path: s.inputs for path, s in stamps.items() if s is not None and s.kind == "scene"}
    return {
        "code": _digest((s.kind, s.code) for s in made),
        "config": _digest((s.kind, s.config) for s in made),
        "data": _digest(
            (key, digest) for inputs in data.values() for key, digest in inputs.items() if key in ("images", "content")
        ),
        "stages": {path: None if s is None else json.loads(s.to_json()) for path, s in stamps.items()},
        "lost": [f"{path}: {key}" for path, artifact in found.items() for key in artifact.lost],
        "training": None if history is None else ran_of_history(history),
        "localization": json.loads(details.read_text(encoding="utf-8")).get(RAN),
        "evaluation": this_run(1),
    }


def ran_of_history(history: Path) -> dict[str, Any] | None:
    """What the training of a history ran on; None where it was not noted."""
    try:
        return json.loads(history.read_text(encoding="utf-8").splitlines()[-1]).get(RAN)
    except (IndexError, ValueError, AttributeError):
        raise ScrflowError(f"{history}: last line of the training log cannot be used; train again") from None


def _digest(parts: Iterable[tuple[str, Any]]) -> str:
    texts = sorted(json.dumps(part, sort_keys=True) for part in parts)
    return hashlib.sha256("\n".join(dict.fromkeys(texts)).encode()).hexdigest()[:16]


def stages_of(metrics_path: Path, metrics: dict[str, Any]) -> dict[str, Stamp | None]:
    """Stamps of everything upstream of a result, and its own under the name of its file: from metrics.json, or for one
    that does not hold them, from the artifacts beside it."""
    told = metrics.get("provenance")
    if told is not None:
        stamps = {path: None if s is None else Stamp(**s) for path, s in told["stages"].items()}
    else:
        stamps = {path: artifact.stamp for path, artifact in upstream(results_in(metrics_path.parent)).items()}
    return {**stamps, metrics_path.name: read_stamp(metrics_path, "metrics")}
