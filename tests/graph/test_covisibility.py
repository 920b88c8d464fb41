"""Frustum overlap against a plain loop and hand-computed cases; shared points; components; the artifact."""

from __future__ import annotations

import logging

import numpy as np
import pycolmap
import pytest
import scipy.sparse
from graph_helpers import camera, look, write_small_scene

from scrflow.config import CovisibilityStage, GraphConfig
from scrflow.core.cameras import pinhole_matrix
from scrflow.core.errors import ScrflowError
from scrflow.graph.covisibility import (
    Graph,
    build_graph,
    connected_components,
    load_graph,
    report_components,
    shared_points,
)
from scrflow.graph.frustum import frustum_overlap, sample_frustum
from scrflow.scene.model import View, model_of_views

DEPTHS = (0.1, 8.0)


def rng():
    return np.random.default_rng(7)


def plain_overlap(views, count, depths, generator):
    """R-SCoRe's overlap, one sample at a time."""
    n = len(views)
    share = [[0.0] * n for _ in range(n)]
    for i, a in enumerate(views):
        K = pinhole_matrix(a.camera)
        samples = sample_frustum(K, a.camera.width, a.camera.height, depths, count, generator)
        R_i, t_i = a.cam_from_world[:, :3], a.cam_from_world[:, 3]
        for j, b in enumerate(views):
            if i == j:
                continue
            R_j, t_j = b.cam_from_world[:, :3], b.cam_from_world[:, 3]
            f, cx, cy = b.camera.params
            for s in samples:
                world = R_i.T @ (s - t_i)
                X, Y, Z = R_j @ world + t_j
                if Z <= 0:
                    continue
                u, v = f * X / Z + cx, f * Y / Z + cy
                if 0 <= u < b.camera.width and 0 <= v < b.camera.height:
                    to_i = world + R_i.T @ t_i  # world - centre_i
                    to_j = world + R_j.T @ t_j
                    cosine = to_i @ to_j / (np.linalg.norm(to_i) * np.linalg.norm(to_j))
                    share[i][j] += (1 + cosine) / 2 / count
    out = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if share[i][j] + share[j][i] > 0:
                out[i, j] = 2 * share[i][j] * share[j][i] / (share[i][j] + share[j][i])
    return out


def test_samples_fill_the_frustum():
    K = pinhole_matrix(camera())
    points = sample_frustum(K, 64, 48, DEPTHS, 20_000, rng())
    pixels = points @ K.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    np.testing.assert_allclose(pixels.min(0), [0, 0], atol=0.05)
    np.testing.assert_allclose(pixels.max(0), [64, 48], atol=0.05)
    # uniform depth, not uniform volume: the mean is in the middle
    assert points[:, 2].mean() == pytest.approx(4.05, abs=0.05)


def test_overlap_is_the_plain_loop(ring_views):
    generator = np.random.default_rng(3)
    views = list(ring_views)
    for k in range(4):  # unordered views too, with another focal length
        forward = generator.normal(size=3)
        views.append(View(f"r{k}", camera(40, 60, 35.0), look(generator.normal(size=3), forward)))
    fast = frustum_overlap(tuple(views), 200, DEPTHS, rng())
    plain = plain_overlap(views, 200, DEPTHS, rng())
    assert (plain > 0).sum() > 40
    np.testing.assert_allclose(fast, plain, atol=1e-6)
    np.testing.assert_array_equal(fast, fast.T)


def pair(a, b, samples=40_000):
    return frustum_overlap((View("a", camera(), a), View("b", camera(), b)), samples, DEPTHS, rng())[0, 1]


def test_identical_cameras_overlap_wholly():
    pose = look([1, 2, 3], [0.3, 0.1, 1])
    assert pair(pose, pose) == pytest.approx(1.0, abs=1e-12)


def test_opposite_cameras_do_not_overlap():
    assert pair(look([0, 0, 0], [0, 0, 1]), look([0, 0, 0], [0, 0, -1])) == 0
    assert pair(look([0, 0, 0], [0, 0, 1]), look([0, 0, -5], [0, 0, -1])) == 0


def test_cameras_that_face_each_other_hardly_overlap():
    # all rays meet from opposite sides near the axis; with optical axes as directions the weight would be exactly 0
    assert 0 < pair(look([0, 0, 0], [0, 0, 1]), look([0, 0, 8], [0, 0, -1])) < 0.2


def test_quarter_roll_keeps_the_square():
    # 64 x 48 turned by 90 degrees shares a 48 x 48 square with itself: 48 / 64 of each
    roll = np.column_stack([np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]]), np.zeros(3)])
    assert pair(np.eye(3, 4), roll) == pytest.approx(0.75, abs=0.01)


def test_rotation_by_a_known_angle():
    # About the vertical through the centre: rays coincide (weight 1). A pixel at x = tan(phi) is seen in the other at
    # tan(phi - angle), and the height |y| <= b of the other image is |y| <= b (cos + x sin) here.
    angle, a = np.radians(20), 32 / 50
    x = np.linspace(-a, a, 200_001)
    seen = np.tan(np.arctan(x) - angle) >= -a
    height = np.minimum(1, np.cos(angle) + x * np.sin(angle))
    expected = np.trapezoid(np.where(seen, height, 0), x) / (2 * a)
    turned = look([0, 0, 0], [np.sin(angle), 0, np.cos(angle)])
    assert pair(np.eye(3, 4), turned, 200_000) == pytest.approx(expected, abs=5e-3)


def stage(**graph):
    return CovisibilityStage(graph=GraphConfig(**graph), depth_range=DEPTHS, seed=1)


def test_artifact(tmp_path, ring_views, caplog):
    scene = write_small_scene(tmp_path, ring_views)
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


def points_model(views, tracks):
    model = model_of_views(views)
    for image_id in range(1, len(views) + 1):
        count = sum(image_id in t for t in tracks)
        model.image(image_id).points2D = pycolmap.Point2DList(
            [pycolmap.Point2D(np.array([5.0 + k, 5.0])) for k in range(count)]
        )
    used = dict.fromkeys(range(1, len(views) + 1), 0)
    for t in tracks:
        track = pycolmap.Track()
        for image_id in t:
            track.add_element(image_id, used[image_id])
            used[image_id] += 1
        model.add_point3D(np.array([0.0, 0.0, 5.0]), track)
    return model


def test_shared_points(tmp_path, ring_views):
    views = ring_views[:4]
    tracks = [(1, 2)] * 20 + [(2, 3)] * 10 + [(1, 2, 3)] * 10 + [(3, 4)] * 3
    (tmp_path / "m").mkdir()
    points_model(views, tracks).write_binary(str(tmp_path / "m"))
    graph = shared_points(tmp_path / "m", tuple(v.name for v in views), 15).toarray()
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = 2 * 30 / (30 + 40)
    expected[1, 2] = expected[2, 1] = 2 * 20 / (40 + 23)
    np.testing.assert_allclose(graph, expected)


def test_shared_points_of_rooms_and_in_blocks(tmp_path, ring_views, monkeypatch):
    views = ring_views[:4]
    tracks = [(1, 2, 3)] * 20 + [(3, 4)] * 20
    (tmp_path / "m").mkdir()
    points_model(views, tracks).write_binary(str(tmp_path / "m"))
    names = tuple(v.name for v in views)
    whole = shared_points(tmp_path / "m", names, 15)
    monkeypatch.setattr("scrflow.graph.covisibility._ROWS_AT_ONCE", 1)
    assert (shared_points(tmp_path / "m", names, 15) != whole).nnz == 0 and whole.nnz == 8
    rooms = shared_points(tmp_path / "m", names, 15, np.array(["a", "a", "b", "b"]))
    assert {tuple(sorted(pair)) for pair in zip(*rooms.nonzero(), strict=True)} == {(0, 1), (2, 3)}


def test_points_errors(tmp_path, ring_views):
    scene = write_small_scene(tmp_path, ring_views)
    with pytest.raises(ScrflowError, match="needs a COLMAP model"):
        build_graph(stage(kind="points"), scene, tmp_path / "a.npz")
    with pytest.raises(ScrflowError, match="no 3D points"):
        build_graph(stage(kind="points"), scene, tmp_path / "a.npz", scene / "mapping")
    assert not (tmp_path / "a.npz").exists()
