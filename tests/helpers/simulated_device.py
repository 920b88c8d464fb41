"""A second device without a GPU: tensors whose numbers lie in main memory and whose device is "meta".

As on a GPU, an operator that gets tensors of both devices fails, and so does ``numpy()`` of one that is not on the CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")


class OnDevice(torch.Tensor):
    """A tensor on the simulated device; ``held`` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnDevice:
        with torch.inference_mode(False):  # views of weights are ordinary tensors in that mode, too
            made = torch.Tensor._make_wrapper_subclass(
                cls, held.shape, strides=held.stride(), dtype=held.dtype, device=DEVICE
            )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with _Operators():
            return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def simulated_device() -> Iterator[None]:
    """In this block the device "meta" computes."""
    with _Operators(), _NewTensors():
        yield


class _NewTensors(TorchFunctionMode):
    """torch.tensor makes a tensor of a device without asking the other mode."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu").type == DEVICE.type:
            return func(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        return func(*args, **kwargs)


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs or {}))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        there = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
        named = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
        here = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.dim()]  # beside numbers
        if there and here and named is None and func not in _MOVING:
            raise AssertionError(f"{func}: tensors on the device and on the CPU")
        on_device = bool(there) if named is None else named.type == DEVICE.type
        if func is torch.ops.aten.copy_.default:
            on_device = isinstance(args[0], OnDevice)
        known = {id(tensor.held): tensor for tensor in there}
        args, kwargs = tree_map(_on_cpu, (args, kwargs or {}))
        out = func(*args, **kwargs)

        def wrapped(value: Any) -> Any:
            if not on_device or not isinstance(value, torch.Tensor):
                return value
            return known[id(value)] if id(value) in known else OnDevice(value)

        return tree_map(wrapped, out)


_MOVING = (torch.ops.aten.copy_.default, torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.held if isinstance(value, OnDevice) else value
