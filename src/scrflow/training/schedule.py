"""Learning rate and arithmetic over the course of training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from scrflow.config import TrainingConfig


def one_cycle(progress: float, config: TrainingConfig) -> float:
    """Learning rate at ``progress`` in 0..1 (Smith and Topin 2017): a cosine from lr_start up to lr_max over the
    warm-up, then one down to lr_end, or to a thousandth of lr_start."""

    def cosine(start: float, end: float, t: float) -> float:
        return end + (start - end) * 0.5 * (1 + math.cos(math.pi * t))

    if progress < config.warmup:
        return cosine(config.lr_start, config.lr_max, progress / config.warmup)
    end = config.lr_start / 1000 if config.lr_end is None else config.lr_end
    return cosine(config.lr_max, end, (progress - config.warmup) / (1 - config.warmup))


@dataclass(frozen=True)
class Precision:
    """Arithmetic of the head: ``autocast`` to a type or not, and ``backward_bf16``: float32 forward, bf16 backward."""

    autocast: torch.dtype | None = None
    backward_bf16: bool = False

    @property
    def scaled(self) -> bool:
        """Whether gradients need loss scaling: float16 ends at 6e-8."""
        return self.autocast is torch.float16


def precision_of(config: TrainingConfig, device: torch.device) -> Precision:
    """What the config's ``precision`` means on a device (docs/performance.md has the measurements).

    On a CPU coordinates are computed in float32: with bf16's three digits in the forward pass too, rscore-cpu lost a
    third of its accuracy on redkitchen (1.36 cm for 0.92 cm). The backward pass takes bf16 where the processor
    multiplies it faster: the gradient's direction keeps a cosine of 0.999997 (tests/core/test_reference.py).
    """
    named = {"fp32": Precision(), "bf16": Precision(torch.bfloat16), "fp16": Precision(torch.float16)}
    if config.precision in named:
        return named[config.precision]
    if config.precision == "bf16-backward" or (device.type == "cpu" and cpu_multiplies_bf16()):
        return Precision(backward_bf16=True)
    if device.type == "cuda":
        return named["fp16"]
    return Precision()


def cpu_multiplies_bf16() -> bool:
    """Whether the processor has bf16 dot products (AVX512-BF16 or AMX), as torch tells; of Arm's nothing was tried."""
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()) and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
