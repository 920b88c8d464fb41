"""Local encoders: frozen extractors of keypoints and descriptors.

A new encoder ``my-net`` is one module ``my_net.py`` here with a class that fulfils ``LocalEncoder`` and a last line
``ENCODER = MyNet``, and one file in config/encoders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from scrflow.config import ExtractorConfig
from scrflow.core.errors import ScrflowError
from scrflow.core.plugins import load

if TYPE_CHECKING:  # the workflow asks for names and does not wait for torch
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

    With ``sees_colour = False`` it gets images [1, H, W] of the mean of the colours. With ``side_by_side = True``
    (small, nothing kept from one photo to the next) several threads encode photos at once on a CPU. A network derives
    from ``scrflow.features.networks.NetworkEncoder``, which has a device and takes several images at a time.
    ``build_encoder`` adds ``resize``, how photos are to be brought to that size (core.images.resized_to_short_side).
    """

    dim: int

    def __call__(self, image_3HW: torch.Tensor) -> LocalFeatures:
        """Features of an RGB image [3, H, W], float32 in 0..1, at the size at which it is to be encoded. A network's
        image and features are on its device."""
        ...


def build_encoder(config: ExtractorConfig, device: torch.device | str = "cpu") -> LocalEncoder:
    """The extractor that the config names, on ``device`` if it is a network; ScrflowError for an unknown name, unknown
    options or missing weights."""
    encoder = load("local encoder", config.name).ENCODER
    try:
        built = encoder(config.max_keypoints, **config.options)
    except TypeError as error:
        raise ScrflowError(f"encoder {config.name}: options {config.options}: {error}; correct them") from None
    built.resize = config.resize, config.multiple
    return built.to(device) if hasattr(built, "device") else built
