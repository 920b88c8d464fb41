"""Retrieval: which mapping images show what a query shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scrflow.features.retrieval.search import Retriever

if TYPE_CHECKING:
    from pathlib import Path

    from scrflow.config import RetrievalStage


def build_retrieval(
    config: RetrievalStage,
    scene: Path,
    out: Path,
    model: Path,
    quality: Path,
    threads: int,
    part_descriptors: Sequence[Path] = (),
    part_models: Sequence[Path] = (),
) -> None:
    """Describe the mapping images of a scene artifact.

    ``out`` gets the descriptors in hloc's HDF5 form (those of the queries too where they come from a file), ``model``
    the quantised index and what describes a query, as ``Retriever`` reads it (safetensors, kind "retrieval"; the
    metadata key ``keypoints`` says how many of a photo's best local descriptors are aggregated), ``quality`` how well
    both retrieve (JSON, see scrflow.features.retrieval.build). ``part_descriptors`` and ``part_models`` are the files
    ``out`` and ``model`` of the features that a fusion joins, in the config's order. ScrflowError for a photo or a file
    that is missing or damaged, a descriptor file that lacks an image of the scene, or weights that are not found.
    """
    # Retriever is used where neither faiss nor HDF5 is installed
    from scrflow.features.retrieval.build import build

    build(config, scene, out, model, quality, threads, list(zip(part_descriptors, part_models, strict=True)))


__all__ = ["Retriever", "build_retrieval"]
