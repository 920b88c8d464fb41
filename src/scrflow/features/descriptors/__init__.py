"""Global descriptors: frozen networks that describe a whole photo by one vector.

A new descriptor is one module here with a class that fulfils ``GlobalDescriptor``, one line in ``_CLASSES``, and an
entry of its weights in weights_registry.yaml. The network is not part of a map: the map names it, the registry has its
weights.
"""

from __future__ import annotations

import importlib
from typing import Any

from scrflow.core.errors import ScrflowError
from scrflow.features.descriptors.base import GlobalDescriptor

# name in the config -> module:class; imported when asked for
_CLASSES = {
    "efficientnet-lite0": "scrflow.features.descriptors.efficientnet_lite:EfficientNetLite0",
    "netvlad": "scrflow.features.descriptors.netvlad:NetVlad",
    "r2former": "scrflow.features.descriptors.r2former:R2Former",
}


# small: on a CPU, photos are described side by side, one thread each; the others take all threads for one photo
_SIDE_BY_SIDE = frozenset({"efficientnet-lite0"})


def descriptor_weights(name: str, options: dict[str, Any]) -> str:
    """The published weights (in weights_registry.yaml) that a network with these options takes."""
    _check(name)
    trained_on = options.get("trained_on", "pitts30k")
    return f"netvlad-{trained_on}" if name == "netvlad" else name


def describes_side_by_side(name: str) -> bool:
    """Whether photos are to be described by several threads at once, on a CPU, with the network of that name."""
    _check(name)
    return name in _SIDE_BY_SIDE


def descriptor_module(name: str) -> str:
    """The package's module that implements a descriptor (for code versions), relative to the package."""
    _check(name)
    return _CLASSES[name].split(":")[0].removeprefix("scrflow.")


def build_descriptor(name: str, options: dict[str, Any], device: str = "cpu") -> GlobalDescriptor:
    """The network that a config names; ScrflowError for an unknown name, unknown options or missing weights."""
    _check(name)
    module, cls = _CLASSES[name].split(":")
    try:
        return getattr(importlib.import_module(module), cls)(device=device, **options)
    except TypeError as error:
        raise ScrflowError(f"descriptor {name}: options {options}: {error}") from None


def _check(name: str) -> None:
    if name not in _CLASSES:
        raise ScrflowError(f"no global descriptor {name!r}; there are {', '.join(_CLASSES)}")


__all__ = [
    "GlobalDescriptor",
    "build_descriptor",
    "describes_side_by_side",
    "descriptor_module",
    "descriptor_weights",
]
