"""Local encoders: frozen extractors of keypoints and descriptors.

A new encoder ``my-net`` is one module ``my_net.py`` here with a class that fulfils ``LocalEncoder`` and a last line
``ENCODER = MyNet``, and one file in config/encoders.
"""

from __future__ import annotations

from scrflow.config import ExtractorConfig
from scrflow.core.errors import ScrflowError
from scrflow.core.plugins import load
from scrflow.features.encoders.base import LocalEncoder, LocalFeatures


def encodes_side_by_side(name: str) -> bool:
    """Whether to encode photos by several threads at once, one photo each, with the encoder of that name."""
    return getattr(load("local encoder", name).ENCODER, "side_by_side", False)


def build_encoder(config: ExtractorConfig) -> LocalEncoder:
    """The extractor that the config names; ScrflowError for an unknown name, unknown options or missing weights."""
    encoder = load("local encoder", config.name).ENCODER
    try:
        return encoder(config.max_keypoints, **config.options)
    except TypeError as error:
        raise ScrflowError(f"encoder {config.name}: options {config.options}: {error}") from None


__all__ = ["LocalEncoder", "LocalFeatures", "build_encoder", "encodes_side_by_side"]
