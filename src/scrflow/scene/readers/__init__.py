"""Readers: one module a dataset form, each with ``read(source, root, sfm_model) -> Collection``.

A new form is one module here, named as its ``reader``, and its keys as a model in scrflow/config/sources.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from scrflow.config import Source
from scrflow.core.plugins import load
from scrflow.scene.readers.base import Collection, SourceImage


def read_source(
    source: Source, root: Path, sfm_model: Path | None = None, parts: Mapping[str, Path] | None = None
) -> Collection:
    """All images that the dataset under ``root`` lists; ScrflowError, naming the file, for every fault in it.

    ``parts`` are the scene artifacts (name -> folder) that the readers ``combined`` and ``region`` take.
    """
    read = load("reader", source.reader).read
    return read(source, root, sfm_model, **({"parts": parts} if parts else {}))


__all__ = ["Collection", "SourceImage", "read_source"]
