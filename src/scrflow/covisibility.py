"""Covisibility graph over the mapping images: which of them see the same part of the scene.

Two kinds. ``frustum`` is R-SCoRe's overlap (arXiv 2501.01421): pixels and depths sampled in image i, projected into
image j; the visible fraction, each sample weighted by (1 + cos of the angle between the two viewing directions) / 2;
the harmonic mean of both directions. ``points`` counts the 3D points that two images share in a model from photos.

The viewing direction of a sample is the ray from the camera's centre to it, not the optical axis. The paper weights
each sample, which only rays can do, and rays are what decides whether two photos show the same surface: cameras that
face each other across a square see its middle from opposite sides (weight near 0), cameras side by side that are
turned outwards still see one facade from one side.
"""

from __future__ import annotations

import logging
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse

from scrflow.artifacts import Stamp, read_npz, sha256_file, write_npz
from scrflow.cameras import pinhole_matrix
from scrflow.codeversion import code_version
from scrflow.config import CovisibilityStage
from scrflow.errors import ScrflowError
from scrflow.geometry import camera_centre
from scrflow.progress import track
from scrflow.scene.model import View, load_scene, read_model

KIND = "covisibility"
_PROJECTIONS_AT_ONCE = 1 << 13  # 64 KB temporaries stay in the cache and on the heap: 4 times as fast as 1 << 20
_NAMED = 5  # example images in a warning

log = logging.getLogger("scrflow")


@dataclass(frozen=True)
class Graph:
    """A symmetric weighted graph; row i of ``csr`` belongs to image ``names[i]``."""

    csr: scipy.sparse.csr_array  # [N, N] float64, weights in (0, 1], no diagonal, sorted columns
    names: tuple[str, ...]


def build_graph(config: CovisibilityStage, scene: Path, out: Path, model: Path | None = None) -> None:
    """Write the covisibility graph of a scene artifact to ``out`` (npz).

    ``model`` is the COLMAP model (folder) with 3D points that the kind ``points`` needs; ``frustum`` does not read it.
    Images of different rooms of a combined scene never get an edge: side by side in one world, a frustum reaches
    through the wall. A graph in several pieces is logged as a warning. ScrflowError when the model is missing or shares
    no image.
    """
    loaded = load_scene(scene)
    names = tuple(v.name for v in loaded.mapping)
    inputs: dict[str, Path | str] = {"scene": loaded.stamp.digest}
    if config.graph.kind == "frustum":
        rng = np.random.default_rng([config.seed, zlib.crc32(b"covisibility.samples")])
        overlap = frustum_overlap(loaded.mapping, config.graph.samples, config.depth_range, rng, loaded.same_part())
        csr = scipy.sparse.csr_array(np.where(overlap >= config.graph.min_overlap, overlap, 0.0))
    else:
        if model is None:
            raise ScrflowError("key graphs: kind points needs a COLMAP model with 3D points, and none was given")
        csr = shared_points(Path(model), names, config.graph.min_points)
        same = loaded.same_part()
        csr = csr if same is None else csr.multiply(same)
        inputs["model"] = ":".join(sha256_file(p)[:16] for p in sorted(Path(model).glob("*.bin")))
    graph = Graph(_tidy(csr), names)
    report_components(graph)
    arrays = {
        "data": graph.csr.data.astype(np.float64),
        "indices": graph.csr.indices.astype(np.int32),
        "indptr": graph.csr.indptr.astype(np.int64),
        "shape": np.array(graph.csr.shape, np.int64),
        "names": np.array(names, dtype=np.str_),
    }
    write_npz(out, arrays, Stamp.make(KIND, config, code_version("covisibility"), **inputs))


def load_graph(path: Path) -> Graph:
    """The graph in an artifact; ScrflowError when it is damaged."""
    arrays = read_npz(path, KIND)
    try:
        shape = tuple(int(s) for s in arrays["shape"])
        csr = scipy.sparse.csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
        names = tuple(str(n) for n in arrays["names"])
    except (KeyError, ValueError) as error:
        raise ScrflowError(f"{path}: damaged graph ({error}); delete it and run again") from None
    if csr.shape != (len(names), len(names)):
        raise ScrflowError(f"{path}: damaged graph (shape {csr.shape}, {len(names)} names); delete it and run again")
    return Graph(csr, names)


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
        listed = "; ".join(f"{len(p)} images ({_some(p)})" for p in pieces[:_NAMED])
        rest = f"; and {len(pieces) - _NAMED} smaller" if len(pieces) > _NAMED else ""
        log.warning(
            "covisibility: the graph is in %d pieces without an edge between them: %s%s", len(pieces), listed, rest
        )
    if alone:
        log.warning("covisibility: %d image(s) see nothing that another sees: %s", len(alone), _some(alone))


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


# ------------------------------------------------------------------------------------------------------------- frustum


def sample_frustum(
    K: np.ndarray, width: int, height: int, depth_range: tuple[float, float], count: int, rng: np.random.Generator
) -> np.ndarray:
    """Points [count, 3] in the camera's frame: pixel uniform over the image, depth (z) uniform in ``depth_range``.

    The frustum is that of the pinhole matrix ``K`` and the image's bounds: lens distortion moves its edge by a few
    pixels and is left out here (and only here).
    """
    u = rng.random((count, 3))
    depth = depth_range[0] + u[:, 2] * (depth_range[1] - depth_range[0])
    pixels = np.column_stack([u[:, 0] * width, u[:, 1] * height, np.ones(count)])
    return (pixels @ np.linalg.inv(K).T) * depth[:, None]


def frustum_overlap(
    views: tuple[View, ...],
    samples: int,
    depth_range: tuple[float, float],
    rng: np.random.Generator,
    allowed: np.ndarray | None = None,
) -> np.ndarray:
    """Overlap [N, N] (float64, symmetric, 0..1, zero diagonal) of all pairs of posed views.

    A sample counts as visible in j when it lies in front of j and inside its image. Every image draws its samples once,
    in the order of ``views``. Pairs whose frusta cannot meet are skipped, which changes no value; pairs that are not
    ``allowed`` [N, N] (bool, symmetric; all where not given) have 0.
    """
    count = len(views)
    poses = np.stack([v.cam_from_world for v in views]).astype(np.float64)  # [N, 3, 4]
    K = np.stack([pinhole_matrix(v.camera) for v in views])  # [N, 3, 3]
    sizes = np.array([[v.camera.width, v.camera.height] for v in views], np.float64)  # [N, 2]
    centres = camera_centre(poses)  # [N, 3]
    possible = _may_meet(poses, K, sizes, depth_range)
    if allowed is not None:
        possible &= allowed
    seen = np.zeros((count, count))  # [i, j]: weighted share of i's samples that j sees
    chunk = max(1, _PROJECTIONS_AT_ONCE // samples)
    for i in track(range(count), "frustum overlap", count):
        width, height = sizes[i]
        points = sample_frustum(K[i], width, height, depth_range, samples, rng)
        world = (points - poses[i, :, 3]) @ poses[i, :, :3]  # R^T (x - t), row by row
        others = np.flatnonzero(possible[i])
        for at in range(0, len(others), chunk):
            j = others[at : at + chunk]
            seen[i, j] = _visible_share(world, centres[i], poses[j], K[j], sizes[j], centres[j])
    total = seen + seen.T
    overlap = np.divide(2 * seen * seen.T, total, out=np.zeros_like(total), where=total > 0)
    np.fill_diagonal(overlap, 0.0)
    return np.minimum(overlap, 1.0)


def _visible_share(
    world_S3: np.ndarray, centre: np.ndarray, poses: np.ndarray, K: np.ndarray, sizes: np.ndarray, centres: np.ndarray
) -> np.ndarray:
    """Share [C] of the samples [S, 3], seen from ``centre``, that each of C cameras sees, with the angle's weight."""
    local = poses[:, :, :3] @ world_S3.T + poses[:, :, 3:]  # [C, 3, S]
    x, y, depth = np.moveaxis(K @ local, 1, 0)  # homogeneous pixels: compared without dividing by the depth
    visible = (depth > 0) & (x >= 0) & (x < sizes[:, :1] * depth) & (y >= 0) & (y < sizes[:, 1:] * depth)
    # in the world, j's ray is R^T local, as long as local, and i's ray plus the baseline
    ray = world_S3 - centre  # [S, 3]
    dot = (ray * ray).sum(1) + (centre - centres) @ ray.T  # [C, S]
    lengths = np.sqrt((ray * ray).sum(1) * np.einsum("cks,cks->cs", local, local))
    cosine = np.divide(dot, lengths, out=np.ones_like(dot), where=lengths > 0)
    weight = (1 + np.clip(cosine, -1, 1)) / 2
    return (weight * visible).mean(1)


def _may_meet(poses: np.ndarray, K: np.ndarray, sizes: np.ndarray, depth_range: tuple[float, float]) -> np.ndarray:
    """[N, N] bool: False where all samples of i are outside j's view, or all of j's outside i's (their mean is then 0).

    Conservative: the ball around each bounded frustum against the five planes of the other's pyramid.
    """
    count = len(poses)
    near, far = depth_range
    rays = []
    for w, h in ((0, 0), (1, 0), (0, 1), (1, 1)):
        corner = np.column_stack([sizes[:, 0] * w, sizes[:, 1] * h, np.ones(count)])
        rays.append(np.linalg.solve(K, corner[..., None])[..., 0])
    rays = np.stack(rays, 1)  # [N, 4, 3], z = 1
    corners = np.concatenate([rays * near, rays * far], 1)  # [N, 8, 3]
    middle = corners.mean(1)
    radius = np.linalg.norm(corners - middle[:, None], axis=2).max(1) * (1 + 1e-9) + 1e-12
    balls = np.einsum("nji,nj->ni", poses[:, :, :3], middle - poses[:, :, 3])  # [N, 3] in the world

    # inward normals of the pyramid: rows of K and of the bounds, as x_px >= 0 <=> k0 . p >= 0 and so on (for z > 0)
    k0, k1, k2 = K[:, 0], K[:, 1], K[:, 2]
    planes = np.stack([k0, sizes[:, :1] * k2 - k0, k1, sizes[:, 1:] * k2 - k1, k2], 1)  # [N, 5, 3]
    planes /= np.linalg.norm(planes, axis=2, keepdims=True)
    normals = planes @ poses[:, :, :3]  # [N, 5, 3] in the world
    offsets = np.einsum("npk,nk->np", planes, poses[:, :, 3])
    meets = np.ones((count, count), bool)
    for plane in range(normals.shape[1]):
        distance = balls @ normals[:, plane].T + offsets[:, plane]  # [i, j]: ball i against plane of j
        meets &= distance >= -radius[:, None]
    meets &= meets.T
    np.fill_diagonal(meets, False)
    return meets


# -------------------------------------------------------------------------------------------------------------- points


def shared_points(model: Path, names: tuple[str, ...], min_points: int) -> scipy.sparse.csr_array:
    """Graph [N, N] of images that share at least ``min_points`` 3D points of the COLMAP model in a folder.

    With n_ij shared points of n_i and n_j, the weight is the harmonic mean of n_ij / n_i and n_ij / n_j, that is
    2 n_ij / (n_i + n_j): the share of i that j sees and the share of j that i sees, combined as ``frustum`` does.
    ScrflowError when the model has no points, or none of the images.
    """
    reconstruction = read_model(model)
    row = {name: i for i, name in enumerate(names)}
    columns = {point: c for c, point in enumerate(sorted(reconstruction.point3D_ids()))}
    if not columns:
        raise ScrflowError(f"{model}: the model has no 3D points; triangulate it, or use a graph of kind frustum")
    rows, cols = [], []
    for image_id in reconstruction.reg_image_ids():
        image = reconstruction.image(image_id)
        if image.name in row:
            points = {p.point3D_id for p in image.get_observation_points2D()}
            rows.extend([row[image.name]] * len(points))
            cols.extend(columns[p] for p in points)
    if not rows:
        raise ScrflowError(f"{model}: none of the scene's {len(names)} mapping images observes a point of this model")
    sees = scipy.sparse.csr_array((np.ones(len(rows)), (rows, cols)), shape=(len(names), len(columns)))
    shared = (sees @ sees.T).tocoo()
    points_of = np.asarray(sees.sum(1)).ravel()
    keep = (shared.data >= min_points) & (shared.row != shared.col)
    i, j, n = shared.row[keep], shared.col[keep], shared.data[keep]
    return scipy.sparse.csr_array((2 * n / (points_of[i] + points_of[j]), (i, j)), shape=shared.shape)


def _tidy(csr: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    csr = scipy.sparse.csr_array(csr)
    csr.eliminate_zeros()
    csr.sort_indices()
    return csr
