"""Landmarks as the tensors of a map file: product-quantised descriptors, positions of 16 bits, ordered by image.

``mean`` [D] and ``components`` [D, d] float16 project descriptors; ``codebooks`` [M, E, S] float16 and ``codes`` [L, M]
uint8 quantise them. Landmarks ``start[i]`` to ``start[i + 1]`` (int32 [I + 1]) belong to image i, the first that sees
them. ``origin`` [I, 3] float32 is the corner of the box of an image's landmarks; ``position`` [L, 3] int16 counts
steps of ``step`` [I, 3] float32 from there. ``lens`` [G, 21] float32 (scrflow.landmarks.lens) is left out where no
camera needs it, as in maps of older scrflow.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from scrflow.config import LandmarksConfig
from scrflow.core.errors import ScrflowError
from scrflow.core.seeds import derived_seed
from scrflow.features.pca import Pca
from scrflow.features.retrieval import ENTRIES, learn_codebooks, quantised
from scrflow.landmarks.lens import NUMBERS
from scrflow.landmarks.select import choose, mean_descriptors
from scrflow.landmarks.tracks import Tracks

POSITION_BYTES = 6
_LEVELS = 65535
_OFFSET = 32768  # int16 holds levels 0 to 65535 minus this
DTYPES = {
    "mean": torch.float16,
    "components": torch.float16,
    "codebooks": torch.float16,
    "codes": torch.uint8,
    "start": torch.int32,
    "origin": torch.float32,
    "step": torch.float32,
    "position": torch.int16,
    "lens": torch.float32,
}
_OPTIONAL = {"lens"}
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Landmarks:
    """L landmarks, ready to be matched."""

    xyz: np.ndarray  # [L, 3] float64
    image: np.ndarray  # [L] int64: row of the mapping image that a landmark belongs to
    descriptors: torch.Tensor  # [L, d] float32 of unit length
    projection: Pca
    lens: np.ndarray = field(default_factory=lambda: np.zeros((0, NUMBERS), np.float32))  # [G, 21]

    def projected(self, unit_ND: torch.Tensor) -> torch.Tensor:
        """Unit descriptors [N, D] of photos, projected like those of landmarks: [N, d]."""
        return F.normalize(self.projection(unit_ND), dim=1)


def encode(tracks: Tracks, config: LandmarksConfig, seed: int) -> Tensors:
    """Choose and quantise the landmarks. ScrflowError if the budget is too small, or there are too few points."""
    images = len(tracks.names)
    chosen = choose(tracks, budget(config, images, tracks.descriptor.shape[1], len(tracks.lens)))
    first = np.full(len(tracks.xyz), images)
    np.minimum.at(first, tracks.point, tracks.image)
    chosen = chosen[np.argsort(first[chosen], kind="stable")]
    unit = torch.from_numpy(mean_descriptors(tracks)[chosen])
    try:
        projection = Pca.fit(unit, config.dim)
    except ValueError as error:
        raise ScrflowError(f"landmarks: {error}; set landmarks.dim lower, or map more photos") from None
    # the reader has the projection in float16
    mean, components = projection.mean.half(), projection.components.half()
    rows = F.normalize(Pca(mean.float(), components.float())(unit), dim=1)
    codebooks = learn_codebooks(rows.numpy(), config.code_bytes, derived_seed(seed, "landmarks.pq") % (1 << 31))
    start = np.searchsorted(first[chosen], np.arange(images + 1))
    origin, step, position = boxed(tracks.xyz[chosen], start)
    lens = {"lens": torch.from_numpy(tracks.lens)} if len(tracks.lens) else {}
    return {
        **lens,
        "mean": mean,
        "components": components,
        "codebooks": codebooks,
        "codes": quantised(rows, codebooks),
        "start": torch.from_numpy(start).int(),
        "origin": torch.from_numpy(origin),
        "step": torch.from_numpy(step),
        "position": torch.from_numpy(position),
    }


def decode(tensors: Tensors) -> Landmarks:
    """Landmarks of tensors that ``check`` accepts."""
    start = tensors["start"].long()
    image = torch.repeat_interleave(torch.arange(len(start) - 1), start.diff())
    level = tensors["position"].double() + _OFFSET
    xyz = tensors["origin"].double()[image] + level * tensors["step"].double()[image]
    books = tensors["codebooks"].float()
    rows = books[torch.arange(len(books)), tensors["codes"].long()].flatten(1)
    projection = Pca(tensors["mean"].float(), tensors["components"].float())
    rows = F.normalize(rows[:, : projection.components.shape[1]], dim=1)
    lens = tensors.get("lens", torch.zeros(0, NUMBERS))
    return Landmarks(xyz.numpy(), image.numpy(), rows, projection, lens.numpy())


def check(tensors: Tensors, images: int) -> None:
    """ValueError that names the first tensor that is missing, not known, or of the wrong type, shape or range."""
    for name in ({*DTYPES} ^ {*tensors}) - _OPTIONAL:
        raise ValueError(f"landmark.{name} is {'missing' if name in DTYPES else 'not known'}")
    for name, dtype in DTYPES.items():
        if name not in tensors:
            continue
        if tensors[name].dtype is not dtype:
            raise ValueError(f"landmark.{name} is {tensors[name].dtype}, not {dtype}")
        if dtype.is_floating_point and not tensors[name].isfinite().all():
            raise ValueError(f"landmark.{name} has numbers that are not finite")
    if tensors["components"].ndim != 2 or tensors["codebooks"].ndim != 3 or tensors["codes"].ndim != 2:
        raise ValueError("landmark.components, codebooks or codes are of the wrong shape")
    (full, dim), (parts, entries, size) = tensors["components"].shape, tensors["codebooks"].shape
    count = len(tensors["codes"])
    shapes = {"mean": (full,), "codes": (count, parts), "start": (images + 1,), "position": (count, 3)}
    for name, shape in {**shapes, "origin": (images, 3), "step": (images, 3)}.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"landmark.{name} is {list(tensors[name].shape)}, not {list(shape)}")
    if not count or parts * size < dim or int(tensors["codes"].max()) >= entries:
        raise ValueError("landmark.codes do not fit the codebooks")
    if "lens" in tensors and (tensors["lens"].ndim != 2 or tensors["lens"].shape[1] != NUMBERS):
        raise ValueError(f"landmark.lens is {list(tensors['lens'].shape)}, not [cameras, {NUMBERS}]")
    start = tensors["start"]
    if int(start[0]) != 0 or int(start[-1]) != count or bool((start.diff() < 0).any()):
        raise ValueError(f"landmark.start does not divide the {count} landmarks")


def budget(config: LandmarksConfig, images: int, full: int, lenses: int = 0) -> int:
    """The number of landmarks that the config asks for, or that fit into its size."""
    if config.count is not None:
        return config.count
    dim = min(config.dim, full)
    fixed = 2 * (full + full * dim) + 2 * ENTRIES * dim + 28 * images + 4 + 4 * NUMBERS * lenses
    count = (int(config.size) - fixed) // (config.code_bytes + POSITION_BYTES)
    if count < dim + 1:
        raise ScrflowError(
            f"landmarks.size: {int(config.size)} bytes, of which projection, codebooks and boxes take {fixed}; give "
            "more, or lower landmarks.dim"
        )
    return count


def boxed(xyz: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origin and step [I, 3] float32 of each image's landmarks [L, 3], and their positions [L, 3] int16."""
    images = len(start) - 1
    origin, step = np.zeros((images, 3), np.float32), np.zeros((images, 3), np.float32)
    full = np.flatnonzero(np.diff(start))
    if len(full):
        low, high = (f.reduceat(xyz, start[full], axis=0) for f in (np.minimum, np.maximum))
        origin[full] = low
        step[full] = (high - origin[full]) / _LEVELS
    image = np.repeat(np.arange(images), np.diff(start))
    level = (xyz - origin[image]) / np.where(step[image] > 0, step[image], 1.0)
    return origin, step, (level.round().clip(0, _LEVELS) - _OFFSET).astype(np.int16)
