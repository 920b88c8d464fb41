"""Recalls of a retrieval feature, on a ring of cameras whose right neighbours are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scrflow.core.geometry import camera_centre, pose_error
from scrflow.features.retrieval import search
from scrflow.features.retrieval.build import ANGLE_DEG, measure, near_pairs
from scrflow.features.retrieval.search import Retriever

COUNT = 40


def ring(count=COUNT, turn=0.0):
    """Cameras on a circle of radius 10 that look outwards; descriptors fall off with the angle between them."""
    angle = 2 * np.pi * np.arange(count) / count + turn
    c, s, o = np.cos(angle), np.sin(angle), np.zeros(count)
    R = np.stack([np.stack([-s, o, c], 1), np.stack([o, o + 1, o], 1), np.stack([-c, o, -s], 1)], 1)
    centre = 10 * np.stack([c, o, s], 1)
    poses = np.concatenate([R, -np.einsum("nij,nj->ni", R, centre)[:, :, None]], 2)
    bumps = 2 * np.pi * np.arange(16) / 16
    vectors = np.exp(4 * np.cos(angle[:, None] - bumps)).astype(np.float32)
    return poses, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def model(vectors, parts=8):
    books = search.learn_codebooks(vectors, parts, 1)
    return Retriever(
        tuple(f"{i:03d}" for i in range(len(vectors))), books, search.quantised(torch.from_numpy(vectors), books)
    )


def test_near_pairs_are_pose_errors():
    poses, _ = ring()
    others, _ = ring(9, turn=0.1)
    near = near_pairs(torch.from_numpy(others), torch.from_numpy(poses), 2.0)
    for q, n in np.ndindex(*near.shape):
        distance, degrees = pose_error(others[q], poses[n])
        assert bool(near[q, n]) == (distance <= 2.0 and degrees <= ANGLE_DEG)
    assert 0 < near.sum() < near.numel()
    np.testing.assert_allclose(np.linalg.norm(camera_centre(poses), axis=1), 10)


def test_a_good_feature_finds_its_neighbours():
    poses, vectors = ring()
    queries = dict(zip("abcde", ring(5, turn=0.05)[1], strict=True))
    query_poses = dict(zip("abcd", ring(5, turn=0.05)[0], strict=False))
    result = measure(model(vectors), vectors, poses, 5.0, queries, query_poses)
    assert (result["images"], result["dim"], result["bytes_per_image"]) == (COUNT, 16, 8)
    assert result["quantised_vs_exact"]["queries"]["count"] == 5
    found = result["by_pose"]
    # three cameras on each side are within 5 units, of which the two nearest are no candidates; but the first and the
    # last two of the names, next to each other on the ring, are: 6 more
    assert found["mapping"] == {
        "count": 40,
        "without": 0,
        "recall@1": 1.0,
        "recall@10": 1.0,
        "precision@10": 86 / 400,
        "skipped": 2,
    }
    assert found["queries"]["count"] == 4 and found["queries"]["recall@1"] == 1.0
    assert found["queries"]["precision@10"] == pytest.approx(0.6, abs=0.1)


def test_a_shuffled_feature_does_not():
    poses, vectors = ring()
    shuffled = vectors[np.random.default_rng(0).permutation(COUNT)]
    found = measure(model(shuffled), shuffled, poses, 5.0)["by_pose"]["mapping"]
    assert found["recall@1"] < 0.3 and found["precision@10"] < 0.15
    assert "queries" not in measure(model(shuffled), shuffled, poses, 5.0)["by_pose"]


def test_no_near_image_is_not_counted_as_a_miss():
    poses, vectors = ring()
    found = measure(model(vectors), vectors, poses, 0.1)["by_pose"]["mapping"]
    assert (found["count"], found["without"], found["recall@1"]) == (0, COUNT, None)


def test_quantisation_costs_recall():
    """More images than codebook entries: the quantised search is no longer exact, and its recall is what the plain loop
    over Retriever.search says."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(400, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    poses = np.repeat(np.eye(3, 4)[None], 400, 0)
    queries = {f"q{i}": v / np.linalg.norm(v) for i, v in enumerate(vectors[:30] + 0.1 * rng.normal(size=(30, 32)))}
    coarse, fine = (measure(model(vectors, parts), vectors, poses, 1.0, queries) for parts in (2, 16))
    assert coarse["quantised_vs_exact"]["mapping"]["recall@10"] < fine["quantised_vs_exact"]["mapping"]["recall@10"] < 1
    retriever = model(vectors, 2)
    same = []
    for i in range(30):
        q = queries[f"q{i}"].astype(np.float32)
        exact = np.argsort(((vectors - q) ** 2).sum(1))[:10]
        same.append(len(set(exact) & set(retriever.search(torch.from_numpy(q), 10)[0].tolist())) / 10)
    assert coarse["quantised_vs_exact"]["queries"]["recall@10"] == pytest.approx(np.mean(same), abs=1e-4)
    entry = retriever.codebooks[1, retriever.codes[7, 1].long()].float()
    assert torch.equal(search.decoded(retriever)[7, 16:], entry)
