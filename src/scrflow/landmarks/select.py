"""Which points of the tracks become landmarks of a map: those seen by many images and mistaken for no other point."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from scrflow.core.parallel import mapped
from scrflow.features.pca import Pca
from scrflow.landmarks.tracks import Tracks

_DIM = 32  # of the descriptors that are compared
_RATIO = 0.9  # of angles, as a query's matches have to pass it
_OTHERS = 32_768  # points that each observation is compared with at most
_ROWS = 256  # observations compared at a time


def mean_descriptors(tracks: Tracks) -> np.ndarray:
    """The mean of each point's descriptors, [P, D] float32 of unit length."""
    rows = tracks.descriptor.astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    order = np.argsort(tracks.point, kind="stable")
    begin = np.searchsorted(tracks.point[order], np.arange(len(tracks.xyz)))
    mean = np.add.reduceat(rows[order], begin, axis=0)
    return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9)


def right_matches(tracks: Tracks) -> np.ndarray:
    """The number [P] of observations of each point that would find it in a map without them: the descriptor is nearest
    to the mean of the point's other ones, and passes the ratio test."""
    rows = tracks.descriptor.astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    points = len(tracks.xyz)
    total = np.zeros((points, rows.shape[1]), np.float32)
    np.add.at(total, tracks.point, rows)
    means = F.normalize(torch.from_numpy(total), dim=1)
    projection = Pca.fit(means, min(_DIM, rows.shape[1], points - 1))
    step = -(-points // _OTHERS)
    others = F.normalize(projection(means[::step]), dim=1)
    point = torch.from_numpy(tracks.point.astype(np.int64))

    def found(begin: int) -> torch.Tensor:
        block, own = torch.from_numpy(rows[begin : begin + _ROWS]), point[begin : begin + _ROWS]
        rest = F.normalize(torch.from_numpy(total[own]) - block, dim=1)
        seen, itself = (F.normalize(projection(unit), dim=1) for unit in (block, rest))
        similarity = seen @ others.T
        among = own % step == 0
        similarity[torch.nonzero(among)[:, 0], own[among] // step] = -1.0
        angle, next_angle = (v.clamp(-1, 1).acos() for v in ((seen * itself).sum(1), similarity.amax(1)))
        return angle < _RATIO * next_angle

    right = mapped(found, range(0, len(rows), _ROWS), torch.get_num_threads())
    return np.bincount(tracks.point, torch.cat(list(right)).numpy(), minlength=points).astype(np.int64)


def choose(tracks: Tracks, count: int) -> np.ndarray:
    """Rows [L], ascending, of at most ``count`` points: the best of each image, so that all mapping images see about
    equally many (a point counts for every image that sees it). The best are the longest tracks; of a track of which
    fewer than half of the observations match rightly only these count (docs/landmarks.md)."""
    points = len(tracks.xyz)
    if count >= points:
        return np.arange(points)
    length, right = np.bincount(tracks.point, minlength=points), right_matches(tracks)
    length = np.where(2 * right < length, right, length)
    # the place of each observation in its image's list, best first
    order = np.lexsort((tracks.point, -length[tracks.point], tracks.image))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - tracks.start[tracks.image[order]]
    best = np.full(points, len(order))
    np.minimum.at(best, tracks.point, place)
    return np.sort(np.lexsort((np.arange(points), -length, best))[:count])
