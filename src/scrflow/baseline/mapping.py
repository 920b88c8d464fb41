"""The stage that makes the baseline's map: features and matches of mapping images, points on the known poses."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pycolmap
import torch

from scrflow.baseline.mapfile import KIND, BaselineMap, write_map
from scrflow.baseline.matching import PhotoFeatures, build_matcher, photo_features
from scrflow.config import BaselineMapStage, MatchFeaturesConfig
from scrflow.core.errors import ScrflowError, full_disk_reported
from scrflow.core.parallel import mapped
from scrflow.core.progress import log, meter, track
from scrflow.features.encoders import build_encoder, encodes_side_by_side
from scrflow.features.retrieval.search import PhotoDescriber, Retriever
from scrflow.graph.covisibility import Graph, load_graph
from scrflow.pipeline.stages import code_of
from scrflow.scene.colmap_model import model_of_views
from scrflow.scene.model import Scene, load_scene
from scrflow.sfm.colmap_process import quiet_pycolmap
from scrflow.sfm.triangulate import summary, triangulate_matches, write_database
from scrflow.storage.artifact import Stamp, h5_file, read_safetensors, read_safetensors_metadata, writing
from scrflow.storage.weights import located

_HELD = 256  # photos whose features stay in memory: pairs are sorted by their first image


def build_map(config: BaselineMapStage, scene: Path, graph: Path, retrieval: Path, out: Path, threads: int) -> None:
    """Write the map of a baseline to ``out`` (HDF5, see scrflow.baseline.mapfile).

    ``graph`` is the covisibility graph, which gives the pairs to match; ``retrieval`` the model (safetensors) of the
    retrieval feature. Poses and cameras do not change; the same seed gives the same bytes with any ``threads``.
    ScrflowError if the inputs are of other mapping images, or no point can be triangulated.
    """
    torch.set_num_threads(threads)
    quiet_pycolmap()
    loaded, retriever = load_scene(scene), _retriever(retrieval)
    names = tuple(v.name for v in loaded.mapping)
    edges = load_graph(graph)
    for path, found in ((graph, edges.names), (retrieval, retriever.names)):
        if found != names:
            raise ScrflowError(f"{path}: of other mapping images than the scene; delete it and run again")
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        located() as weights,
        tempfile.TemporaryDirectory(dir=out.parent, prefix=".matching-") as folder,
        writing(out),
        full_disk_reported(out),
    ):
        features = _extract(config.features, loaded, Path(folder) / "features.h5", threads)
        # built to record which weights a query will need
        PhotoDescriber((config.retrieval, *config.retrieval_parts), retriever.description)
        pairs = neighbour_pairs(edges, config.neighbours)
        matches = _match(config, features, pairs, threads)
        model = _triangulate(config.seed, loaded, features, pairs, matches, Path(folder))
        result = _gathered(config, names, features, model, retriever)
    inputs = {"scene": scene / "scene.json", "graph": graph, "retrieval": retrieval}
    write_map(out, result, weights, Stamp.make(KIND, config, code_of("map_baseline", config), **inputs))
    log.info("map: %.2f MB, %d points, %d observations", out.stat().st_size / 1e6, len(result.xyz), len(result.point))


def neighbour_pairs(graph: Graph, count: int) -> list[tuple[int, int]]:
    """Rows of mapping images to match: each with ``count`` of its neighbours in the graph, every pair once, sorted.

    If there are more neighbours, they are chosen evenly from most to least overlap: the nearest alone would give no
    baseline to triangulate from, the farthest alone no matches.
    """
    pairs = set()
    for i in range(len(graph.names)):
        row = slice(graph.csr.indptr[i], graph.csr.indptr[i + 1])
        near = graph.csr.indices[row][np.argsort(-graph.csr.data[row], kind="stable")]
        if len(near) > count:
            near = near[np.linspace(0, len(near) - 1, count).round().astype(int)]
        pairs.update((min(i, int(j)), max(i, int(j))) for j in near)
    return sorted(pairs)


@dataclass(frozen=True)
class _Features:
    """Features of the mapping images, by row, from a file on disk."""

    pixels: list[np.ndarray]  # [N, 2] float32 of each image
    sizes: list[tuple[int, int]]  # of each photo
    at: Callable[[int], PhotoFeatures]
    dim: int


def _extract(config: MatchFeaturesConfig, scene: Scene, path: Path, threads: int) -> _Features:
    encoder, side_by_side = build_encoder(config.extractor), encodes_side_by_side(config.name)

    def extracted(i: int) -> PhotoFeatures:
        return photo_features(scene.photo(scene.mapping[i].name), encoder, config)

    count = len(scene.mapping)
    pixels, sizes = [], []
    with h5_file(path) as file:
        found = mapped(extracted, range(count), threads, side_by_side)
        for i, features in enumerate(track(found, "features of mapping images", count)):
            file[str(i)] = features.descriptors
            pixels.append(features.pixels)
            sizes.append(features.size)

    @functools.lru_cache(_HELD)
    def at(i: int) -> PhotoFeatures:
        with h5py.File(path, "r") as file:
            return PhotoFeatures(pixels[i], file[str(i)][:], sizes[i])

    return _Features(pixels, sizes, at, encoder.dim)


def _match(
    config: BaselineMapStage, features: _Features, pairs: list[tuple[int, int]], threads: int
) -> list[np.ndarray]:
    """Matched keypoints [M, 2] of each pair."""
    matcher = build_matcher(config.matcher, features.dim)
    # one thread reads the features of all pairs: neither HDF5 nor the cache needs to be thread-safe
    read = ((features.at(i), features.at(j)) for i, j in pairs)
    with meter("matching pairs", len(pairs)) as step:
        matches = []
        for found in mapped(lambda pair: matcher(*pair), read, threads, matcher.side_by_side):
            matches.append(found)
            step("")
    return matches


def _triangulate(
    seed: int, scene: Scene, features: _Features, pairs: list[tuple[int, int]], matches: list[np.ndarray], work: Path
) -> pycolmap.Reconstruction:
    model = model_of_views(scene.mapping)
    database = work / "database.db"
    write_database(model, database)
    with pycolmap.Database.open(database) as db:
        ids = [db.read_image_with_name(view.name).image_id for view in scene.mapping]
        for i, pixels in zip(ids, features.pixels, strict=True):
            db.write_keypoints(i, pixels)
        for (i, j), found in zip(pairs, matches, strict=True):
            db.write_matches(ids[i], ids[j], found.astype(np.uint32))
    model, verified = triangulate_matches(database, scene, model, work, len(pairs), seed)
    summary(model, len(pairs), verified)
    return model


def _gathered(
    config: BaselineMapStage,
    names: tuple[str, ...],
    features: _Features,
    model: pycolmap.Reconstruction,
    retriever: Retriever,
) -> BaselineMap:
    """The map: points, and the features that observe one."""
    ids = np.array(sorted(model.points3D), np.uint64)
    xyz = np.array([model.point3D(int(i)).xyz for i in ids], np.float32)
    images = {model.image(i).name: model.image(i) for i in model.reg_image_ids()}
    rows, points = [], []
    for name in names:
        observed = np.array(images[name].get_observation_point2D_idxs(), np.int64)
        seen = np.array([p.point3D_id for p in images[name].get_observation_points2D()], np.uint64)
        rows.append(observed)
        points.append(np.searchsorted(ids, seen).astype(np.int32))
    whole = config.matcher.kind == "lightglue"  # it uses positions of keypoints, too
    return BaselineMap(
        config=config,
        names=names,
        xyz=xyz,
        start=np.cumsum([0, *map(len, rows)]),
        point=np.concatenate(points),
        descriptors=np.concatenate([features.at(i).descriptors[observed] for i, observed in enumerate(rows)]),
        pixels=np.concatenate([p[r] for p, r in zip(features.pixels, rows, strict=True)]) if whole else None,
        sizes=np.array(features.sizes, np.int32) if whole else None,
        retriever=retriever,
    )


def _retriever(path: Path) -> Retriever:
    return Retriever.from_tensors(read_safetensors(path, "retrieval"), read_safetensors_metadata(path))
