"""Landmarks of photos that are added to a map: keypoints that its landmarks do not explain are matched among the new
photos and triangulated under their poses; the map's own projection and codebooks code them. Old landmarks keep their
bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F

from scrflow.config import GraphConfig, LandmarksConfig, TracksConfig
from scrflow.core.geometry import camera_points
from scrflow.core.seeds import numpy_generator
from scrflow.features.matching import PhotoFeatures
from scrflow.features.pca import Pca
from scrflow.features.retrieval import quantised
from scrflow.graph.covisibility import Graph, neighbour_pairs
from scrflow.graph.frustum import frustum_graph
from scrflow.landmarks.codes import Landmarks, Tensors, boxed, budget
from scrflow.landmarks.select import choose, mean_descriptors
from scrflow.landmarks.tracks import Tracks, ViewGeometry, first_rows, gathered, joined, match_pairs
from scrflow.landmarks.triangulate import Observations, triangulate
from scrflow.scene.checks import measured_range
from scrflow.scene.colmap_model import View


@dataclass(frozen=True, eq=False)
class NewPhoto:
    """A photo with its pose, its features, and the map's landmarks that it shows."""

    view: View
    features: PhotoFeatures
    keypoint: np.ndarray  # [M] rows of the features
    landmark: np.ndarray  # [M] rows of the map's landmarks


def new_tracks(
    photos: list[NewPhoto], landmarks: Landmarks, config: TracksConfig, seed: int, threads: int
) -> Tracks | None:
    """Tracks of the new photos without those that show a landmark of the map; None if nothing is left."""
    views, features = tuple(p.view for p in photos), [p.features for p in photos]
    names = tuple(view.name for view in views)
    geometry = ViewGeometry.of(views, features, config.features, landmarks.lens)
    pairs = neighbour_pairs(Graph(_overlap(photos, landmarks.xyz, seed), names), config.neighbours)
    matches, _ = match_pairs(features, geometry, pairs, config, threads)
    first = first_rows(features)
    seen, keypoint = joined(first, geometry, pairs, matches)
    known = np.zeros(int(first[-1]), bool)
    for begin, photo in zip(first, photos, strict=False):
        known[begin + photo.keypoint] = True
    old = np.bincount(seen.track, known[keypoint]) > 0
    left = ~old[seen.track]
    if not left.any():
        return None
    track = np.unique(seen.track[left], return_inverse=True)[1]
    seen, keypoint = Observations(track, seen.view[left], seen.ray[left]), keypoint[left]
    points = triangulate(seen, geometry.poses, geometry.focal, config.max_error_px, config.min_angle_deg)
    return gathered(names, features, keypoint, seen, points) if len(points.xyz) else None


def _overlap(photos: list[NewPhoto], xyz_L3: np.ndarray, seed: int) -> scipy.sparse.csr_array:
    """Frustum overlap [N, N], within the depths of the landmarks that the photos show; of all pairs where these are too
    few to measure depths."""
    depths = [camera_points(xyz_L3[p.landmark], p.view.cam_from_world)[:, 2] for p in photos]
    measured, settings = measured_range(np.concatenate(depths)), GraphConfig()
    if measured is None:
        return scipy.sparse.csr_array(1.0 - np.eye(len(photos)))
    rng = numpy_generator(seed, "add.overlap")
    return frustum_graph([p.view for p in photos], settings.samples, measured, settings.min_overlap, rng)


def extended(
    tensors: Tensors, photos: list[NewPhoto], tracks: Tracks | None, config: LandmarksConfig | None
) -> tuple[Tensors, int]:
    """Landmarks of the map and of ``tracks``, ordered by image: the map's images, then the new photos. Second, how many
    are new. ``config`` has the budget; None: the new photos get as many landmarks each as the map's images have. Within
    a budget that is too small for all, old and new images have equal shares; old landmarks that no new photo shows go
    first."""
    before, images = len(tensors["codes"]), len(tensors["start"]) - 1
    wanted = round(before * len(photos) / images)
    kept = np.arange(before)
    if config is not None:
        full, total = len(tensors["mean"]), images + len(photos)
        count = budget(config, total, full, len(tensors.get("lens", ())))
        available = 0 if tracks is None else len(tracks.xyz)
        wanted = min(available, max(count - before, round(count * len(photos) / total)))
        kept = _thinned(tensors, photos, count - wanted)
    start = tensors["start"].numpy()
    image = np.repeat(np.arange(images), np.diff(start))
    out = {name: tensors[name][torch.from_numpy(kept)] for name in ("codes", "position")}
    out["start"] = torch.from_numpy(np.searchsorted(image[kept], np.arange(images + 1))).int()
    return _joined({**tensors, **out}, photos, tracks, wanted)


def _thinned(tensors: Tensors, photos: list[NewPhoto], count: int) -> np.ndarray:
    """Rows [count], ascending, of old landmarks: the same share of each image's, those that new photos show first."""
    start = tensors["start"].numpy()
    rows, images = int(start[-1]), len(start) - 1
    seen = np.bincount(np.concatenate([p.landmark for p in photos]), minlength=rows)
    image = np.repeat(np.arange(images), np.diff(start))
    order = np.lexsort((np.arange(rows), -seen, image))
    place = np.empty(rows)
    place[order] = (np.arange(rows) - start[image]) / np.diff(start)[image]
    return np.sort(np.lexsort((np.arange(rows), place))[:count])


def _joined(tensors: Tensors, photos: list[NewPhoto], tracks: Tracks | None, count: int) -> tuple[Tensors, int]:
    before, new = len(tensors["codes"]), len(photos)
    if tracks is None or count <= 0:
        none = torch.zeros(new, 3)
        start = torch.cat([tensors["start"], torch.full((new,), before, dtype=torch.int32)])
        return {
            **tensors,
            "start": start,
            "origin": torch.cat([tensors["origin"], none]),
            "step": torch.cat([tensors["step"], none]),
        }, 0
    chosen = choose(tracks, count)
    first = np.full(len(tracks.xyz), new)
    np.minimum.at(first, tracks.point, tracks.image)
    chosen = chosen[np.argsort(first[chosen], kind="stable")]
    unit = torch.from_numpy(mean_descriptors(tracks)[chosen])
    rows = F.normalize(Pca(tensors["mean"].float(), tensors["components"].float())(unit), dim=1)
    start = np.searchsorted(first[chosen], np.arange(new + 1))
    origin, step, position = boxed(tracks.xyz[chosen], start)
    added = {
        "codes": quantised(rows, tensors["codebooks"]),
        "start": torch.from_numpy(start[1:] + before).int(),
        "origin": torch.from_numpy(origin),
        "step": torch.from_numpy(step),
        "position": torch.from_numpy(position),
    }
    return {**tensors, **{name: torch.cat([tensors[name], part]) for name, part in added.items()}}, len(chosen)
