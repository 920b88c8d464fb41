"""Which points of the tracks become landmarks of a map."""

from __future__ import annotations

import numpy as np

from scrflow.landmarks.tracks import Tracks


def mean_descriptors(tracks: Tracks) -> np.ndarray:
    """The mean of each point's descriptors, [P, D] float32 of unit length."""
    rows = tracks.descriptor.astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    order = np.argsort(tracks.point, kind="stable")
    begin = np.searchsorted(tracks.point[order], np.arange(len(tracks.xyz)))
    mean = np.add.reduceat(rows[order], begin, axis=0)
    return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9)


def choose(tracks: Tracks, count: int) -> np.ndarray:
    """Rows [L], ascending, of at most ``count`` points: the longest tracks of each image, so that all mapping images
    see about equally many (a point counts for every image that sees it)."""
    points = len(tracks.xyz)
    if count >= points:
        return np.arange(points)
    length = np.bincount(tracks.point, minlength=points)
    # the place of each observation in its image's list, longest track first
    order = np.lexsort((tracks.point, -length[tracks.point], tracks.image))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - tracks.start[tracks.image[order]]
    best = np.full(points, len(order))
    np.minimum.at(best, tracks.point, place)
    return np.sort(np.lexsort((np.arange(points), -length, best))[:count])
