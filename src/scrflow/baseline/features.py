"""Local features of one photo at nearly its full size, in the number format of the map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from scrflow.config import MatchFeaturesConfig
from scrflow.core.errors import ScrflowError
from scrflow.core.images import resized_to_short_side, to_tensor
from scrflow.features.encoders import LocalEncoder

_BYTE_SCALE = 512.0  # COLMAP's: a RootSIFT vector has no number above 0.5 but in blank corners
_NEGATIVE = -1e-6  # rounding apart


@dataclass(frozen=True, eq=False)
class PhotoFeatures:
    """Keypoints of a photo with descriptors as they are stored."""

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
    """Features of a photo, reduced to ``config.max_size`` where it is larger, never enlarged.

    ScrflowError for descriptors that the config's number format cannot hold.
    """
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
