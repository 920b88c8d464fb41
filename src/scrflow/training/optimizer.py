"""How a head is optimised: precision of its arithmetic, its parameters as one vector, AdamW and Muon, and the memory
of a GPU that this takes, counted before training begins."""

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scrflow.config import TrainingConfig
from scrflow.core.errors import ScrflowError
from scrflow.training.head import Head, ReluStack
from scrflow.training.samples import ColumnLayout, Samples

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: steep at 0, singular values end between 0.7 and 1.2
_ITERATIONS = 5
_MOMENTUM = 0.95
_GROUPS = 4  # of matrices on a CPU, for threads to share
GPU_ROWS = 81_920  # of a batch are computed at once
_ROWS = 64
_TARGET_BYTES = 600  # of a row: inputs, targets, and what the loss keeps of them, float32
_SHUFFLE_BYTES = 40  # of a row, while torch.randperm sorts; then the activations are not needed
_RESERVE = 1 << 30  # CUDA's context, and what its allocator cannot use


@dataclass(frozen=True)
class Precision:
    """Arithmetic of the head: ``autocast`` to a type or not, and ``backward_bf16``: float32 forward, bf16 backward."""

    autocast: torch.dtype | None = None
    backward_bf16: bool = False


def precision_of(config: TrainingConfig, device: torch.device) -> Precision:
    """What the config's ``precision`` means on a device (docs/performance.md has the measurements).

    On a CPU the forward pass is in float32: in bf16 rscore-cpu lost a third of its accuracy on redkitchen. The backward
    pass takes bf16 where the processor multiplies it faster; gradients keep a cosine of 0.999997.
    """
    named = {"fp32": Precision(), "bf16": Precision(torch.bfloat16), "fp16": Precision(torch.float16)}
    if config.precision in named:
        return named[config.precision]
    if config.precision == "bf16-backward" or (device.type == "cpu" and cpu_multiplies_bf16()):
        return Precision(backward_bf16=True)
    return named["fp16"] if device.type == "cuda" else Precision()


def cpu_multiplies_bf16() -> bool:
    """Whether the processor has bf16 dot products (AVX512-BF16 or AMX); False for Arm, where nothing was tried."""
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()) and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def use_bf16_backward(head: Head) -> None:
    """Let the head's layers, except the decoders' last ones, compute their gradients in bf16; parameters stay."""
    for module in head.modules():
        if type(module) is ReluStack:
            module.__class__ = _ReluStackBf16
        elif type(getattr(module, "skip", None)) is nn.Linear:
            module.skip.__class__ = _LinearBf16


class _ReluStackBf16(ReluStack):
    def forward(self, x: Tensor) -> Tensor:  # [B, in] -> [B, out]
        if not torch.is_grad_enabled():
            return super().forward(x)
        return _StackBackward.apply(x, *(p for layer in self for p in (layer.weight, layer.bias)))


class _StackBackward(torch.autograd.Function):
    """y = relu(... relu(x W1' + b1) ... Wn' + bn), and its gradients from bf16 factors, chained in bf16."""

    @staticmethod
    def forward(ctx, x: Tensor, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[::2], parameters[1::2]
        kept = [x.bfloat16()]
        for weight, bias in zip(weights, biases, strict=True):
            x = F.linear(x, weight, bias).relu_()
            kept.append(x.bfloat16())
        ctx.save_for_backward(*kept, *weights)
        return x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.saved_tensors) // 2
        activations, weights = ctx.saved_tensors[: count + 1], ctx.saved_tensors[count + 1 :]
        gradient = gradient.bfloat16()
        found: list[Tensor] = []
        for i in range(count - 1, -1, -1):
            gradient = torch.ops.aten.threshold_backward(gradient, activations[i + 1], 0)
            found = [(gradient.T @ activations[i]).float(), gradient.sum(0, dtype=torch.float32), *found]
            if i or ctx.needs_input_grad[0]:
                gradient = gradient @ weights[i].bfloat16()
        return (gradient.float() if ctx.needs_input_grad[0] else None, *found)


class _LinearBf16(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:  # [B, in] -> [B, out]
        if not torch.is_grad_enabled():
            return super().forward(x)
        return _LinearBackward.apply(x, self.weight, self.bias)


class _LinearBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x.bfloat16(), weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        short = gradient.bfloat16()
        to_x = (short @ weight.bfloat16()).float() if ctx.needs_input_grad[0] else None
        return to_x, (short.T @ x).float(), gradient.sum(0)


def flatten_parameters(head: Head) -> nn.Parameter:
    """The vector [P] of all parameters, with a gradient; the head's own become views of it."""
    vector = nn.Parameter(torch.cat([p.detach().flatten() for p in head.parameters()]))
    vector.grad = torch.zeros_like(vector)
    _bind(head, vector.detach(), vector.grad)
    return vector


def replica_of(head: Head, vector: Tensor) -> tuple[Head, Tensor]:
    """A head for a thread: it shares the parameters ``vector`` [P], and has a gradient [P] of its own."""
    replica, gradient = copy.deepcopy(head), torch.zeros_like(vector)
    _bind(replica, vector.detach(), gradient)
    return replica.train(), gradient


def _bind(head: Head, vector: Tensor, gradient: Tensor) -> None:
    begin = 0
    for parameter in head.parameters():
        end = begin + parameter.numel()
        parameter.data = vector[begin:end].view_as(parameter)
        parameter.grad = gradient[begin:end].view_as(parameter)
        begin = end


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal (Jordan et al. 2024), with the step length of AdamW (Liu et al. 2025:
    0.2 sqrt(max(rows, columns))) and decoupled weight decay: torch.optim.Muon for all matrices of a shape at once."""

    # GradScaler then hands over its scale and what it found, instead of waiting for the GPU to tell it
    _step_supports_amp_scaling = True
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

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
        scale, skipped = self.grad_scale, None if self.found_inf is None else self.found_inf > 0
        for shape, matrices in self._shapes.items():
            gradient = torch.stack([m.grad for m in matrices])
            if scale is not None:
                gradient /= scale
            state = self.state[matrices[0]]  # of all of this shape
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(gradient)
            if skipped is not None:
                gradient = torch.where(skipped, state["momentum"], gradient)  # which then stays as it is
            momentum = state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
            update = orthogonalised(gradient.lerp_(momentum, _MOMENTUM), self._dtype).to(gradient.dtype)
            length = 0.2 * math.sqrt(max(shape)) * lr
            if skipped is not None:
                update, kept = torch.where(skipped, 0.0, update), torch.where(skipped, 1.0, decay)
                torch._foreach_mul_(matrices, kept)
            else:
                torch._foreach_mul_(matrices, decay)
            torch._foreach_add_(matrices, list(update.unbind()), alpha=-length)


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
    """AdamW for all parameters ``vector`` [P] of a head; or Muon for its matrices, and AdamW for the rest."""

    def __init__(self, config: TrainingConfig, head: Head, vector: nn.Parameter):
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
            dealt = [list(matrices.values())[i::groups] for i in range(groups)]
            self.all += [Muon(some, **settings, dtype=dtype) for some in dealt if some]
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
        """Continue from what ``state_dict`` gave."""
        for optimizer, state in zip(self.all, states, strict=True):
            optimizer.load_state_dict(state)


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
