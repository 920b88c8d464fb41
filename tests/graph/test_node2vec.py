"""Node2Vec: walks against exact transition probabilities, losses against autograd, the stage, the reference engine."""

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse
import torch
from graph_helpers import frustum_overlap, kitchen_views, rng
from scenes import write_graph

from scrflow.config import Node2VecConfig, Node2VecStage
from scrflow.core.errors import ScrflowError
from scrflow.graph import node2vec
from scrflow.graph.node2vec import (
    PYTHON_VARIABLE,
    balanced_average_precision,
    embed,
    held_out_average_precision,
    hold_out_edges,
    node_vectors,
    normalised,
    reference_python,
    separation,
)
from scrflow.graph.node2vec.pyg import UnweightedWalker, loss_and_gradient, window_pairs
from scrflow.graph.node2vec.skipgram import (
    Walker,
    count_pairs,
    loss_and_slopes,
    train_sampled,
    window_weights,
)
from scrflow.storage.artifact import read_json

SMALL = {"dim": 32, "walks": 20, "iterations": 150}


def ring(nodes, reach=4):
    """Synthetic: nodes on a ring, linked to the ``reach`` nearest on each side, weights falling with distance."""
    d = np.abs(np.arange(nodes)[:, None] - np.arange(nodes))
    d = np.minimum(d, nodes - d)
    return scipy.sparse.csr_array(np.where((d > 0) & (d <= reach), 1 - d / (reach + 1), 0))


def grid(side):
    """Synthetic: a grid with links of length 1 (weight 1) and sqrt 2 (weight 0.5)."""
    xy = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
    d = np.abs(xy[:, None] - xy).max(-1)
    straight = np.abs(xy[:, None] - xy).sum(-1) == 1
    return scipy.sparse.csr_array(np.where(straight, 1.0, np.where(d == 1, 0.5, 0.0)))


def kitchen():
    """Frustum overlap of every third mapping image of redkitchen, from its poses alone."""
    overlap = frustum_overlap(tuple(kitchen_views(3)), 256, (0.1, 8.0), rng(1))
    return scipy.sparse.csr_array(np.where(overlap >= 0.2, overlap, 0))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def named(path, csr):
    """The graph's artifact, of images a/000.png, a/001.png ..."""
    return write_graph(path, csr, (f"a/{i:03d}.png" for i in range(csr.shape[0])))


@pytest.mark.parametrize(("p", "q"), [(0.25, 4.0), (4.0, 0.25), (1.0, 1.0)])
@pytest.mark.parametrize("kind", [Walker, UnweightedWalker])
def test_second_order_transitions_are_exact(p, q, kind):
    # from 0 over 1: back to 0, to 2 (next to 0), to 3 and 4 (not next to 0)
    edges = {(0, 1): 1.0, (1, 2): 2.0, (0, 2): 0.5, (1, 3): 1.0, (1, 4): 3.0, (3, 4): 1.0}
    dense = np.zeros((6, 6))  # node 5 is alone
    for (i, j), w in edges.items():
        dense[i, j] = dense[j, i] = w
    walker = kind(scipy.sparse.csr_array(dense), p, q)
    if kind is UnweightedWalker:
        dense = np.sign(dense)
    count = 200_000
    t, v = torch.zeros(count, dtype=torch.int64), torch.ones(count, dtype=torch.int64)
    x = walker._second_order(t, v, generator())
    expected = dense[1] * [1 / p, 0, 1, 1 / q, 1 / q, 0]
    expected /= expected.sum()
    np.testing.assert_allclose(np.bincount(x.numpy(), minlength=6) / count, expected, atol=0.005)
    first = walker.walk(v, 2, generator())[:, 1]
    np.testing.assert_allclose(np.bincount(first.numpy(), minlength=6) / count, dense[1] / dense[1].sum(), atol=0.005)


def test_pairs_are_counted_as_by_hand():
    csr = scipy.sparse.csr_array(np.array([[0, 1.0], [1.0, 0]]))
    # walks 0101 and 1010, window 2: distance 1 weighs 1 (3 pairs a walk), distance 2 weighs 1/2 (2 a walk)
    counts = count_pairs(Walker(csr, 1, 1), 1, 4, 2, generator()).toarray()
    np.testing.assert_allclose(counts, [[2, 6], [6, 2]])


def test_balanced_average_precision():
    assert balanced_average_precision(np.array([3.0, 2, 1, 0]), np.array([1, 1, 0, 0], bool)) == 1
    # precision at the two hits: 1/2 over (1/2 + 0), 1 over (1 + 1/3)
    hits = np.array([1, 0, 1, 0, 0], bool)
    assert balanced_average_precision(np.array([5.0, 4, 3, 2, 1]), hits) == pytest.approx((1 + 1 / (1 + 1 / 3)) / 2)
    assert balanced_average_precision(np.zeros(10), np.arange(10) < 9) == pytest.approx(0.5)
    assert balanced_average_precision(np.zeros(3), np.ones(3, bool)) is None


def test_held_out_edges_leave_no_node_alone():
    csr = ring(40, 2)
    rest, edges = hold_out_edges(csr, 0.2, rng(0))
    assert len(edges) == 16 and rest.nnz == csr.nnz - 32
    assert (np.diff(rest.indptr) > 0).all() and (rest.toarray()[edges[:, 0], edges[:, 1]] == 0).all()


def stage(**settings):
    return Node2VecStage(node2vec=Node2VecConfig(**{**SMALL, **settings}), seed=1)


def test_stage(tmp_path):
    dense = np.zeros((32, 32))
    dense[1:31, 1:31] = ring(30).toarray()  # the first and the last image are alone
    graph = named(tmp_path / "g.npz", scipy.sparse.csr_array(dense))
    for name in ("a", "b"):
        embed(stage(), graph, tmp_path / f"{name}.h5", tmp_path / f"{name}.json", 1)
    for suffix in ("h5", "json"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    with h5py.File(tmp_path / "a.h5") as file:
        encoding, names = file["encoding"][:], tuple(file["names"].asstr()[:])
    assert encoding.shape == (32, 32) and encoding.dtype == np.float32 and np.isfinite(encoding).all()
    assert names[5] == "a/005.png"
    metrics = read_json(tmp_path / "a.json", node2vec.METRICS_KIND)
    assert metrics["isolated"] == 2 and metrics["held_out_average_precision"] > 0.6  # of 12 edges


def test_no_separation_is_an_error(tmp_path):
    graph = named(tmp_path / "g.npz", ring(40))
    with pytest.raises(ScrflowError, match="does not separate"):
        embed(stage(iterations=1, min_average_precision=0.97), graph, tmp_path / "a.h5", tmp_path / "a.json", 1)
    assert not (tmp_path / "a.h5").exists()
    assert json.loads((tmp_path / "a.json").read_text())["average_precision"] < 0.97


def test_complete_graph_and_empty_graph(tmp_path):
    embed(stage(), named(tmp_path / "g.npz", scipy.sparse.csr_array(1 - np.eye(5))), tmp_path / "a.h5",
          tmp_path / "a.json", 1)  # fmt: skip
    assert read_json(tmp_path / "a.json", node2vec.METRICS_KIND)["average_precision"] is None
    empty = named(tmp_path / "e.npz", scipy.sparse.csr_array((5, 5)))
    with pytest.raises(ScrflowError, match="no edge"):
        embed(stage(), empty, tmp_path / "b.h5", tmp_path / "b.json", 1)


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


@pytest.mark.parametrize("slab", [1 << 20, 20])
def test_pyg_loss_is_the_plain_formula(slab, monkeypatch):
    """PyTorch Geometric's Node2Vec.loss, written out by windows, with saturated pairs: value and gradient."""
    monkeypatch.setattr("scrflow.graph.node2vec.pyg._SLAB", slab)
    g = generator()
    table = 4 * torch.randn((9, 5), generator=g)
    paths = [torch.randint(9, (40, 7), generator=g) for _ in range(2)]
    weights = table.clone().requires_grad_()
    terms = [[], []]
    for path, sign, found in zip(paths, (1, -1), terms, strict=True):
        for walk in path.tolist():
            for at in range(len(walk) - 4 + 1):
                start, *rest = walk[at : at + 4]
                for node in rest:
                    p = torch.sigmoid(weights[start] @ weights[node])
                    found.append(-torch.log((p if sign > 0 else 1 - p) + 1e-15))
    plain = torch.stack(terms[0]).mean() + torch.stack(terms[1]).mean()
    plain.backward()
    assert weights.grad.abs().max() > 0.01 and max(float(t.detach()) for t in terms[1]) > 34  # saturated
    gradient = torch.empty_like(table)
    loss = loss_and_gradient(table, *(window_pairs(path, 9, 4) for path in paths), gradient)
    # float32 sums in another order; measured 1.9e-6 of 24, 3.9e-7 of the largest gradient 0.42
    torch.testing.assert_close(loss, plain.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, weights.grad, rtol=1e-5, atol=1e-6)


def test_pyg_table_is_taken_as_it_is(tmp_path):
    csr = scipy.sparse.csr_array(scipy.sparse.block_diag([ring(300), scipy.sparse.csr_array((1, 1))]))
    config = {"engine": "pyg", "walks": 2, "negatives": 1, "iterations": 150, "min_average_precision": 0.7}
    embed(stage(**config), named(tmp_path / "g.npz", csr), tmp_path / "a.h5", tmp_path / "a.json", 1)
    with h5py.File(tmp_path / "a.h5") as file:
        encoding = file["encoding"][:]
    np.testing.assert_array_equal(encoding, node_vectors(stage(**config).node2vec, csr, 1))
    assert 0.3 < encoding.std() < 1.5 and encoding[300].any()


@pytest.mark.parametrize("csr", [ring(400), grid(20)], ids=["ring", "grid"])
def test_both_losses_separate_alike(csr):
    rest, edges = hold_out_edges(csr, 0.1, rng(0))
    walker, settings = Walker(rest, 0.25, 4), Node2VecConfig(dim=32, walks=20, iterations=150)
    found = []
    for vectors in (
        node_vectors(settings, rest, 1),
        train_sampled(walker, 32, 100, 20, 10, 5, generator(1), generator(2)),  # 157 steps
    ):
        vectors = normalised(vectors)
        own = separation(vectors, csr, rng(0))["average_precision"]
        found.append((own, held_out_average_precision(vectors, csr, edges, rng(0))))
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("counted", [None, 0])
def test_gpu_separates_like_cpu(counted):
    csr, limit = ring(400), {} if counted is None else {"counted_nodes": counted}
    on = [normalised(node_vectors(Node2VecConfig(dim=32), csr, 1, d, **limit)) for d in ("cpu", "cuda")]
    a, b = (separation(v, csr, rng(0))["average_precision"] for v in on)
    assert a == pytest.approx(b, abs=0.01)


def test_faults_of_the_reference_environment(monkeypatch, tmp_path):
    config = Node2VecConfig(engine="node2vec")
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "none/python"))
    with pytest.raises(ScrflowError, match="make node2vec-env"):
        node_vectors(config, ring(10), 1)
    monkeypatch.setenv(PYTHON_VARIABLE, sys.executable)
    monkeypatch.setattr("scrflow.graph.node2vec._WORKER", Path("no-such-worker.py"))
    with pytest.raises(ScrflowError, match=r"engine node2vec .* failed"):
        node_vectors(config, ring(10), 1)


@pytest.mark.long
@pytest.mark.parametrize("graph", ["ring", "grid", "kitchen"])
def test_engines_agree(graph):
    """Link-prediction average precision of the torch engine and of the package within 0.01."""
    try:
        reference_python()
    except ScrflowError as error:
        pytest.skip(str(error))
    csr = {"ring": lambda: ring(50), "grid": lambda: grid(7), "kitchen": kitchen}[graph]()
    precision = {}
    for engine in ("torch", "node2vec"):
        config = Node2VecConfig(engine=engine, dim=64, walks=32, epochs=8)
        vectors = node_vectors(config, csr, 1)
        precision[engine] = separation(normalised(vectors), csr, rng(0))["average_precision"]
    print(graph, precision)
    if graph == "grid":
        np.testing.assert_array_equal(vectors, node_vectors(config, csr, 1))
    assert precision["torch"] == pytest.approx(precision["node2vec"], abs=0.01)
