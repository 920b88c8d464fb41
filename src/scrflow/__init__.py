"""scrflow: visual localization by scene coordinate regression as a reproducible workflow."""

import importlib

__version__ = "0.1.0"

# the public API: name -> module, imported on first use (torch takes seconds to import, and `scrflow --version` none)
_API = {
    "Localizer": "localize.localizer",
    "Localization": "localize.result",
    "load_map": "map.file",
    "load_scene": "scene.model",
    "build_encoder": "features.encoders",
    "Head": "training.head",
    "Samples": "training.samples",
    "train": "training.trainer",
    "pose_error": "core.geometry",
    "ScrflowError": "core.errors",
}
__all__ = [*_API]


def __getattr__(name: str) -> object:
    if name in _API:
        return getattr(importlib.import_module(f"scrflow.{_API[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
