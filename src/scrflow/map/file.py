"""map.safetensors: one file with all that localizing a query needs. Reading it executes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from scrflow.config import MapStage
from scrflow.core.errors import ScrflowError
from scrflow.core.progress import log
from scrflow.features.encoders import build_encoder
from scrflow.features.global_encoding import read_centres, read_global_encoding, standardised
from scrflow.features.pca import Pca, load_pca
from scrflow.features.retrieval.search import PhotoDescriber, Retriever
from scrflow.graph.covisibility import load_graph
from scrflow.map.compress import shrink
from scrflow.map.format import (
    BOOKS,
    CODES,
    MAP_FORMAT,
    Tensors,
    check,
    pack,
    read_map,
    retrieval_features,
    unpack,
)
from scrflow.pipeline.stages import code_of
from scrflow.scene.model import load_scene
from scrflow.storage.artifact import Stamp, read_safetensors, read_safetensors_metadata, write_safetensors
from scrflow.storage.weights import located
from scrflow.training.head import Head


@dataclass(frozen=True)
class Map:
    """A map in memory, in float32. ``config`` also says how to localize: ``localize``, ``thresholds``, ``seed``."""

    config: MapStage
    names: tuple[str, ...]  # mapping images, in the order of the rows; of merged ones only those kept
    head: Head
    pca: Pca
    encoding: torch.Tensor | None  # [images, D]
    retriever: Retriever | None
    retrieval_keypoints: int  # how many local descriptors of a photo its retrieval feature aggregates
    centres: torch.Tensor | None = None  # [K, D]: cluster centres; a query's encoding is one of them
    weights: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of the published weights that made it


def write_map(
    config: MapStage,
    scene: Path,
    head: Path,
    pca: Path,
    encoding: Path | None,
    retrieval: Path | None,
    out: Path,
    graph: Path | None = None,
) -> None:
    """Gather head, PCA, global encodings and retrieval model into one file, reduced as ``config.map`` says.

    ``graph``: the covisibility graph, only for ``map.merge``. ScrflowError if the parts are of different mapping images
    or do not fit together.
    """
    names = tuple(v.name for v in load_scene(scene).mapping)
    inputs: dict[str, Path] = {"scene": scene / "scene.json", "head": head, "pca": pca}
    optional = {"encoding": encoding, "retrieval": retrieval, "graph": graph}
    inputs |= {name: path for name, path in optional.items() if path is not None}
    tensors = _gathered(config, names, head, pca, encoding, retrieval)
    overlap = None
    if graph is not None:
        loaded = load_graph(graph)
        if loaded.names != names:
            raise ScrflowError(f"{graph}: of other mapping images than the scene; delete it and run again")
        overlap = loaded.csr
    tensors, kept = shrink(config, tensors, names, overlap)
    tensors = pack(tensors, config.map)
    try:
        check(config, unpack(tensors), len(kept))
    except ValueError as error:
        raise ScrflowError(
            f"{head}: does not fit the other parts of the map: {error}; delete what is not of {scene}, run again"
        ) from None
    metadata = {
        "format": str(MAP_FORMAT),
        "names": json.dumps(kept, ensure_ascii=False, separators=(",", ":")),
        "output_unit": read_safetensors_metadata(head)["output_unit"],
        "weights": json.dumps(_weights(config, tensors), sort_keys=True),
    }
    write_safetensors(out, tensors, Stamp.make("map", config, code_of("write_map", config), **inputs), metadata)
    log.info("map: %.2f MB", out.stat().st_size / 1e6)


def load_map(path: Path) -> Map:
    """The map of a file. ScrflowError if it is damaged, of another version, or not a map."""
    config, names, tensors, unit, weights = read_map(path)

    def part(prefix: str) -> Tensors:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    state = part("head.")
    head = Head(state["input.layers.0.weight"].shape[1], config.head, state["decoder.centres"], unit)
    head.load_state_dict(state, strict=True)
    retriever = None
    if config.retrieval is not None:
        described = part("retrieval.")
        # a map whose global encoding is the photo's own has no index
        books = described.pop("codebooks", torch.zeros(0, 0, 0))
        codes = described.pop("codes", torch.zeros(0, 0, dtype=torch.uint8))
        retriever = Retriever(names, books, codes, described)
    keypoints = max((f.retrieval.keypoints for f in retrieval_features(config) if f.extractor is not None), default=0)
    projection = Pca(tensors["pca.mean"], tensors["pca.components"])
    encoding, centres = tensors.get("encoding"), tensors.get("centres")
    return Map(config, names, head.eval(), projection, encoding, retriever, keypoints, centres, weights)


def _gathered(
    config: MapStage, names: tuple[str, ...], head: Path, pca: Path, encoding: Path | None, retrieval: Path | None
) -> Tensors:
    """All tensors of the map, in the stages' own number formats."""
    projection = load_pca(pca)
    tensors = {f"head.{k}": v for k, v in read_safetensors(head, "head").items()}
    tensors |= {"pca.mean": projection.mean, "pca.components": projection.components}
    if encoding is not None and config.clustered:
        tensors["centres"] = read_centres(encoding)
    elif encoding is not None and not config.own_encoding:
        tensors["encoding"] = standardised(read_global_encoding(encoding, names))
    if retrieval is not None:
        part, described = read_safetensors(retrieval, "retrieval"), read_safetensors_metadata(retrieval)
        retriever = Retriever.from_tensors(part, described)
        if retriever.names != names:
            raise ScrflowError(f"{retrieval}: of other mapping images than the scene; delete it and run again")
        searched = {} if config.own_encoding else {BOOKS: retriever.codebooks, CODES: retriever.codes}
        tensors |= searched | {f"retrieval.{k}": v for k, v in retriever.description.items()}
    return tensors


def _weights(config: MapStage, tensors: Tensors) -> dict[str, str]:
    """Published weights of the networks that a query needs, name to SHA-256: recorded while the networks are built."""
    features = retrieval_features(config)
    with located() as found:
        build_encoder(config.extractor)
        if features:
            described = {k.removeprefix("retrieval."): v for k, v in tensors.items() if k.startswith("retrieval.")}
            PhotoDescriber(features, described, shared=config.extractor)
    return found
