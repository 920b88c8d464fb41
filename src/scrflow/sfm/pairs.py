"""Which images to match: all pairs of a small set, else those whose VLAD descriptors are alike.

VLAD (Jegou et al., CVPR 2010) over the SIFT descriptors that SfM has anyway, with a vocabulary learnt on them, so
nothing is downloaded. Residuals are normalised within each cluster (Arandjelovic and Zisserman, CVPR 2013).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np
import pycolmap

CLUSTERS = 64
_LEARN_ON = 50_000  # descriptors; some 800 a cluster, beyond which the centroids hardly move
_PER_IMAGE = 2_000  # the first (strongest) of an image; enough for its VLAD


def all_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Every pair once, in order."""
    return list(itertools.combinations(names, 2))


def retrieval_pairs(database: Path, names: Sequence[str], count: int, seed: int) -> list[tuple[str, str]]:
    """Each image with its ``count`` most alike, every pair once, sorted."""
    similarity = vlad_similarity(_descriptors(database, names), seed)
    return nearest_pairs(names, -similarity, count)


def nearest_pairs(names: Sequence[str], distance_NN: np.ndarray, count: int) -> list[tuple[str, str]]:
    """Each image with its ``count`` nearest of finite distance; every pair once, sorted."""
    distance = np.array(distance_NN, np.float64)
    np.fill_diagonal(distance, np.inf)
    pairs = set()
    for i, row in enumerate(distance):
        for j in np.argsort(row, kind="stable")[:count]:
            if np.isfinite(row[j]):
                pairs.add((min(i, int(j)), max(i, int(j))))
    return [(names[i], names[j]) for i, j in sorted(pairs)]


def vlad_similarity(descriptors: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Cosine similarity [N, N] of the images' VLAD, from their local descriptors [n_i, D]."""
    # one thread: sums in another order would give other pairs on another machine
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        everything = np.concatenate([d for d in descriptors if len(d)] or [np.zeros((0, 128), np.float32)])
        if len(everything) == 0:
            return np.zeros((len(descriptors), len(descriptors)))
        clusters = min(CLUSTERS, len(everything))
        rng = np.random.default_rng(seed)
        learn = everything[np.sort(rng.permutation(len(everything))[:_LEARN_ON])]
        kmeans = faiss.Kmeans(learn.shape[1], clusters, niter=15, seed=seed, min_points_per_centroid=1)
        kmeans.train(np.ascontiguousarray(learn, np.float32))
        vlad = np.stack([_vlad(d, kmeans) for d in descriptors])
    finally:
        faiss.omp_set_num_threads(threads)
    vlad -= vlad.mean(0)  # what all images share says nothing about any of them
    vlad /= np.maximum(np.linalg.norm(vlad, axis=1, keepdims=True), 1e-12)
    return vlad @ vlad.T


def _vlad(descriptors: np.ndarray, kmeans: faiss.Kmeans) -> np.ndarray:
    """[clusters * D], unit length."""
    centroids = kmeans.centroids.reshape(-1, descriptors.shape[1])
    residuals = np.zeros_like(centroids, np.float64)
    if len(descriptors):
        nearest = kmeans.index.search(np.ascontiguousarray(descriptors, np.float32), 1)[1][:, 0]
        np.add.at(residuals, nearest, descriptors - centroids[nearest])
    residuals /= np.maximum(np.linalg.norm(residuals, axis=1, keepdims=True), 1e-12)
    flat = residuals.ravel()
    return flat / max(np.linalg.norm(flat), 1e-12)


def _descriptors(database: Path, names: Sequence[str]) -> list[np.ndarray]:
    """RootSIFT descriptors [n, 128] float32 of each image, unit length."""
    out = []
    with pycolmap.Database.open(database) as db:
        for name in names:
            found = db.read_descriptors(db.read_image_with_name(name).image_id)
            data = np.asarray(found.data if hasattr(found, "data") else found, np.float32)[:_PER_IMAGE]
            out.append(data / np.maximum(np.linalg.norm(data, axis=1, keepdims=True), 1e-12))
    return out
