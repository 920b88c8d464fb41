"""The device that networks run on, decided in one place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from scrflow.core.errors import ScrflowError

if TYPE_CHECKING:  # the workflow's rules ask for a GPU and do not wait for torch
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")
_NVIDIA, _AMD = Path("/dev/nvidiactl"), Path("/dev/kfd")  # of the drivers


def device_for(wanted: str | None = None) -> torch.device:
    """The device of that name; of ``SCRFLOW_DEVICE`` (key ``device`` of the config) when there is none. ``auto``: a
    CUDA GPU if torch sees one, else the CPU. ScrflowError for a device that is not there."""
    import torch

    name = wanted or os.environ.get("SCRFLOW_DEVICE") or "auto"
    if name.partition(":")[0] not in DEVICES:
        raise ScrflowError(f"device {name}: unknown; use one of {', '.join(DEVICES)}")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ScrflowError("device cuda: torch sees no GPU; use auto or cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ScrflowError("device mps: torch sees no GPU of Apple; use auto or cpu")
    return torch.device(name)


def machine_has_gpu() -> bool:
    """Whether this machine has a GPU's driver and its GPUs are not hidden, without waiting for torch."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") != "" and (_NVIDIA.exists() or _AMD.exists())
