"""Covisibility graph over the mapping images: which of them see the same part of the scene.

Three kinds. ``frustum`` is R-SCoRe's overlap (arXiv 2501.01421; ``scrflow.graph.frustum``), ``scrstudio`` the one that
its public code computes. ``points`` counts the 3D points that two images share in a model from photos.
"""

import logging
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
import scipy.sparse

from scrflow.config import CovisibilityStage
from scrflow.core.errors import ScrflowError
from scrflow.graph.frustum import frustum_graph, tube_graph
from scrflow.pipeline.stages import code_of
from scrflow.scene.checks import DEPTH_IMAGES, doubt, measured_range, observed_depths, some
from scrflow.scene.colmap_model import read_model
from scrflow.scene.model import load_scene
from scrflow.storage.artifact import Stamp, sha256_file, write_npz
from scrflow.storage.untrusted import read_arrays

KIND = "covisibility"
_ROOMS = (0.1, 8.0)  # depths in rooms, R-SCoRe's
_ROWS_AT_ONCE = 1 << 10  # images whose shared points are counted together

log = logging.getLogger("scrflow")


@dataclass(frozen=True)
class Graph:
    """A symmetric weighted graph; row i of ``csr`` belongs to image ``names[i]``."""

    csr: scipy.sparse.csr_array  # [N, N] float64, weights in (0, 1], no diagonal, sorted columns
    names: tuple[str, ...]


def build_graph(config: CovisibilityStage, scene: Path, out: Path, model: Path | None = None) -> None:
    """Write the covisibility graph of a scene artifact to ``out`` (npz).

    ``model`` is the COLMAP model (folder) with 3D points that the kind ``points`` needs; the others measure depths
    by it where neither the config nor the scene's own points tell them.
    Images of different rooms of a combined scene never get an edge: the rooms are side by side in one world, and a
    frustum would reach through the wall. A graph in several pieces is logged as a warning. ScrflowError when the model
    is missing or shares no image.
    """
    loaded = load_scene(scene)
    names = tuple(v.name for v in loaded.mapping)
    parts = np.array([loaded.parts[n] for n in names]) if loaded.parts else None
    inputs: dict[str, Path | str] = {"scene": loaded.stamp.digest}
    if config.graph.kind != "points":
        rng = np.random.default_rng([config.seed, zlib.crc32(b"covisibility.samples")])
        g = config.graph
        own = read_model(scene / "mapping")
        points = own if own.num_points3D() or model is None else read_model(model)
        if points is own:
            model = None
        depths = depth_range(config.depth_range, points, loaded.folder)
        overlaps = frustum_graph if g.kind == "frustum" else tube_graph
        csr = overlaps(loaded.mapping, g.samples, depths, g.min_overlap, rng, parts)
    else:
        if model is None:
            raise ScrflowError(
                "key graphs: kind points needs a COLMAP model with 3D points, and none was given; use kind frustum"
            )
        csr = shared_points(model, names, config.graph.min_points, parts)
    if model is not None:
        inputs["model"] = ":".join(sha256_file(p)[:16] for p in sorted(model.glob("*.bin")))
    csr.eliminate_zeros()
    csr.sort_indices()
    graph = Graph(csr, names)
    report_components(graph)
    arrays = {
        "data": csr.data.astype(np.float64),
        "indices": csr.indices.astype(np.int32),
        "indptr": csr.indptr.astype(np.int64),
        "shape": np.array(csr.shape, np.int64),
        "names": np.array(names, dtype=np.str_),
    }
    write_npz(out, arrays, Stamp.make(KIND, config, code_of("build_graph", config), **inputs))


def depth_range(given: tuple[float, float] | None, model: pycolmap.Reconstruction, scene: Path) -> tuple[float, float]:
    """The depths of a scene: as given, with a warning where the model's 3D points contradict them, or measured by
    them."""
    depths = observed_depths(model, DEPTH_IMAGES)
    if given is not None:
        wrong = doubt(given, depths)
        if wrong:
            log.warning("%s: %s", scene, wrong)
        return given
    measured = measured_range(depths)
    if measured is None:
        log.warning("%s: too few 3D points to measure depths by; %g to %g is taken (key depth_range)", scene, *_ROOMS)
        return _ROOMS
    log.info("graph: depths from %g to %g, measured from %d observations", *measured, len(depths))
    return measured


def load_graph(path: Path, names: tuple[str, ...] | None = None) -> Graph:
    """The graph in an artifact; ScrflowError when it is damaged, or of other images than ``names``."""
    arrays = read_arrays(path, KIND)
    try:
        shape = tuple(int(s) for s in arrays["shape"])
        weights = arrays["data"]
        if weights.dtype.kind != "f" or not np.isfinite(weights).all():
            raise ValueError("weights that are not finite numbers")
        csr = scipy.sparse.csr_array((weights, arrays["indices"], arrays["indptr"]), shape=shape)
        csr.check_format(full_check=True)  # scipy would read past the end at an index that is too large
        held = tuple(str(n) for n in arrays["names"])
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise ScrflowError(f"{path}: damaged graph ({error}); delete it and run again") from None
    if csr.shape != (len(held), len(held)):
        raise ScrflowError(f"{path}: damaged graph (shape {csr.shape}, {len(held)} names); delete it and run again")
    if names is not None and held != names:
        raise ScrflowError(f"{path}: of other mapping images than the scene; delete it and run again")
    return Graph(csr, held)


def neighbour_pairs(graph: Graph, count: int) -> list[tuple[int, int]]:
    """Rows of mapping images to match: each with ``count`` of its neighbours, every pair once, sorted. They are chosen
    evenly from most to least overlap: the nearest give no baseline to triangulate from, the farthest no matches."""
    pairs = set()
    for i in range(len(graph.names)):
        row = slice(graph.csr.indptr[i], graph.csr.indptr[i + 1])
        near = graph.csr.indices[row][np.argsort(-graph.csr.data[row], kind="stable")]
        if len(near) > count:
            near = near[np.linspace(0, len(near) - 1, count).round().astype(int)]
        pairs.update((min(i, int(j)), max(i, int(j))) for j in near)
    return sorted(pairs)


def connected_components(graph: Graph) -> list[list[str]]:
    """Image names of each connected component, the largest first (ties by name)."""
    count, label = scipy.sparse.csgraph.connected_components(graph.csr, directed=False)
    parts: list[list[str]] = [[] for _ in range(count)]
    for name, part in zip(graph.names, label, strict=True):
        parts[part].append(name)
    return sorted(parts, key=lambda part: (-len(part), part))


def report_components(graph: Graph) -> None:
    """Log the graph's size; warn, with names, when it is in pieces or images stand alone."""
    parts = connected_components(graph)
    edges = graph.csr.nnz // 2
    log.info("covisibility: %d images, %d edges, %d component(s)", len(graph.names), edges, len(parts))
    alone = [part[0] for part in parts if len(part) == 1]
    pieces = [part for part in parts if len(part) > 1]
    if len(pieces) > 1:
        listed = some([f"{len(piece)} images ({some(piece)})" for piece in pieces])
        log.warning("covisibility: the graph is in %d pieces without an edge between them: %s", len(pieces), listed)
    if alone:
        log.warning("covisibility: %d image(s) see nothing that another sees: %s", len(alone), some(alone))


def shared_points(
    model: Path, names: tuple[str, ...], min_points: int, parts: np.ndarray | None = None
) -> scipy.sparse.csr_array:
    """Graph [N, N] of images that share at least ``min_points`` 3D points of the COLMAP model in a folder.

    With n_ij shared points of n_i and n_j, the weight is the harmonic mean of n_ij / n_i and n_ij / n_j, that is
    2 n_ij / (n_i + n_j): the share of i that j sees and the share of j that i sees, combined as ``frustum`` does.
    Images with different ``parts`` [N] have no edge. ScrflowError when the model has no points, or none of the images.
    """
    reconstruction = read_model(model)
    row = {name: i for i, name in enumerate(names)}
    ids = np.fromiter(reconstruction.point3D_ids(), np.int64)
    if not len(ids):
        raise ScrflowError(f"{model}: the model has no 3D points; triangulate it, or use a graph of kind frustum")
    ids.sort()
    observed: list[np.ndarray] = [np.empty(0, np.int64)] * len(names)
    for image_id in reconstruction.reg_image_ids():
        image = reconstruction.image(image_id)
        if image.name in row:
            points = np.fromiter((p.point3D_id for p in image.get_observation_points2D()), np.int64)
            observed[row[image.name]] = np.searchsorted(ids, np.unique(points))
    if not any(map(len, observed)):
        raise ScrflowError(
            f"{model}: observed by none of the scene's {len(names)} mapping images; give their own model"
        )
    begin = np.cumsum([0, *map(len, observed)])
    columns = np.concatenate(observed)
    sees = scipy.sparse.csr_array(
        (np.ones(len(columns), np.int32), columns, begin), shape=(len(names), len(ids))
    )  # [N, points]
    return point_weights(sees, min_points, parts)


def point_weights(
    sees: scipy.sparse.csr_array, min_points: int, parts: np.ndarray | None = None
) -> scipy.sparse.csr_array:
    """Graph of ``shared_points`` of the incidence [N, points] (ones), some rows at a time: the product of all holds
    many pairs that share less than ``min_points``."""
    seen_by = scipy.sparse.csr_array(sees.T)
    points_of = np.diff(sees.indptr)
    edges = []
    for at in range(0, sees.shape[0], _ROWS_AT_ONCE):
        shared = (sees[at : at + _ROWS_AT_ONCE] @ seen_by).tocoo()
        i, j, n = shared.row + at, shared.col, shared.data
        keep = (n >= min_points) & (i != j)
        if parts is not None:
            keep &= parts[i] == parts[j]
        i, j, n = i[keep], j[keep], n[keep]
        edges.append((i, j, 2 * n / (points_of[i] + points_of[j])))
    i, j, weight = (np.concatenate(part) for part in zip(*edges, strict=True))
    return scipy.sparse.csr_array((weight, (i, j)), shape=(sees.shape[0],) * 2)
