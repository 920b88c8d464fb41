"""``scrflow export-hloc``: a scene in hloc's files (features, descriptors, pairs, lists, COLMAP model)."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import torch

from scrflow.config import ExtractorConfig, HlocExportStage
from scrflow.core.device import device_for
from scrflow.core.errors import ScrflowError
from scrflow.core.images import read_rgb, resized_to_short_side, to_tensor
from scrflow.core.progress import log, track
from scrflow.features.encoders import LocalEncoder, build_encoder
from scrflow.features.networks import device_of
from scrflow.features.retrieval import PhotoDescriber, Retriever
from scrflow.graph.covisibility import load_graph
from scrflow.interop.hloc_files import StoredFeatures, read_descriptors, write_descriptors, write_features, write_pairs
from scrflow.pipeline.stages import code_version
from scrflow.scene.model import Scene, load_scene
from scrflow.storage.artifact import Stamp, atomic_dir, create_h5, require
from scrflow.storage.listfile import listed


def export_scene(config: HlocExportStage, results: Path, out: Path, threads: int) -> None:
    """Write the scene whose artifacts are in ``results`` (results/SCENE) to the new folder ``out``: ``features.h5``,
    ``mapping.txt``, ``queries.txt``, ``sfm`` (poses without points), ``pairs-covisibility.txt``, and with a retrieval
    feature ``global-feats.h5`` and ``pairs-retrieval.txt``. ScrflowError if ``out`` exists or an artifact is missing.
    """
    if out.exists():
        raise ScrflowError(f"{out}: exists already; name a new folder")
    torch.set_num_threads(threads)
    scene = load_scene(results / "scene")
    graph = require(results / "covisibility.npz", "covisibility graph")
    code = code_version("baseline.hloc_export")
    stamp = Stamp.make("hloc-export", config, code, scene=results / "scene" / "scene.json")
    with atomic_dir(out) as folder:
        with create_h5(folder / "features.h5", stamp) as file:
            _write_features(file, scene, config.extractor)
        (folder / "mapping.txt").write_text("".join(f"{listed(v.name)}\n" for v in scene.mapping), encoding="utf-8")
        shutil.copy(results / "scene" / "queries.txt", folder / "queries.txt")
        shutil.copytree(results / "scene" / "mapping", folder / "sfm")
        write_pairs(folder / "pairs-covisibility.txt", covisible_pairs(graph, config.pairs))
        if config.retrieval is not None:
            described = _describe_all(config, results, scene)
            with create_h5(folder / "global-feats.h5", stamp) as file:
                write_descriptors(file, described)
            write_pairs(folder / "pairs-retrieval.txt", _similar_pairs(described, scene, config.pairs))
    log.info("hloc: %d mapping images and %d queries to %s", len(scene.mapping), len(scene.queries), out)


def stored_features(
    path: Path, encoder: LocalEncoder, short_side: int, max_keypoints: int, sha256: str | None = None
) -> StoredFeatures:
    """Local features of one photo, extracted at ``short_side`` px, in pixels of the photo as it is stored."""
    photo = read_rgb(path, sha256)
    resized = resized_to_short_side(photo, short_side)
    found = encoder(to_tensor(resized).to(device_of(encoder))).top(max_keypoints)
    scale = np.array(photo.size, np.float32) / np.array(resized.size, np.float32)
    return StoredFeatures(
        found.keypoints_px.cpu().numpy() * scale,
        found.descriptors.cpu().numpy(),
        found.scores.cpu().numpy(),
        photo.size,
        uncertainty_px=float(scale.mean()),  # hloc assumes a detector's noise of 1 px
    )


def covisible_pairs(graph: Path, count: int) -> list[tuple[str, str]]:
    """Each image with its ``count`` strongest neighbours in a covisibility graph, the strongest first."""
    loaded = load_graph(graph)
    pairs = []
    for i, name in enumerate(loaded.names):
        row = loaded.csr[[i]]
        order = np.argsort(-row.data, kind="stable")[:count]
        pairs.extend((name, loaded.names[j]) for j in row.indices[order])
    return pairs


def _write_features(file: h5py.File, scene: Scene, extractor: ExtractorConfig) -> None:
    encoder = build_encoder(extractor, device_for())
    names = [v.name for v in scene.mapping] + [q.name for q in scene.queries]
    for name in track(names, "local features"):
        path, sizes = scene.image_path(name), (extractor.short_side, extractor.max_keypoints)
        write_features(file, name, stored_features(path, encoder, *sizes, scene.sha256.get(name)))


def _describe_all(config: HlocExportStage, results: Path, scene: Scene) -> dict[str, np.ndarray]:
    """Global descriptors of the mapping images (those of the retrieval artifact) and of the queries."""
    folder = results / "retrieval"
    descriptors = require(folder / f"{config.retrieval_name}.h5", "retrieval feature")
    names, queries = [v.name for v in scene.mapping], [q.name for q in scene.queries]
    if config.retrieval.retrieval.kind == "hloc":
        return dict(zip(names + queries, read_descriptors(descriptors, names + queries), strict=True))
    described = dict(zip(names, read_descriptors(descriptors, names), strict=True))
    model = folder / f"{config.retrieval_name}.safetensors"
    retriever = Retriever.open(model)
    describe = PhotoDescriber((config.retrieval, *config.parts), retriever.description, device_for())
    for query in track(scene.queries, "global descriptors"):
        described[query.name] = describe(scene.photo(query.name), query.camera).numpy()
    return described


def _similar_pairs(described: dict[str, np.ndarray], scene: Scene, count: int) -> list[tuple[str, str]]:
    names = [v.name for v in scene.mapping]
    mapping = np.stack([described[n] for n in names])
    pairs = []
    for query in scene.queries:
        order = np.argsort(-(mapping @ described[query.name]), kind="stable")[:count]
        pairs.extend((query.name, names[i]) for i in order)
    return pairs
