"""Local features of one photo, as the baseline's map stores them, and matching the features of two photos.

Nearest neighbours are filtered as in COLMAP (angle, ratio, cross check); its own matcher takes 50 times as long on
CPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from scrflow.config import MatcherConfig, MatchFeaturesConfig
from scrflow.core.errors import ScrflowError
from scrflow.core.images import resized_to_short_side, to_tensor
from scrflow.features.encoders import LocalEncoder

_BYTE_SCALE = 512.0  # COLMAP's: RootSIFT vectors have no number above 0.5 except in blank corners
_NEGATIVE = -1e-6  # rounding


@dataclass(frozen=True, eq=False)
class PhotoFeatures:
    """Keypoints of a photo, with descriptors in the number format of the map."""

    pixels: np.ndarray  # [N, 2] float32, of the photo as it is stored, COLMAP's origin
    descriptors: np.ndarray  # [N, D] uint8 or float16
    size: tuple[int, int]  # width, height of the photo

    def only(self, rows: np.ndarray) -> PhotoFeatures:
        """Some of them, by index or mask."""
        return PhotoFeatures(self.pixels[rows], self.descriptors[rows], self.size)

    def unit_descriptors(self) -> torch.Tensor:
        """Descriptors [N, D] float32 of unit length."""
        return torch.nn.functional.normalize(torch.from_numpy(self.descriptors).float(), dim=1)


def photo_features(photo: Image.Image, encoder: LocalEncoder, config: MatchFeaturesConfig) -> PhotoFeatures:
    """Features of a photo, which is first reduced to ``config.max_size`` if it is larger."""
    scale = min(1.0, config.max_size / max(photo.size))
    resized = resized_to_short_side(photo, round(min(photo.size) * scale))
    image = to_tensor(resized)
    if not getattr(encoder, "sees_colour", True):
        image = image.mean(0, keepdim=True)
    found = encoder(image)
    pixels = found.keypoints_px.numpy() * (np.array(photo.size) / resized.size)
    return PhotoFeatures(pixels.astype(np.float32), stored(found.descriptors, config), photo.size)


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


class Matcher(Protocol):
    """Indices [M, 2] int64 of matched features of two photos, each feature at most once."""

    side_by_side: bool  # whether several threads may match pairs at once

    def __call__(self, first: PhotoFeatures, second: PhotoFeatures) -> np.ndarray: ...


def build_matcher(config: MatcherConfig, dim: int) -> Matcher:
    """The matcher of the config, for descriptors of ``dim`` numbers; ScrflowError for missing weights."""
    return Nearest(config.max_ratio, config.max_angle) if config.kind == "nearest" else LightGlue(config, dim)


class Nearest:
    """Mutual nearest neighbours, with the ratio test and the largest angle if they are given."""

    side_by_side = True

    def __init__(self, max_ratio: float | None, max_angle: float | None):
        self._max_ratio, self._max_angle = max_ratio, max_angle

    @torch.inference_mode()
    def __call__(self, first: PhotoFeatures, second: PhotoFeatures) -> np.ndarray:
        if min(len(first.pixels), len(second.pixels)) == 0:
            return np.zeros((0, 2), np.int64)
        similarity = first.unit_descriptors() @ second.unit_descriptors().T  # [N, M]
        best, column = similarity.max(1)
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


class LightGlue:
    """LightGlue (Lindenberger et al., ICCV 2023): kornia's network with its published weights."""

    side_by_side = False  # 12 M parameters: one pair uses all threads

    def __init__(self, config: MatcherConfig, dim: int):
        from kornia.feature import LightGlue as KorniaLightGlue

        from scrflow.features.networks import load_strictly, read_tensors
        from scrflow.storage.weights import locate

        path = locate(config.weights)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
