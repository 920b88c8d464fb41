"""Networks that several maps share: each is built once, and looks at a photo once."""

from __future__ import annotations

import threading
from typing import Any

import torch
from PIL import Image

from scrflow.config import ExtractorConfig
from scrflow.features.descriptors import GlobalDescriptor, build_descriptor
from scrflow.features.encoders import build_encoder
from scrflow.features.encoders.base import LocalEncoder


class Networks:
    """The encoders and global descriptors of maps that were made with the same weights."""

    def __init__(self) -> None:
        self._encoders: dict[str, LocalEncoder] = {}
        self._descriptors: dict[str, OncePerPhoto] = {}

    def encoder(self, extractor: ExtractorConfig) -> LocalEncoder:
        """As scrflow.features.encoders.build_encoder."""
        key = extractor.model_dump_json()
        if key not in self._encoders:
            self._encoders[key] = build_encoder(extractor)
        return self._encoders[key]

    def descriptor(self, name: str, options: dict[str, Any], device: str = "cpu") -> GlobalDescriptor:
        """As scrflow.features.descriptors.build_descriptor."""
        key = f"{name} {sorted(options.items())} {device}"
        if key not in self._descriptors:
            self._descriptors[key] = OncePerPhoto(build_descriptor(name, options, device))
        return self._descriptors[key]


class OncePerPhoto:
    """A global descriptor that, asked for the same picture again by the same thread, answers from memory."""

    def __init__(self, network: GlobalDescriptor):
        self._network, self.dim = network, network.dim
        self._last = threading.local()

    def __call__(self, photo: Image.Image) -> torch.Tensor:
        """See scrflow.features.descriptors.GlobalDescriptor."""
        if getattr(self._last, "photo", None) is not photo:
            self._last.vector, self._last.photo = self._network(photo), photo
        return self._last.vector
