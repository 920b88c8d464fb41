"""What encoders and descriptors share: reading published checkpoints, faster inference, cells of 8 x 8 px."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from scrflow.core.errors import ScrflowError
from scrflow.core.seeds import torch_generator
from scrflow.features.encoders import LocalFeatures
from scrflow.storage.weights import locate

CELL = 8  # px
_LISTED = 3  # tensors named in an error; a wrong file disagrees in hundreds


def load_published(
    network: nn.Module,
    name: str,
    *,
    key: str | None = None,
    part: Collection[str] = (),
    missing: Collection[str] = (),
) -> None:
    """Load the registry's weights ``name`` into ``network`` and set it to evaluation; ScrflowError if they do not fit.

    ``key``: the entry of the file that holds the tensors. ``part``: prefixes that the network's names may have in a
    file that holds more. ``missing``: names that the published file does not have (constants).
    """
    path = locate(name)
    state = read_tensors(path, key)
    if part:
        prefix = next((p for p in part if any(tensor.startswith(p) for tensor in state)), None)
        if prefix is None:
            raise ScrflowError(f"{path}: not the weights of {name}: no tensor begins with {' or '.join(part)}")
        state = {t.removeprefix(prefix): value for t, value in state.items() if t.startswith(prefix)}
    load_strictly(network, state, path, name, missing)


def read_tensors(path: Path, key: str | None = None) -> dict[str, torch.Tensor]:
    """The named tensors of a checkpoint, under ``key`` if one is given; ScrflowError if there are none."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ScrflowError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # torch raises many kinds for a file that is none of its own, IndexError among them
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ScrflowError(f"{path}: no checkpoint of tensors that torch can read ({reason}); delete it") from None
    if key is not None:
        state = state.get(key) if isinstance(state, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        where = f"under {key!r}" if key is not None else "at its top"
        raise ScrflowError(f"{path}: holds no named tensors {where}; it is another file than the one expected")
    return state


def load_strictly(
    network: nn.Module, state: dict[str, torch.Tensor], path: Path, name: str, missing: Collection[str] = ()
) -> None:
    """Load ``state`` into ``network`` and set it to evaluation; ScrflowError (one line) if names or shapes differ but
    for ``missing``. A network on the device "meta" takes the tensors of ``state``."""
    own = network.state_dict()
    wrong = [f"{tensor} is missing" for tensor in own if tensor not in state and tensor not in missing]
    wrong += [f"{tensor} is not known" for tensor in state if tensor not in own]
    wrong += [
        f"{tensor} is {list(state[tensor].shape)}, not {list(value.shape)}"
        for tensor, value in own.items()
        if tensor in state and state[tensor].shape != value.shape
    ]
    if wrong:
        more = f" and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
        raise ScrflowError(f"{path}: not the weights of {name}: {'; '.join(wrong[:_LISTED])}{more}")
    valueless = any(value.is_meta for value in own.values())
    if valueless:
        state = {tensor: value.to(own[tensor].dtype) for tensor, value in state.items()}
    network.load_state_dict(state, strict=not missing, assign=valueless)
    network.eval()


def for_inference(network: nn.Module) -> None:
    """Change ``network`` (in evaluation mode) in place: batch norms become part of the convolutions that are registered
    right before them, and weights lie channels last. XFeat at 640 x 480 on one core: 49 ms before, 39 ms after."""
    _fold_batch_norms(network)
    network.to(memory_format=torch.channels_last)


def _fold_batch_norms(module: nn.Module) -> None:
    children = list(module.named_children())
    for _, child in children:
        _fold_batch_norms(child)
    for (name, child), (next_name, following) in itertools.pairwise(children):
        if isinstance(child, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(child, following))
            setattr(module, next_name, nn.Identity())


def window_max(maps_HW: torch.Tensor, radius: int) -> torch.Tensor:
    """Bit by bit what F.max_pool2d of 2 ``radius`` + 1 px and stride 1 gives for maps [..., H, W], fifty times as
    fast."""
    for axis in (-1, -2):
        length = maps_HW.shape[axis]
        padding = [radius, radius] if axis == -1 else [0, 0, radius, radius]
        run = nn.functional.pad(maps_HW, padding, value=-torch.inf)
        width, window = 1, 2 * radius + 1  # run holds maxima over ``width`` entries, from each on
        while width < window:
            step = min(width, window - width)
            kept = run.shape[axis] - step
            run = torch.maximum(run.narrow(axis, 0, kept), run.narrow(axis, step, kept))
            width += step
        maps_HW = run.narrow(axis, 0, length)
    return maps_HW


def grey(image_3HW: torch.Tensor) -> torch.Tensor:
    """Luma [1, 1, H, W] of an RGB image (ITU-R BT.601)."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (image_3HW * weights).sum(0)[None, None]


def grid_features(map_DHW: torch.Tensor, origin_px: float, size: tuple[int, int], max_keypoints: int) -> LocalFeatures:
    """Cells of a descriptor map as features of an image of ``size`` (height, width).

    Cell (row, column) stands at pixel (8 column + origin, 8 row + origin). All scores are 1; the order is a permutation
    drawn for the size of the map, so that the first N cells are a fair sample of the image.
    """
    _, rows, columns = map_DHW.shape
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    pixels = torch.stack([column, row], 2).reshape(-1, 2) * float(CELL) + origin_px  # [H * W, 2]
    order = torch.randperm(rows * columns, generator=torch_generator(0, "cells of a grid", rows, columns))
    order = order[(pixels[order] < torch.tensor([size[1], size[0]])).all(1)][:max_keypoints]
    descriptors = map_DHW.flatten(1)[:, order].T
    return LocalFeatures(pixels[order], descriptors.float().contiguous(), torch.ones(len(order)))
