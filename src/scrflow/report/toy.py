"""GLACE's 2D toy example of the position decoder (supplement C, Figure 8).

Photos lie side by side in one plane, in the layout of a grid. A head gets a local descriptor and is told, in training,
where in the plane it was seen: strong supervision, and yet a target with many modes. Without the decoder the output is
an offset from the middle of all photos, as in ACE; with it, there is a cluster at the middle of each photo besides
(GLACE eq. 8). The head is the one that maps are made with (scrflow.training.head), of whose three coordinates two
are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ImageOps
from torch import Tensor

from scrflow.config import HeadConfig, ToyConfig
from scrflow.core.errors import ScrflowError
from scrflow.core.images import read_rgb, to_tensor
from scrflow.core.progress import track
from scrflow.core.seeds import derived_seed, torch_generator
from scrflow.features.encoders import build_encoder
from scrflow.training.head import Head

WITHOUT, WITH = "without-decoder", "with-decoder"
_WARMUP = 0.04  # share of the steps, as in training


@dataclass(frozen=True)
class ToyData:
    """Descriptors and where they were seen. The plane's origin is the middle of the photos' middles."""

    descriptor: Tensor  # [N, D] float32, mean 0 and variance 1
    pixel: Tensor  # [N, 2] float32, px of the plane
    image: Tensor  # [N] int64
    centres: Tensor  # [photos, 2] float32, px of the plane


@dataclass(frozen=True)
class ToyResult:
    """What a trained head makes of the samples it was trained on."""

    found: Tensor  # [N, 2] px of the plane
    by_image: Tensor  # [photos] mean absolute error of a coordinate, px
    median: float  # over the samples, of the same

    @property
    def mean(self) -> float:
        """Over the photos, each counting alike."""
        return float(self.by_image.mean())


def spread_photos(photos: list[list[Path]], count: int) -> list[Path]:
    """``count`` photos, as many from each list as from the next (or one more), spread evenly over it.

    ScrflowError where a list has too few.
    """
    shares = [len(part) for part in np.array_split(np.arange(count), len(photos))]
    chosen = []
    for listed, share in zip(photos, shares, strict=True):
        if len(listed) < share:
            some = listed[0].parent if listed else "a scene"
            raise ScrflowError(f"{some}: {len(listed)} mapping photos, and {share} are wanted; lower toy.photos")
        chosen += [listed[i] for i in np.linspace(0, len(listed) - 1, share).round().astype(int)]
    return chosen


def toy_data(config: ToyConfig, photos: list[Path]) -> ToyData:
    """The samples of the photos, each resized and cropped to ``config.size``."""
    encoder = build_encoder(config.extractor)
    width, height = config.size
    parts: dict[str, list[Tensor]] = {key: [] for key in ("descriptor", "pixel", "image")}
    corners = torch.tensor(
        [[width * (i % config.columns), height * (i // config.columns)] for i in range(len(photos))]
    ).float()
    for i, path in enumerate(track(photos, "features of photos")):
        picture = to_tensor(ImageOps.fit(read_rgb(path), config.size))
        found = encoder(picture if getattr(encoder, "sees_colour", True) else picture.mean(0, keepdim=True))
        parts["descriptor"].append(found.descriptors.float())
        parts["pixel"].append(found.keypoints_px + corners[i])
        parts["image"].append(torch.full((len(found.scores),), i))
    joined = {key: torch.cat(values) for key, values in parts.items()}
    descriptor = joined["descriptor"] - joined["descriptor"].mean(0)
    centres = corners + torch.tensor([width / 2, height / 2])
    origin = centres.mean(0)
    return ToyData(descriptor / descriptor.std(), joined["pixel"] - origin, joined["image"], centres - origin)


def run_toy(
    config: ToyConfig, data: ToyData, decoder: bool, seed: int, step: Callable[[str], None] = lambda note: None
) -> ToyResult:
    """Train a head with or without the decoder's clusters, and let it tell every sample's place.

    With the same seed both draw the same batches, and the same seed gives the same result. The loss is what is
    measured, the mean absolute error.
    """
    head = toy_head(config, data, decoder, seed)
    optimiser = torch.optim.AdamW(head.parameters(), config.lr_max, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.lr_max, total_steps=config.steps, pct_start=_WARMUP, cycle_momentum=False
    )
    batches = torch_generator(seed, "toy batches")
    for _ in range(config.steps):
        rows = torch.randint(len(data.pixel), (config.batch_size,), generator=batches)
        error = head(data.descriptor[rows]).xyz_world[:, :2] - data.pixel[rows]
        loss = error.abs().mean() / config.unit_px
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        step("")
    with torch.inference_mode():
        found = head(data.descriptor).xyz_world[:, :2]
    error = (found - data.pixel).abs().mean(1)
    total = torch.zeros(len(data.centres)).index_add_(0, data.image, error)
    return ToyResult(found, total / torch.bincount(data.image, minlength=len(total)), float(error.median()))


def toy_head(config: ToyConfig, data: ToyData, decoder: bool, seed: int) -> Head:
    """The head before training: a cluster at each photo's middle with the decoder, else one at the plane's origin."""
    centres = data.centres if decoder else data.centres.mean(0, keepdim=True)
    settings = HeadConfig(
        width=config.width,
        hidden_ratio=config.hidden_ratio,
        blocks=config.blocks,
        clusters=len(centres),
        refine_blocks=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "toy head"))
        flat = torch.nn.functional.pad(centres, (0, 1))  # in the plane z = 0
        return Head(data.descriptor.shape[1], settings, flat, config.unit_px)
