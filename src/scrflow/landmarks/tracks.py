"""Tracks: keypoints of mapping photos, matched along the covisibility graph and triangulated under the known poses.

The artifact (HDF5): ``names`` of the I mapping images; ``xyz`` [P, 3] float32; of the O observations, ordered by image,
``start`` [I + 1] int64 (rows of image i: start[i] to start[i + 1]), ``point`` [O] int32, ``descriptor`` [O, D] uint8 or
float16, ``pixel`` [O, 2] float32 in the photo; ``lens`` [G, 21] float32, see scrflow.landmarks.lens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F
from scipy.sparse.csgraph import connected_components

from scrflow.config import MatchFeaturesConfig, TracksConfig, TracksStage
from scrflow.core.device import device_for
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import rays_from_pixels
from scrflow.core.parallel import mapped
from scrflow.core.progress import log, track
from scrflow.features.encoders import build_encoder
from scrflow.features.matching import Nearest, PhotoFeatures, features_of_photos, reduction
from scrflow.features.pca import Pca
from scrflow.graph.covisibility import load_graph, neighbour_pairs
from scrflow.landmarks.lens import NUMBERS, corrected, lenses_of
from scrflow.landmarks.triangulate import Observations, Points, triangulate
from scrflow.pipeline.stages import code_of
from scrflow.scene.colmap_model import View
from scrflow.scene.model import load_scene
from scrflow.storage.artifact import Stamp, create_h5, open_h5, read_stamp
from scrflow.storage.weights import located

KIND = "tracks"
_LEAST_MATCHES = 20  # pairs with fewer do not count for the share of matches that fit the poses
_CHANCE = 0.15  # least 90th percentile of that share: five scenes had 0.44 to 0.96, inverted poses 0.05 to 0.13
_PCA_SAMPLES = 100_000
_WARN_SHARE = 0.05  # of keypoints in a track: five scenes had 25 to 51 %; under wrong poses only chance matches remain
_WRONG = (
    "poses and intrinsics do not fit the photos (camera-to-world? another size?), or the photos do not overlap: "
    "correct the scene's config"
)


@dataclass(frozen=True, eq=False)
class Tracks:
    """The artifact in memory; the module's docstring has the shapes."""

    names: tuple[str, ...]
    xyz: np.ndarray
    start: np.ndarray
    point: np.ndarray
    descriptor: np.ndarray
    pixel: np.ndarray
    lens: np.ndarray = field(default_factory=lambda: np.zeros((0, NUMBERS), np.float32))
    weights: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of the encoder's published weights

    @property
    def image(self) -> np.ndarray:
        """Row of the mapping image [O] of each observation."""
        return np.repeat(np.arange(len(self.names)), np.diff(self.start))


def build_tracks(config: TracksStage, scene: Path, graph: Path, out: Path, threads: int) -> None:
    """Write the tracks of a scene. The same seed gives the same bytes with any ``threads``. ScrflowError if the graph
    is of other images, if matches fit the poses no better than chance, or if no point can be triangulated."""
    loaded, edges = load_scene(scene), load_graph(graph)
    names = tuple(view.name for view in loaded.mapping)
    if edges.names != names:
        raise ScrflowError(f"{graph}: of other mapping images than the scene; delete it and run again")
    c = config.tracks
    with located() as weights:
        encoder = build_encoder(c.features.extractor, device_for())
        found = features_of_photos(loaded.photo, names, encoder, c.features, threads)
        features = list(track(found, "features of mapping images", len(names)))
    pairs = neighbour_pairs(edges, c.neighbours)
    geometry = ViewGeometry.of(loaded.mapping, features, c.features)
    matches, fitting = match_pairs(features, geometry, pairs, c, threads)
    if len(fitting) and np.quantile(fitting, 0.9) < _CHANCE:
        raise ScrflowError(
            f"{scene}: only {100 * np.quantile(fitting, 0.9):.0f} % of the matches of its best pairs of mapping photos "
            f"fit the poses, no more than chance; {_WRONG}"
        )
    first = first_rows(features)
    seen, keypoint = joined(first, geometry, pairs, matches)
    bounds = c.max_error_px, c.min_angle_deg
    points = triangulate(seen, geometry.poses, geometry.focal, *bounds)
    cameras = [view.camera for view in loaded.mapping]
    lenses = lenses_of(cameras, seen, points, geometry.poses, geometry.focal)
    if len(lenses):
        log.info("tracks: the intrinsics of %d cameras lack a lens distortion, which is corrected", len(lenses))
        rays = [corrected(lenses, *one) for one in zip(cameras, geometry.rays, strict=True)]
        seen = replace(seen, ray=np.concatenate(rays)[keypoint])
        points = triangulate(seen, geometry.poses, geometry.focal, *bounds)
    share = len(points.observation) / max(int(first[-1]), 1)
    log.info(
        "tracks: %d points, %d observations (%.0f %% of all keypoints) from %d pairs",
        *(len(points.xyz), len(points.observation), 100 * share, len(pairs)),
    )
    if not len(points.xyz):
        raise ScrflowError(f"{scene}: no keypoint of its mapping photos could be triangulated; {_WRONG}")
    if share < _WARN_SHARE:
        log.warning("few keypoints could be triangulated: the photos overlap little, or their poses are inaccurate")
    result = replace(gathered(names, features, keypoint, seen, points), lens=lenses)
    stamp = Stamp.make(KIND, config, code_of("build_tracks", config), scene=scene / "scene.json", graph=graph)
    with create_h5(out, stamp) as f:
        f.attrs["weights"] = json.dumps(weights, sort_keys=True)
        f["names"] = list(names)
        for name in ("xyz", "start", "point", "descriptor", "pixel", "lens"):
            f[name] = getattr(result, name)


@dataclass(frozen=True, eq=False)
class ViewGeometry:
    """Poses of V views, and the rays of their keypoints."""

    poses: np.ndarray  # [V, 3, 4] cam_from_world
    focal: np.ndarray  # [V] px of the photo as its features were found
    rays: list[np.ndarray]  # V of [N, 2], on the plane z = 1; NaN where the distortion has no inverse

    @classmethod
    def of(
        cls,
        views: tuple[View, ...],
        features: list[PhotoFeatures],
        config: MatchFeaturesConfig,
        lenses_G: np.ndarray | None = None,
    ) -> ViewGeometry:
        """Geometry of views and of their features, in the same order; ``lenses_G`` [G, 21] correct the rays."""
        pairs = list(zip(views, features, strict=True))
        focal = [view.camera.mean_focal_length() * reduction(f.size, config) for view, f in pairs]
        rays = [rays_from_pixels(view.camera, f.pixels) for view, f in pairs]
        if lenses_G is not None:
            rays = [corrected(lenses_G, view.camera, ray) for view, ray in zip(views, rays, strict=True)]
        return cls(np.array([view.cam_from_world for view in views]), np.array(focal), rays)

    def epipolar_error(self, i: int, j: int, matches_M2: np.ndarray) -> np.ndarray:
        """Sampson distance [M] in px of matched keypoints of the views i and j."""
        (Ri, ti), (Rj, tj) = ((pose[:, :3], pose[:, 3]) for pose in self.poses[[i, j]])
        R = Rj @ Ri.T
        x, y, z = tj - R @ ti
        E = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ R
        one = np.ones((len(matches_M2), 1))
        a = np.concatenate([self.rays[i][matches_M2[:, 0]], one], 1)
        b = np.concatenate([self.rays[j][matches_M2[:, 1]], one], 1)
        Ea, Eb = a @ E.T, b @ E
        squares = (Ea[:, :2] ** 2).sum(1) + (Eb[:, :2] ** 2).sum(1)
        return np.abs((b * Ea).sum(1)) / np.sqrt(np.maximum(squares, 1e-24)) * min(self.focal[i], self.focal[j])


def match_pairs(
    features: list[PhotoFeatures],
    geometry: ViewGeometry,
    pairs: list[tuple[int, int]],
    config: TracksConfig,
    threads: int,
) -> tuple[list[np.ndarray], list[float]]:
    """Matched keypoints [M, 2] of each pair of views: mutual nearest neighbours that fit the known poses. Second, the
    share of the matches that fit, of each pair with enough matches."""
    matcher = Nearest(config.max_ratio, None)
    units = _reduced([f.unit_descriptors() for f in features], config.match_dim)

    def matched(pair: tuple[int, int]) -> tuple[np.ndarray, int]:
        i, j = pair
        found = matcher.rows(units[i], units[j])
        return found[geometry.epipolar_error(i, j, found) < config.max_epipolar_px], len(found)

    pairs_of = list(mapped(matched, track(pairs, "matching pairs"), threads))
    return [m for m, _ in pairs_of], [len(m) / count for m, count in pairs_of if count >= _LEAST_MATCHES]


def _reduced(units: list[torch.Tensor], dim: int) -> list[torch.Tensor]:
    """Unit descriptors of each view, projected to their ``dim`` leading components."""
    if dim >= units[0].shape[1] or sum(map(len, units)) <= dim:
        return units
    step = max(1, sum(map(len, units)) // _PCA_SAMPLES)
    projection = Pca.fit(torch.cat([unit[::step] for unit in units]), dim)
    return [F.normalize(projection(unit), dim=1) for unit in units]


def first_rows(features: list[PhotoFeatures]) -> np.ndarray:
    """Row [V + 1] of each view's first keypoint among those of all views; the last is their number."""
    return np.cumsum([0, *(len(f.pixels) for f in features)])


def joined(
    first: np.ndarray, geometry: ViewGeometry, pairs: list[tuple[int, int]], matches: list[np.ndarray]
) -> tuple[Observations, np.ndarray]:
    """Tracks, the connected components of the matches, and the keypoint [O] of each observation: a row of the keypoints
    of all views, where those of view i begin at ``first[i]``."""
    none = np.zeros((0, 2), np.int64)
    edges = np.concatenate([none, *(m + first[list(pair)] for pair, m in zip(pairs, matches, strict=True))])
    count = int(first[-1])
    links = scipy.sparse.coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), (count, count))
    label = connected_components(links, directed=False)[1]
    keypoint = np.flatnonzero(np.bincount(label)[label] > 1)
    track_of = np.unique(label[keypoint], return_inverse=True)[1]
    order = np.lexsort((keypoint, track_of))
    keypoint, track_of = keypoint[order], track_of[order]
    view = np.searchsorted(first, keypoint, "right") - 1
    return Observations(track_of, view, np.concatenate(geometry.rays)[keypoint]), keypoint


def gathered(
    names: tuple[str, ...],
    features: list[PhotoFeatures],
    keypoint: np.ndarray,
    seen: Observations,
    points: Points,
) -> Tracks:
    """Tracks of triangulated points; ``seen`` and ``keypoint`` are what ``joined`` gave."""
    order = np.lexsort((keypoint[points.observation], seen.view[points.observation]))
    rows = points.observation[order]
    start = np.searchsorted(seen.view[rows], np.arange(len(names) + 1))
    return Tracks(
        names,
        points.xyz.astype(np.float32),
        start.astype(np.int64),
        points.point[order].astype(np.int32),
        np.concatenate([f.descriptors for f in features])[keypoint[rows]],
        np.concatenate([f.pixels for f in features])[keypoint[rows]],
    )


def load_tracks(path: Path) -> Tracks:
    """The tracks of a file that ``build_tracks`` wrote; ScrflowError if it is damaged or of another kind."""
    read_stamp(path, KIND)
    with open_h5(path, KIND) as f:
        names = tuple(f["names"].asstr()[:].tolist())
        arrays = {name: f[name][:] for name in ("xyz", "start", "point", "descriptor", "pixel", "lens") if name in f}
        return Tracks(names, **arrays, weights=json.loads(f.attrs["weights"]))
