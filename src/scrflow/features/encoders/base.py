"""What a local encoder is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # annotations alone: the workflow asks for module names and should not wait for torch
    import torch


@dataclass(frozen=True)
class LocalFeatures:
    """Keypoints of one image, best first."""

    keypoints_px: torch.Tensor  # [N, 2] float32, x y; centre of the top-left pixel of the image at (0.5, 0.5)
    descriptors: torch.Tensor  # [N, D] float32
    scores: torch.Tensor  # [N] float32, larger is better

    def top(self, count: int) -> LocalFeatures:
        """The ``count`` best."""
        return LocalFeatures(self.keypoints_px[:count], self.descriptors[:count], self.scores[:count])


class LocalEncoder(Protocol):
    """A frozen extractor. Constructed with ``max_keypoints`` and the config's ``options`` as keywords.

    One that uses nothing but the mean of the colours says so by an attribute ``sees_colour = False``; it is then given
    images [1, H, W] of that mean, which are a third of the work to augment.
    """

    dim: int

    def __call__(self, image_3HW: torch.Tensor) -> LocalFeatures:
        """Features of an RGB image [3, H, W], float32 in 0..1, at the size at which it is to be encoded."""
        ...
