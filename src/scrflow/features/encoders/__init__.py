"""Local encoders: frozen extractors of keypoints and descriptors.

A new encoder is one module here with a class that fulfils ``LocalEncoder``, one line in ``_CLASSES``, and one file in
config/encoders.
"""

from __future__ import annotations

import importlib

from scrflow.config import ExtractorConfig
from scrflow.core.errors import ScrflowError
from scrflow.features.encoders.base import LocalEncoder, LocalFeatures

# name in the config -> module:class; imported when asked for, so that one encoder's needs are not everybody's
_CLASSES = {
    "sift": "scrflow.features.encoders.sift:Sift",
    "xfeat": "scrflow.features.encoders.xfeat:XFeat",
    "aliked": "scrflow.features.encoders.aliked:Aliked",
    "disk": "scrflow.features.encoders.disk:Disk",
    "dedode": "scrflow.features.encoders.dedode:Dedode",
    "loftr": "scrflow.features.encoders.loftr:Loftr",
    "superpoint": "scrflow.features.encoders.superpoint:SuperPoint",
    "ace": "scrflow.features.encoders.ace:Ace",
    "ace-superpoint": "scrflow.features.encoders.ace_superpoint:AceSuperPoint",
}


# Small, and nothing is kept from one call to the next: photos are encoded side by side, one thread each. The others
# take all threads for one photo; DISK holds 1 GB meanwhile.
_SIDE_BY_SIDE = frozenset({"xfeat"})


def encodes_side_by_side(name: str) -> bool:
    """Whether photos are to be encoded by several threads at once with the encoder of that name."""
    _check(name)
    return name in _SIDE_BY_SIDE


def encoder_module(name: str) -> str:
    """The package's module that implements an encoder (for code versions), relative to the package."""
    _check(name)
    return _CLASSES[name].split(":")[0].removeprefix("scrflow.")


def build_encoder(config: ExtractorConfig) -> LocalEncoder:
    """The extractor that the config names; ScrflowError for an unknown name, unknown options or missing weights."""
    _check(config.name)
    module, cls = _CLASSES[config.name].split(":")
    try:
        return getattr(importlib.import_module(module), cls)(config.max_keypoints, **config.options)
    except TypeError as error:
        raise ScrflowError(f"encoder {config.name}: options {config.options}: {error}") from None


def _check(name: str) -> None:
    if name not in _CLASSES:
        raise ScrflowError(f"no local encoder {name!r}; there are {', '.join(_CLASSES)}")


__all__ = ["LocalEncoder", "LocalFeatures", "build_encoder", "encoder_module", "encodes_side_by_side"]
