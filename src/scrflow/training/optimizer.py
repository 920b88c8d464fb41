"""The optimiser of a head: AdamW as in the papers, or Muon for its matrices."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from scrflow.config import TrainingConfig
from scrflow.training.head import Head
from scrflow.training.schedule import cpu_multiplies_bf16

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: steep at 0, singular values end between 0.7 and 1.2
_ITERATIONS = 5
_MOMENTUM = 0.95
_GROUPS = 4  # that the matrices are dealt to on a CPU, for threads to share


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal (Jordan et al. 2024, "Muon"), with the step length of AdamW (Liu et
    al. 2025: 0.2 sqrt(max(rows, columns))) and decoupled weight decay.

    What torch.optim.Muon computes, but in one batch for all matrices of a shape, and in float32 where the device has no
    fast bf16. Parameters are matrices.
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, weight_decay: float, dtype: torch.dtype):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self._dtype = dtype
        self._shapes: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            self._shapes[parameter.shape].append(parameter)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Step every matrix."""
        (group,) = self.param_groups
        lr, decay = group["lr"], 1 - group["lr"] * group["weight_decay"]
        for shape, matrices in self._shapes.items():
            gradient = torch.stack([m.grad for m in matrices])
            state = self.state[matrices[0]]  # of all of this shape
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(gradient)
            momentum = state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
            update = orthogonalised(gradient.lerp_(momentum, _MOMENTUM), self._dtype)
            length = 0.2 * math.sqrt(max(shape)) * lr
            torch._foreach_mul_(matrices, decay)
            torch._foreach_add_(matrices, list(update.to(gradient.dtype).unbind()), alpha=-length)


def orthogonalised(matrices_Nab: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest orthogonal matrices, about: five Newton-Schulz iterations, computed in ``dtype``."""
    a, b, c = _NEWTON_SCHULZ
    x = matrices_Nab.to(dtype)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class HeadOptimizer:
    """All optimisers of a head, as one."""

    def __init__(self, config: TrainingConfig, head: Head, vector: nn.Parameter):
        """``vector`` [P] are the head's parameters in one (training.flat)."""
        rest: list[nn.Parameter] = [vector]
        settings = {"lr": config.lr_max, "weight_decay": config.weight_decay}
        self.all: list[torch.optim.Optimizer] = []
        if config.optimizer == "muon":
            # the last layers' outputs are coordinates, each a quantity of its own
            named = dict(head.named_parameters())
            matrices = {k: p for k, p in named.items() if p.ndim == 2 and not k.endswith(".out.weight")}
            rest = [p for k, p in named.items() if k not in matrices]
            fast = vector.device.type == "cuda" or cpu_multiplies_bf16()
            dtype = torch.bfloat16 if fast else torch.float32
            groups = _GROUPS if vector.device.type == "cpu" else 1
            parts = [list(matrices.values())[i::groups] for i in range(groups)]
            self.all += [Muon(part, **settings, dtype=dtype) for part in parts if part]
        self.all.append(torch.optim.AdamW(rest, **settings, fused=True))

    def step(self, lr: float, scaler: torch.amp.GradScaler, each: Callable[..., Iterable[Any]] = map) -> None:
        """Step everything at this learning rate; ``each`` is map, or that of a pool of threads."""
        for optimizer in self.all:
            optimizer.param_groups[0]["lr"] = lr
        list(each(scaler.step, self.all))
        scaler.update()

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return self.all[0].param_groups[0]["lr"]

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of each."""
        return [optimizer.state_dict() for optimizer in self.all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """What ``state_dict`` gave."""
        for optimizer, state in zip(self.all, states, strict=True):
            optimizer.load_state_dict(state)
