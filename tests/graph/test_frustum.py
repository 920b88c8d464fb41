"""The frustum graph: the overlap against a plain loop; pruned pairs against all pairs."""

import numpy as np
import pytest
import scipy.sparse
from graph_helpers import camera, frustum_overlap, kitchen_views, look, rng, sample_frustum

from scrflow.graph.frustum import Frusta, frustum_graph, tube_graph
from scrflow.scene.colmap_model import View

DEPTHS = (0.1, 8.0)


def plain_overlap(views, count, depths, generator):
    """R-SCoRe's overlap, one sample at a time."""
    n = len(views)
    share = [[0.0] * n for _ in range(n)]
    for i, a in enumerate(views):
        samples = sample_frustum(a.camera, depths, count, generator)
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


def test_overlap_is_the_plain_loop(ring_views):
    generator = np.random.default_rng(3)
    views = list(ring_views)
    for k in range(4):  # unordered views too, with another focal length
        forward = generator.normal(size=3)
        views.append(View(f"r{k}", camera(40, 60, 35.0), look(generator.normal(size=3), forward)))
    fast = frustum_overlap(tuple(views), 200, DEPTHS, rng(7))
    plain = plain_overlap(views, 200, DEPTHS, rng(7))
    assert (plain > 0).sum() > 40
    np.testing.assert_allclose(fast, plain, atol=1e-6)
    np.testing.assert_array_equal(fast, fast.T)


def plain_tube_overlap(views, count, depths, unit):
    """The overlap of R-SCoRe's public code, one sample at a time; ``unit`` [N, count, 3] are its draws in 0..1."""
    n = len(views)
    share = np.zeros((n, n))
    for i, a in enumerate(views):
        R_i, t_i = a.cam_from_world[:, :3], a.cam_from_world[:, 3]
        f, cx, cy = a.camera.params
        for u, v, z in zip(unit[i, :, 0], unit[i, :, 1], unit[0, :, 2], strict=True):
            # uniform between the image's borders on the plane z = 1; the depth of a sample is that of all images
            x, y = (u * a.camera.width - cx) / f, (v * a.camera.height - cy) / f
            sample = np.array([x, y, depths[0] + z * (depths[1] - depths[0])])
            for j, b in enumerate(views):
                if i == j:
                    continue
                turned = b.cam_from_world[:, :3] @ R_i.T @ sample
                seen = turned + b.cam_from_world[:, 3] - b.cam_from_world[:, :3] @ R_i.T @ t_i
                g, px, py = b.camera.params
                place = seen[:2] / seen[2]
                low, high = np.array([-px, -py]) / g, np.array([b.camera.width - px, b.camera.height - py]) / g
                if depths[0] < seen[2] < depths[1] and (low <= place).all() and (place < high).all():
                    cosine = turned @ seen / np.linalg.norm(turned) / np.linalg.norm(seen)
                    share[i, j] += (cosine + 1) / 2 / count
    total = share + share.T
    overlap = np.divide(2 * share * share.T, total, out=np.zeros((n, n)), where=total > 0)
    return np.where(overlap < 0.2, 0, overlap)


def test_tube_overlap_is_the_plain_loop_of_the_public_code(ring_views):
    views = [*ring_views, *kitchen_views(20)]
    unit = Frusta.of(views, 100, DEPTHS, rng(7)).unit_samples(0, len(views))
    graph = tube_graph(views, 100, DEPTHS, 0.2, rng(7))
    plain = plain_tube_overlap(views, 100, DEPTHS, unit)
    assert graph.nnz == (plain > 0).sum() > 40
    np.testing.assert_allclose(graph.toarray(), plain, atol=1e-12)  # measured 4e-16
    parts = np.arange(len(views)) % 2
    apart = tube_graph(views, 100, DEPTHS, 0.2, rng(7), parts).toarray()
    np.testing.assert_array_equal(apart, np.where(parts[:, None] == parts, graph.toarray(), 0))


def random_views(count, spread, seed=0, focal=(20.0, 70.0)):
    """Synthetic: cameras in a flat box of ``spread`` m, any direction, images of 64 x 48 with fields of view of 49 to
    116 degrees along the longer side."""
    g = np.random.default_rng(seed)
    focals = g.uniform(*focal, 4)
    return [
        View(f"{i:04d}", camera(f=focals[g.integers(4)]), look(g.normal(0, spread, 3) * [1, 0.1, 1], g.normal(size=3)))
        for i in range(count)
    ]


def streets(count, offset=(0.0, 0.0, 0.0)):
    """Synthetic: a street with side streets every 40 m; cameras every 2 m that look along it, across it or back."""
    g = np.random.default_rng(3)
    views = []
    for i in range(count):
        heading = g.integers(0, 4) * np.pi / 2 + g.normal(0, 0.25)
        place = np.array([g.uniform(-3, 3), 0, 2.0 * i]) if i % 3 else np.array([g.uniform(-60, 60), 0, 40 * (i // 20)])
        views.append(
            View(f"{i:04d}", camera(f=60.0), look(place + np.array(offset), [np.sin(heading), 0, np.cos(heading)]))
        )
    return views


def by_all_pairs(views, samples, depths, least):
    dense = frustum_overlap(views, samples, depths, rng())
    return scipy.sparse.csr_array(np.where(dense >= least, dense, 0.0))


def assert_same(a, b):
    for key in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(a, key), getattr(b, key))


SCENES = {
    "one room": (lambda: random_views(90, 2.0), (0.1, 8.0)),
    "spread": (lambda: random_views(150, 40.0, 1), (0.1, 20.0)),
    "wide and far apart": (lambda: random_views(90, 300.0, 2, focal=(12.0, 20.0)), (0.1, 10.0)),
    "streets": (lambda: streets(200), (0.1, 50.0)),
    "streets in UTM": (lambda: streets(80, (5e5, 0, 5.6e6)), (0.1, 50.0)),
    "redkitchen": (lambda: kitchen_views(2), (0.1, 8.0)),
}


@pytest.mark.parametrize("least", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("scene", SCENES)
def test_same_bytes_as_all_pairs(scene, least):
    make, depths = SCENES[scene]
    views = make()
    expected = by_all_pairs(views, 128, depths, least)
    assert_same(frustum_graph(views, 128, depths, least, rng()), expected)
    assert expected.nnz > 40 or least > 0.5


def test_chunks_change_no_byte(monkeypatch):
    views = streets(130)
    expected = frustum_graph(views, 200, (0.1, 50.0), 0.2, rng())
    monkeypatch.setattr("scrflow.graph.frustum._PROJECTIONS_AT_ONCE", 600)
    monkeypatch.setattr("scrflow.graph.frustum._BLOCK", 7)
    assert_same(frustum_graph(views, 200, (0.1, 50.0), 0.2, rng()), expected)


def test_lenses_too_wide_for_any_distance():
    # 127 and 116 degrees: each stands at the edge of the other's image, 2 km away, and many rays point the same way
    views = [
        View("a", camera(f=16.0), look([0, 0, 0], [1.2, 0, 1])),
        View("b", camera(f=16.0), look([0, 0, 2000], [1.2, 0, -1])),
    ]
    views += [View(f"n{k}", camera(f=60.0), look([0, 0, 9.0 * k], [0, 0, 1])) for k in range(150)]
    graph = frustum_graph(views, 500, (0.1, 10.0), 0.2, rng())
    assert graph[0, 1] >= 0.2
    assert_same(graph, by_all_pairs(views, 500, (0.1, 10.0), 0.2))


def test_rooms_have_no_edge_between_them():
    views = random_views(60, 2.0)
    rooms = np.arange(60) % 2
    whole = frustum_graph(views, 128, (0.1, 8.0), 0.1, rng()).toarray()
    apart = frustum_graph(views, 128, (0.1, 8.0), 0.1, rng(), parts=rooms).toarray()
    same = rooms[:, None] == rooms
    np.testing.assert_array_equal(apart, np.where(same, whole, 0))
    assert whole[~same].any()


def test_nothing_overlaps():
    views = [View(f"{k}", camera(), look([1000.0 * k, 0, 0], [0, 0, 1])) for k in range(3)]
    graph = frustum_graph(views, 64, (0.1, 8.0), 0.0, rng())
    assert graph.shape == (3, 3) and graph.nnz == 0
    assert frustum_graph(views[:1], 64, (0.1, 8.0), 0.2, rng()).nnz == 0
