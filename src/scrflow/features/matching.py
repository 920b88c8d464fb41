"""Local features of one photo in the number format of a map, and nearest neighbours between two sets of features.

Nearest neighbours are filtered as in COLMAP (angle, ratio, cross check); its own matcher takes 50 times as long on
CPUs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from PIL import Image

from scrflow.config import MatcherConfig, MatchFeaturesConfig
from scrflow.core.device import device_for
from scrflow.core.errors import ScrflowError
from scrflow.core.images import resized_to_short_side
from scrflow.core.parallel import mapped, read_ahead
from scrflow.features.encoders import LocalEncoder, LocalFeatures
from scrflow.features.networks import device_of, image_for, load_strictly, read_tensors
from scrflow.storage.weights import locate

_BYTE_SCALE = 512.0  # COLMAP's: RootSIFT vectors have no number above 0.5 except in blank corners
_NEGATIVE = -1e-6  # rounding


@dataclass(frozen=True, eq=False)
class PhotoFeatures:
    """Keypoints of a photo, with descriptors in the number format of the map."""

    pixels: np.ndarray  # [N, 2] float32, of the photo as it is stored, COLMAP's origin
    descriptors: np.ndarray  # [N, D] uint8 or float16
    size: tuple[int, int]  # width, height of the photo

    def only(self, rows: np.ndarray) -> Self:
        """Some of them, by index or mask."""
        return PhotoFeatures(self.pixels[rows], self.descriptors[rows], self.size)

    def unit_descriptors(self) -> torch.Tensor:
        """Descriptors [N, D] float32 of unit length."""
        return torch.nn.functional.normalize(torch.from_numpy(self.descriptors).float(), dim=1)


def reduction(size: tuple[int, int], config: MatchFeaturesConfig) -> float:
    """The scale, at most 1, at which features of a photo of (width, height) are found."""
    return min(1.0, config.max_size / max(size))


def photo_features(photo: Image.Image, encoder: LocalEncoder, config: MatchFeaturesConfig) -> PhotoFeatures:
    """Features of a photo, which is first reduced to ``config.max_size`` if it is larger."""
    image = _reduced(photo, encoder, config)
    return _of_photo(photo.size, image, encoder(image.to(device_of(encoder))), config)


def features_of_photos(
    read: Callable[[str], Image.Image],
    names: Sequence[str],
    encoder: LocalEncoder,
    config: MatchFeaturesConfig,
    threads: int,
) -> Iterator[PhotoFeatures]:
    """``photo_features`` of photos that ``read`` opens, in order: on a CPU ``threads`` side by side if the encoder
    allows it; on a GPU as many are read ahead."""
    device = device_of(encoder)
    if device.type == "cpu":
        side_by_side = getattr(encoder, "side_by_side", False)
        yield from mapped(lambda name: photo_features(read(name), encoder, config), names, threads, side_by_side)
        return

    def opened(name: str) -> tuple[tuple[int, int], torch.Tensor]:
        photo = read(name)
        return photo.size, _reduced(photo, encoder, config)

    for size, image in read_ahead(opened, names, threads, device):
        yield _of_photo(size, image, encoder(image.to(device)), config)


def _reduced(photo: Image.Image, encoder: LocalEncoder, config: MatchFeaturesConfig) -> torch.Tensor:
    short_side = round(min(photo.size) * reduction(photo.size, config))
    return image_for(encoder, resized_to_short_side(photo, short_side))


def _of_photo(
    size: tuple[int, int], image: torch.Tensor, found: LocalFeatures, config: MatchFeaturesConfig
) -> PhotoFeatures:
    pixels = found.keypoints_px.cpu().numpy() * (np.array(size) / tuple(image.shape[:0:-1]))
    return PhotoFeatures(pixels.astype(np.float32), stored(found.descriptors.cpu(), config), size)


def stored(descriptors_ND: torch.Tensor, config: MatchFeaturesConfig) -> np.ndarray:
    """Unit vectors in the number format of the map; ScrflowError for negative numbers as uint8."""
    if config.descriptors == "fp16":
        return descriptors_ND.half().numpy()
    if len(descriptors_ND) and float(descriptors_ND.min()) < _NEGATIVE:
        raise ScrflowError(
            f"features {config.name}: descriptors have negative numbers, which uint8 cannot hold: set "
            "features.descriptors to fp16 in config/baselines"
        )
    return (_BYTE_SCALE * descriptors_ND).round().clamp(0, 255).to(torch.uint8).numpy()


class Nearest:
    """Mutual nearest neighbours, with the ratio test and the largest angle if they are given."""

    side_by_side = True

    def __init__(self, max_ratio: float | None, max_angle: float | None):
        self._max_ratio, self._max_angle = max_ratio, max_angle

    def __call__(self, first: PhotoFeatures, second: PhotoFeatures) -> np.ndarray:
        """Indices [M, 2] int64 of matched features of two photos, each feature at most once."""
        return self.rows(first.unit_descriptors(), second.unit_descriptors())

    @torch.inference_mode()
    def rows(self, first_ND: torch.Tensor, second_MD: torch.Tensor) -> np.ndarray:
        """The same for unit descriptors."""
        if min(len(first_ND), len(second_MD)) == 0:
            return np.zeros((0, 2), np.int64)
        similarity = first_ND @ second_MD.T  # [N, M]
        # numpy's argmax along rows and torch's amax take a tenth of the time of torch's maximum with indices
        column = torch.from_numpy(similarity.numpy().argmax(1))
        best = similarity.gather(1, column[:, None])[:, 0]
        row = torch.nonzero(best == similarity.amax(0)[column])[:, 0]  # of mutual neighbours
        best, column = best[row], column[row]
        similarity[row, column] = -1.0  # now the maximum of each is its second nearest
        angle = best.clamp(max=1).acos()
        good = torch.ones(len(row), dtype=torch.bool)
        if self._max_angle is not None:
            good &= angle <= self._max_angle
        if self._max_ratio is not None:
            second_best = torch.maximum(similarity.amax(1)[row], similarity.amax(0)[column])
            good &= angle < self._max_ratio * second_best.clamp(-1, 1).acos()
        matches = torch.stack([row[good], column[good]], 1).numpy()
        # if descriptors are equal, several rows have the same nearest column: keep the first
        return matches[np.sort(np.unique(matches[:, 1], return_index=True)[1])]


class Matcher(Protocol):
    """Indices [M, 2] int64 of matched features of two photos, each feature at most once."""

    side_by_side: bool  # whether several threads may match pairs at once

    def __call__(self, first: PhotoFeatures, second: PhotoFeatures) -> np.ndarray: ...


def build_matcher(config: MatcherConfig, dim: int) -> Matcher:
    """The matcher of the config, for descriptors of ``dim`` numbers; ScrflowError for missing weights."""
    return Nearest(config.max_ratio, config.max_angle) if config.kind == "nearest" else LightGlue(config, dim)


class LightGlue:
    """LightGlue (Lindenberger et al., ICCV 2023): kornia's network with its published weights."""

    side_by_side = False  # 12 M parameters: one pair uses all threads

    def __init__(self, config: MatcherConfig, dim: int):
        from kornia.feature import LightGlue as KorniaLightGlue

        path = locate(config.weights)
        self._device = device_for()
        network = KorniaLightGlue(None, input_dim=dim, filter_threshold=config.min_score)
        # the thresholds are computed from the number of layers
        load_strictly(network, read_tensors(path), path, config.weights, missing={"confidence_thresholds"})
        self._network = network.to(self._device)

    @torch.inference_mode()
    def __call__(self, first: PhotoFeatures, second: PhotoFeatures) -> np.ndarray:
        found = self._network({"image0": self._input(first), "image1": self._input(second)})
        return found["matches"][0].cpu().numpy().astype(np.int64)

    def _input(self, features: PhotoFeatures) -> dict[str, torch.Tensor]:
        return {
            "keypoints": torch.from_numpy(features.pixels)[None].to(self._device),
            "descriptors": features.unit_descriptors()[None].to(self._device),
            "image_size": torch.tensor([features.size], dtype=torch.float32, device=self._device),
        }
