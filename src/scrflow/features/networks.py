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
_REASON = 300  # characters of torch's reason: a wrong file disagrees in hundreds of tensors


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
            raise ScrflowError(
                f"{path}: not the weights of {name} (no tensor begins with {' or '.join(part)}); delete it to have it "
                "fetched again"
            )
        state = {t.removeprefix(prefix): value for t, value in state.items() if t.startswith(prefix)}
    load_strictly(network, state, path, name, missing)


def read_tensors(path: Path, key: str | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, on the CPU, under ``key`` if it is given; ScrflowError if there are none."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ScrflowError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from None
    except Exception as error:  # torch raises many kinds for a file that is none of its own, IndexError among them
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ScrflowError(f"{path}: no checkpoint of tensors that torch can read ({reason}); delete it") from None
    if key is not None:
        state = state.get(key) if isinstance(state, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        where = f"under {key!r}" if key is not None else "at its top"
        raise ScrflowError(f"{path}: holds no named tensors {where}: it is another file; delete it")
    return state


def load_strictly(
    network: nn.Module, state: dict[str, torch.Tensor], path: Path, name: str, missing: Collection[str] = ()
) -> None:
    """Load ``state`` into ``network`` and set it to evaluation; ScrflowError (one line) if names or shapes differ but
    for ``missing``. A network on the device "meta" takes the tensors of ``state``."""
    own = network.state_dict()
    valueless = any(value.is_meta for value in own.values())
    if valueless:
        state = {tensor: value.to(own[tensor].dtype) if tensor in own else value for tensor, value in state.items()}
    try:
        network.load_state_dict({tensor: own[tensor] for tensor in missing} | state, assign=valueless)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:_REASON]
        raise ScrflowError(
            f"{path}: not the weights of {name} ({reason}); delete it to have it fetched again"
        ) from None
    network.eval()


def for_inference(network: nn.Module) -> None:
    """Change ``network`` in place: batch norms become part of the convolutions that are registered right before them,
    and weights lie channels last. XFeat at 640 x 480 on one core: 49 ms before, 39 ms after."""
    for module in list(network.modules()):
        for (name, child), (next_name, following) in itertools.pairwise(list(module.named_children())):
            if isinstance(child, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(child, following))
                setattr(module, next_name, nn.Identity())
    network.to(memory_format=torch.channels_last)


def window_max(maps_HW: torch.Tensor, radius: int) -> torch.Tensor:
    """What F.max_pool2d of 2 ``radius`` + 1 px and stride 1 gives for maps [..., H, W], ten times as fast."""
    padded = nn.functional.pad(maps_HW, [radius] * 4, value=-torch.inf)
    window = 2 * radius + 1
    return padded.unfold(-1, window, 1).amax(-1).unfold(-2, window, 1).amax(-1)


def grey(image_3HW: torch.Tensor) -> torch.Tensor:
    """Luma [1, 1, H, W] of an RGB image (ITU-R BT.601)."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (image_3HW * weights).sum(0)[None, None]


def grid_features(
    map_DHW: torch.Tensor,
    origin_px: float,
    size: tuple[int, int],
    max_keypoints: int,
    score_HW: torch.Tensor | None = None,
) -> LocalFeatures:
    """Up to ``max_keypoints`` cells of a descriptor map [D, H, W] as features of an image of ``size`` (height, width).

    Cell (row, column) stands at pixel (8 column + origin, 8 row + origin). Cells are drawn without replacement, in
    proportion to ``score_HW`` (Efraimidis and Spirakis 2006), or with equal chances, and then all scores are 1. The
    size of the map seeds the draw.
    """
    _, rows, columns = map_DHW.shape
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    pixels = torch.stack([column, row], 2).reshape(-1, 2) * float(CELL) + origin_px  # [H * W, 2]
    if score_HW is None:
        score = torch.ones(rows * columns)
        order = torch.randperm(rows * columns, generator=torch_generator(0, "cells of a grid", rows, columns))
    else:
        score = score_HW.flatten().float()
        u = torch.rand(rows * columns, generator=torch_generator(0, "cells by score", rows, columns))
        order = torch.argsort(-u.clamp(min=1e-12).log() / score.clamp(min=1e-12), stable=True)
    order = order[(pixels[order] < torch.tensor([size[1], size[0]])).all(1)][:max_keypoints]
    descriptors = map_DHW.flatten(1)[:, order].T
    return LocalFeatures(pixels[order], descriptors.float().contiguous(), score[order])
