"""The covisibility graph's artifact, its pieces, and the graph of shared 3D points."""

import logging

import numpy as np
import pytest
import scipy.sparse
from scenes import scene_of

from scrflow.config import CovisibilityStage, GraphConfig
from scrflow.core.errors import ScrflowError
from scrflow.graph.covisibility import (
    Graph,
    build_graph,
    connected_components,
    load_graph,
    report_components,
    shared_points,
)
from scrflow.scene.colmap_model import model_with_points


def stage(**graph):
    return CovisibilityStage(graph=GraphConfig(**graph), depth_range=(0.1, 8.0), seed=1)


def test_artifact(tmp_path, ring_views, caplog):
    scene = scene_of(tmp_path / "scene", tmp_path / "photos", ring_views)
    with caplog.at_level(logging.WARNING, "scrflow"):
        build_graph(stage(), scene, tmp_path / "a.npz")
    assert "zz_alone.png" in caplog.text
    build_graph(stage(), scene, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    graph = load_graph(tmp_path / "a.npz")
    assert graph.names == tuple(v.name for v in ring_views)
    dense = graph.csr.toarray()
    np.testing.assert_array_equal(dense, dense.T)
    assert not np.diag(dense).any() and graph.csr.data.min() >= 0.2 and graph.csr.data.max() <= 1
    assert dense[0, 1] > 0 and dense[0, 6] == 0


def test_pieces_are_named(caplog):
    csr = scipy.sparse.csr_array(np.kron(np.eye(2), 1 - np.eye(3)))
    graph = Graph(csr, tuple("abcdef"))
    assert connected_components(graph) == [["a", "b", "c"], ["d", "e", "f"]]
    with caplog.at_level(logging.WARNING, "scrflow"):
        report_components(graph)
    assert "2 pieces" in caplog.text and "3 images (d, e, f)" in caplog.text


def test_shared_points(tmp_path, ring_views, monkeypatch):
    views = ring_views[:4]
    tracks = [(0, 1)] * 20 + [(1, 2)] * 10 + [(0, 1, 2)] * 10 + [(2, 3)] * 3
    point, view = np.repeat(np.arange(len(tracks)), [len(t) for t in tracks]), np.concatenate(tracks)
    places, colours = np.tile([0.0, 0, 5], (len(tracks), 1)), np.zeros((len(tracks), 3), np.uint8)
    (tmp_path / "m").mkdir()
    model_with_points(views, places, colours, point, view, np.ones((len(point), 2))).write_binary(str(tmp_path / "m"))
    names = tuple(v.name for v in views)
    graph = shared_points(tmp_path / "m", names, 15).toarray()
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = 2 * 30 / (30 + 40)
    expected[1, 2] = expected[2, 1] = 2 * 20 / (40 + 23)
    np.testing.assert_allclose(graph, expected)
    monkeypatch.setattr("scrflow.graph.covisibility._ROWS_AT_ONCE", 1)
    np.testing.assert_array_equal(shared_points(tmp_path / "m", names, 15).toarray(), graph)
    rooms = shared_points(tmp_path / "m", names, 15, np.array(["a", "b", "b", "b"]))
    assert {tuple(sorted(pair)) for pair in zip(*rooms.nonzero(), strict=True)} == {(1, 2)}


def test_points_errors(tmp_path, ring_views):
    scene = scene_of(tmp_path / "scene", tmp_path / "photos", ring_views)
    with pytest.raises(ScrflowError, match="needs a COLMAP model"):
        build_graph(stage(kind="points"), scene, tmp_path / "a.npz")
    with pytest.raises(ScrflowError, match="no 3D points"):
        build_graph(stage(kind="points"), scene, tmp_path / "a.npz", scene / "mapping")
    assert not (tmp_path / "a.npz").exists()
