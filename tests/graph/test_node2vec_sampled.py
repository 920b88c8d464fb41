"""Node2Vec of large graphs: the sampled loss against autograd and against the expected one, and the choice of both."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from test_node2vec import generator, grid, ring

from scrflow.config import Node2VecConfig
from scrflow.core.errors import ScrflowError
from scrflow.graph.node2vec import node_vectors
from scrflow.graph.node2vec.quality import held_out_average_precision, hold_out_edges, normalised, separation
from scrflow.graph.node2vec.sampled import _noise_distribution, _paths, loss_and_slopes, train_sampled, window_weights
from scrflow.graph.node2vec.skipgram import count_pairs, noise_distribution
from scrflow.graph.node2vec.walks import Walker


def test_window_by_hand():
    expected = [[0, 1, 0.5, 0], [1, 0, 1, 0.5], [0.5, 1, 0, 1], [0, 0.5, 1, 0]]
    assert window_weights(4, 2).tolist() == expected


def test_windows_of_walks_are_the_counts():
    csr = ring(30)
    paths = Walker(csr, 0.25, 4).walk(torch.arange(30).repeat(3), 8, generator())
    counts = np.zeros((30, 30))
    for path in paths.tolist():
        np.add.at(counts, np.ix_(path, path), window_weights(8, 5).numpy())
    counted = count_pairs(Walker(csr, 0.25, 4), 3, 8, 5, generator()).toarray()
    np.testing.assert_allclose(counts, counted, rtol=1e-5)


def test_slopes_are_the_derivatives():
    g = generator()
    rows = torch.randn((3, 6, 4), generator=g, dtype=torch.float64, requires_grad=True)
    others = torch.randn((5, 4), generator=g, dtype=torch.float64, requires_grad=True)
    weights = window_weights(6, 3).double()
    log_sigmoid = torch.nn.functional.logsigmoid
    near = -(weights * log_sigmoid(rows @ rows.mT)).sum()
    each = -log_sigmoid(-(rows @ others.T)).mean(2)  # [W, L]: a negative of a place
    plain = (near + 7 * (each * weights.sum(1)).sum()) / (3 * weights.sum())
    plain.backward()
    loss, by_rows, by_others = loss_and_slopes(rows.detach(), others.detach(), weights, 7)
    torch.testing.assert_close(loss, plain.detach())
    torch.testing.assert_close(by_rows, rows.grad)
    torch.testing.assert_close(by_others, others.grad)


def test_noise_is_that_of_the_counts():
    dense = np.triu(ring(60).toarray(), 1)
    dense[0, 1:] += 0.5  # a node that all walks come by
    walker = Walker(scipy.sparse.csr_array(dense + dense.T), 0.25, 4)
    drawn = _noise_distribution(walker, 20, window_weights(20, 10).sum(1), generator()).numpy()
    counted = noise_distribution(count_pairs(walker, 128, 20, 10, generator(1)))
    assert np.abs(drawn - counted).sum() / 2 < 0.06  # 0.037 was measured
    assert drawn[0] == pytest.approx(counted[0], rel=0.05) and counted[0] > 4 / 60  # 0.5 % off was measured


def test_every_node_starts_before_any_starts_again():
    csr = scipy.sparse.block_diag([ring(300), scipy.sparse.csr_array((2, 2))], "csr")
    walker = Walker(scipy.sparse.csr_array(csr), 0.25, 4)
    paths = torch.cat(list(_paths(walker, 5, 7, generator(), generator())))
    assert paths.shape == (7 * 256, 5)
    counts = np.bincount(paths[:1500, 0].numpy(), minlength=302)
    assert (counts[:300] == 5).all() and (counts[300:] == 0).all()


@pytest.mark.parametrize("csr", [ring(400), grid(20)], ids=["ring", "grid"])
def test_both_losses_separate_alike(csr):
    rest, edges = hold_out_edges(csr, 0.1, np.random.default_rng(0))
    walker, settings = Walker(rest, 0.25, 4), Node2VecConfig(dim=32, walks=20, iterations=150)
    found = []
    for vectors in (
        node_vectors(settings, rest, 1),
        train_sampled(walker, 32, 100, 20, 10, 5, generator(1), generator(2)),  # 157 steps
    ):
        vectors = normalised(vectors)
        own = separation(vectors, csr, np.random.default_rng(0))["average_precision"]
        found.append((own, held_out_average_precision(vectors, csr, edges, np.random.default_rng(0))))
    # 0.9997, 0.9991 and 0.9995, 0.9984 on the ring, 0.9985, 0.9903 and 0.9977, 0.9831 on the grid
    assert min(found[1]) > 0.97
    assert found[1] == pytest.approx(found[0], abs=0.015)


def test_lone_nodes_and_repetition():
    csr = scipy.sparse.csr_array(scipy.sparse.block_diag([ring(60), scipy.sparse.csr_array((2, 2))]))
    config = Node2VecConfig(dim=16, walks=6)
    a, b = (node_vectors(config, csr, 1, counted_nodes=0) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert a.dtype == np.float32 and np.isfinite(a).all() and not a[60:].any() and a[:60].any(1).all()
    assert not np.array_equal(a, node_vectors(config, csr, 2, counted_nodes=0))


def test_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = Node2VecConfig(dim=8, walks=2, iterations=2)
    with pytest.raises(ScrflowError, match="no GPU"):
        node_vectors(config.model_copy(update={"device": "cuda"}), ring(20), 1)
    auto = node_vectors(config.model_copy(update={"device": "auto"}), ring(20), 1, counted_nodes=0)
    np.testing.assert_array_equal(auto, node_vectors(config, ring(20), 1, counted_nodes=0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_separates_like_cpu():
    csr = ring(400)
    on = [normalised(node_vectors(Node2VecConfig(dim=32), csr, 1, d, counted_nodes=0)) for d in ("cpu", "cuda")]
    a, b = (separation(v, csr, np.random.default_rng(0))["average_precision"] for v in on)
    assert a == pytest.approx(b, abs=0.01)
