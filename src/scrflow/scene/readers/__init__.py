"""Readers: one module a dataset form.

A new form is one module here, named as the ``reader`` of its scenes: the model ``SOURCE`` of their keys, and
``read(source, root, sfm_model) -> Collection``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pycolmap

from scrflow.config import Source
from scrflow.core.plugins import load
from scrflow.scene.colmap_model import View


@dataclass(frozen=True, eq=False)
class Collection:
    """All images that a source lists, before the split."""

    where: Path  # the file or folder that errors name
    image_root: Path
    images: tuple[View, ...]
    split: tuple[tuple[str, ...], tuple[str, ...]] | None = None  # (mapping, queries) where the layout fixes it
    conditions: Mapping[str, str] = field(default_factory=dict)  # of that split's queries; "all" where not given
    model: pycolmap.Reconstruction | None = None  # where there are 3D points to keep
    inputs: Mapping[str, Path | str] = field(default_factory=dict)  # artifacts it was read from, for the stamp
    # images without which the mapping goes on: name -> reason (not registered by SfM)
    left_out: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)  # image -> its room, where several make up the scene
    guessed: frozenset[str] = frozenset()  # names whose intrinsics nothing tells: a query only where the split says so
    sha256: Mapping[str, str] = field(default_factory=dict)  # image -> digest of the file that its pose was made from


def read_source(
    source: Source, root: Path, sfm_model: Path | None = None, parts: Mapping[str, Path] | None = None
) -> Collection:
    """All images that the dataset under ``root`` lists; ScrflowError, naming the file, for every fault in it.

    ``parts`` are the scene artifacts (name -> folder) that the readers ``combined`` and ``region`` take.
    """
    read = load("reader", source.reader).read
    return read(source, root, sfm_model, **({"parts": parts} if parts else {}))
