"""What encoders and descriptors share: a network's device and batches, reading published checkpoints, faster inference,
cells of 8 x 8 px."""

import abc
import contextlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from scrflow.core.errors import ScrflowError
from scrflow.core.images import resized_to_short_side, to_tensor
from scrflow.core.parallel import batched, mapped, read_ahead
from scrflow.core.seeds import torch_generator
from scrflow.features.descriptors import GlobalDescriptor
from scrflow.features.encoders import LocalEncoder, LocalFeatures
from scrflow.storage.weights import locate

K = TypeVar("K")
R = TypeVar("R")

CELL = 8  # px
AHEAD = 64  # images that wait on a GPU for others of their size
_REASON = 300  # characters of torch's reason: a wrong file disagrees in hundreds of tensors


class NetworkEncoder(nn.Module, abc.ABC):
    """A local encoder that is a network: ``maps`` of several images at once, and ``select`` for each of them."""

    batch = 16  # images of one size that a GPU encodes at once
    half_on_gpu = False  # maps in float16 on a GPU; for dense encoders (docs/encoders.md has the error)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @abc.abstractmethod
    def maps(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the network computes of images of one size, each [B, ...]."""

    @abc.abstractmethod
    def select(self, *maps_1: torch.Tensor, size: tuple[int, int]) -> LocalFeatures:
        """Features of one image of ``size`` (height, width) from its maps [1, ...], float32."""

    def forward(self, image_CHW: torch.Tensor) -> LocalFeatures:
        return self.many(image_CHW[None])[0]

    @torch.inference_mode()
    def many(self, images_BCHW: torch.Tensor) -> list[LocalFeatures]:
        """Features of each of several images of one size."""
        half = self.half_on_gpu and images_BCHW.device.type == "cuda"
        with torch.autocast("cuda", torch.float16) if half else contextlib.nullcontext():
            maps = self.maps(images_BCHW)
        size = (images_BCHW.shape[2], images_BCHW.shape[3])
        return [self.select(*(m[i : i + 1].float() for m in maps), size=size) for i in range(len(images_BCHW))]


class NetworkDescriptor(abc.ABC):
    """A global descriptor that is a network on ``device``: the ``image`` of a photo, and ``describe`` for several."""

    batch = 16  # images of one size that a GPU describes at once

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)

    @abc.abstractmethod
    def image(self, photo: Image.Image) -> torch.Tensor:
        """The photo [3, H, W] at the size at which it is described, float32 in 0..1, on the CPU."""

    @abc.abstractmethod
    def describe(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """Descriptors [B, dim] of unit length of images on the device."""

    @torch.inference_mode()
    def __call__(self, photo: Image.Image) -> torch.Tensor:
        return self.describe(self.image(photo)[None].to(self.device))[0].cpu()


def device_of(network: LocalEncoder | GlobalDescriptor) -> torch.device:
    """Where an encoder or a descriptor takes its images."""
    return getattr(network, "device", torch.device("cpu"))


def resized_for(encoder: LocalEncoder, photo: Image.Image, short_side: int) -> Image.Image:
    """The photo at ``short_side`` px as the encoder is to get it."""
    return resized_to_short_side(photo, short_side, *getattr(encoder, "resize", ()))


def image_for(encoder: LocalEncoder, photo: Image.Image) -> torch.Tensor:
    """The image [3, H, W] of a photo; [1, H, W] where the encoder does not see colours."""
    image = to_tensor(photo)
    return image if getattr(encoder, "sees_colour", True) else image.mean(0, keepdim=True)


def encode_images(encoder: LocalEncoder, images: Sequence[torch.Tensor]) -> list[LocalFeatures]:
    """Features of images on the encoder's device, those of one size together where it is a network on a GPU."""
    if device_of(encoder).type == "cpu":
        return [encoder(image) for image in images]
    return by_size(images, encoder.batch, encoder.many)


def describe_photos(
    network: GlobalDescriptor, read: Callable[[K], Image.Image], photos: Iterable[K], threads: int
) -> Iterator[torch.Tensor]:
    """Descriptors [dim] on the CPU of photos that ``read`` opens, in order: on a CPU ``threads`` side by side if the
    network allows it; on a GPU as many are read ahead, and those of one size are described together."""
    device = device_of(network)
    if device.type == "cpu" or not isinstance(network, NetworkDescriptor):
        side_by_side = device.type == "cpu" and getattr(network, "side_by_side", False)
        yield from mapped(lambda photo: network(read(photo)), photos, threads, side_by_side)
        return

    @torch.inference_mode()
    def described(waiting: list[torch.Tensor]) -> list[torch.Tensor]:
        return by_size([image.to(device) for image in waiting], network.batch, lambda x: network.describe(x).cpu())

    for some in batched(read_ahead(lambda photo: network.image(read(photo)), photos, threads, device), AHEAD):
        yield from described(some)


def by_size(images: Sequence[torch.Tensor], most: int, function: Callable[[torch.Tensor], Sequence[R]]) -> list[R]:
    """``function`` of images [B, C, H, W] of one size, at most so many at once; a result for each image, in order."""
    alike: dict[torch.Size, list[int]] = defaultdict(list)
    for i, image in enumerate(images):
        alike[image.shape].append(i)
    found: dict[int, R] = {}
    for rows in alike.values():
        for start in range(0, len(rows), most):
            some = rows[start : start + most]
            found |= zip(some, function(torch.stack([images[i] for i in some])), strict=True)
    return [found[i] for i in range(len(images))]


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


def grey(images_B3HW: torch.Tensor) -> torch.Tensor:
    """Luma [B, 1, H, W] of RGB images (ITU-R BT.601)."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=images_B3HW.device).view(3, 1, 1)
    return (images_B3HW * weights).sum(1, keepdim=True)


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
    pixels = torch.stack([column, row], 2).reshape(-1, 2) * float(CELL) + origin_px  # [H * W, 2], on the CPU
    if score_HW is None:
        score = torch.ones(rows * columns)
        order = torch.randperm(rows * columns, generator=torch_generator(0, "cells of a grid", rows, columns))
    else:
        score = score_HW.flatten().float()
        u = torch.rand(rows * columns, generator=torch_generator(0, "cells by score", rows, columns)).to(score.device)
        order = torch.argsort(-u.clamp(min=1e-12).log() / score.clamp(min=1e-12), stable=True)
    device = map_DHW.device
    pixels, score, order = pixels.to(device), score.to(device), order.to(device)
    order = order[(pixels[order] < torch.tensor([size[1], size[0]], device=device)).all(1)][:max_keypoints]
    descriptors = map_DHW.flatten(1)[:, order].T
    return LocalFeatures(pixels[order], descriptors.float().contiguous(), score[order])
