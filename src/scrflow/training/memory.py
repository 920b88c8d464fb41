"""What a training takes of a GPU's memory, counted before it begins."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from scrflow.config import TrainingConfig
from scrflow.core.errors import ScrflowError
from scrflow.training.head import Head
from scrflow.training.samples import ColumnLayout, Samples

GPU_ROWS = 81_920  # of a batch are computed at once
_ROWS = 64
_TARGET_BYTES = 600  # of a row: inputs, targets, and what the loss keeps of them, float32
_SHUFFLE_BYTES = 40  # of a row, while torch.randperm sorts; then the activations are not needed
_RESERVE = 1 << 30  # CUDA's context, and what its allocator cannot use


def activation_bytes(head: Head, dim_in: int, rows: int, half: bool) -> int:
    """Bytes that ``rows`` keep for the backward pass, with ``half`` in 16 bits: counted in two small batches,
    whose difference is what a row takes."""
    twin = copy.deepcopy(head).cpu()

    def kept(count: int) -> int:
        storages: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storages[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=half),
        ):
            out = twin(torch.zeros(count, dim_in))  # keeps what was noted
        del out
        return sum(storages.values())

    a_row = (kept(_ROWS + 1) - kept(1)) // _ROWS
    widest = max(p.shape[0] for p in twin.parameters()) * (2 if half else 4)
    return rows * (a_row + 2 * widest + _TARGET_BYTES)  # the gradients of two layers


def needed_bytes(config: TrainingConfig, head: Head, dim_in: int, rows: int) -> int:
    """Bytes of a training beside its samples: a batch, ``rows`` of samples in memory being shuffled, and the parameters
    with their optimiser."""
    at_once = min(GPU_ROWS, config.batch_size // config.gpus)
    batch = activation_bytes(head, dim_in, at_once, config.precision != "fp32")
    parameters = 5 * 4 * sum(p.numel() for p in head.parameters())  # with gradient, two moments, and copies
    return max(batch, rows * _SHUFFLE_BYTES) + parameters + _RESERVE


def check_gpu_memory(config: TrainingConfig, head: Head, samples: Samples, groups: int, device: torch.device) -> None:
    """ScrflowError where the GPU has too little memory left for ``buffer_memory`` and what training takes beside it.
    ``groups``: shard groups of this process."""
    buffer = samples.buffer
    row = ColumnLayout.of(config, buffer, device).row_bytes
    share = buffer.rows * groups // config.gpus
    held = min(share * row, int(config.buffer_memory))
    beside = needed_bytes(config, head, samples.dim_in, held // row)
    free, total = torch.cuda.mem_get_info(device)
    if held + beside <= free:
        return
    gib, room = 1 << 30, free - beside
    advice = f"training.buffer_memory to {room / gib:.1f} GiB" if room > 0 else "training.batch_size lower"
    raise ScrflowError(
        f"{torch.cuda.get_device_name(device)}: training takes {held / gib:.1f} GiB for samples and "
        f"{beside / gib:.1f} GiB beside them, and {free / gib:.1f} of {total / gib:.1f} GiB are free; set {advice}"
    )
