"""Readers: one module a dataset form, each with ``read(source, root, sfm_model) -> Collection``.

A new form is one module here with one line in ``READERS``, and its keys as a model in scrflow/config.py (``Source``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from scrflow.scene.readers import colmap, dsac, nerfstudio, photos, poselist
from scrflow.scene.readers.base import Collection, SourceImage

READERS: dict[str, Callable[[Any, Path, Path | None], Collection]] = {
    "colmap": colmap.read,
    "nerfstudio": nerfstudio.read,
    "dsac": dsac.read,
    "poselist": poselist.read,
    "photos": photos.read,
}

__all__ = ["READERS", "Collection", "SourceImage"]
