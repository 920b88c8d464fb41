"""The pictures show what they are said to show: marks of the right colour, from above and not mirrored."""

import math

import numpy as np
import pandas as pd
import pycolmap
import pytest
from graph_helpers import look
from PIL import Image
from scenes import scene_of

from scrflow.config import EvaluateStage
from scrflow.evaluate.figures import ERROR_COLOURS, Reprojection, _error_norm, draw_errors, draw_overlay, ground_plane
from scrflow.scene.colmap_model import View
from scrflow.scene.model import Query, load_scene

CAMERA = pycolmap.Camera(model="PINHOLE", width=64, height=48, params=[50.0, 50.0, 32.0, 24.0])
CONFIG = EvaluateStage(thresholds=((0.25, 2.0), (5.0, 10.0)), unit="m", synthetic=False)


def circle(n: int, radius: float = 10.0) -> list[np.ndarray]:
    angles = np.linspace(0, 2 * math.pi, n, endpoint=False)
    outward = np.stack([np.cos(angles), np.sin(angles), np.zeros(n)], 1)
    return [look(radius * o + [0, 0, 1.7], [0, 0, 0.1] - o, (0, 0, 1)) for o in outward]


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def count_near(image: np.ndarray, colour, tolerance: int = 12) -> int:
    rgb = np.asarray(colour[:3]) * 255 if max(colour[:3]) <= 1 else np.asarray(colour[:3])
    return int((np.abs(image - rgb).max(-1) <= tolerance).sum())


@pytest.mark.parametrize("up", [(0, 0, 1), (0, -1, 0), (0.5, -0.6, 0.3)])
def test_plane_lies_under_upright_cameras(up):
    up = np.asarray(up, float) / np.linalg.norm(up)
    side = np.cross(up, [0.3, 0.2, 0.9])
    other = np.cross(up, side)
    # half look slightly up, half slightly down
    tilted = [(i, s, t) for i in range(6) for s in (1, -1) for t in (0.1, -0.1)]
    poses = [look(i * side, s * other + 0.3 * side + t * up, up) for i, s, t in tilted]
    plane = ground_plane(np.stack(poses))
    np.testing.assert_allclose(np.cross(plane.right, plane.forward), up, atol=1e-6)
    np.testing.assert_allclose([plane.right @ plane.right, plane.right @ plane.forward], [1, 0], atol=1e-12)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    root = tmp_path_factory.mktemp("figures")
    mapping = [View(f"m{i:02}.png", CAMERA, p) for i, p in enumerate(circle(24))]
    truth = {f"q{i}.png": p for i, p in enumerate(circle(6, 5.0))}
    queries = [Query(n, CAMERA, "night" if i % 2 else "day") for i, n in enumerate(truth)]
    return load_scene(scene_of(root / "scene", root / "images", mapping, queries, truth))


def table_of(scene, t_err: list[float]) -> pd.DataFrame:
    rows = [(q.name, q.condition, math.isfinite(e), e, e, 50, True) for q, e in zip(scene.queries, t_err, strict=True)]
    return pd.DataFrame(rows, columns=["name", "condition", "localized", "t_err", "r_err", "inliers", "reference"])


def drawn(tmp_path, scene, t_err) -> np.ndarray:
    # estimates to the side of the truth by the error, along world x
    estimates = {}
    for query, error in zip(scene.queries, t_err, strict=True):
        if math.isfinite(error):
            pose = scene.query_poses[query.name].copy()
            pose[:, 3] -= pose[:, 0] * error
            estimates[query.name] = pose
    draw_errors(tmp_path / "errors.png", scene, estimates, table_of(scene, t_err), CONFIG, "square · tiny")
    return pixels(tmp_path / "errors.png")


def test_queries_take_the_colour_of_their_error(tmp_path, scene):
    norm = _error_norm(CONFIG)
    good, bad = ERROR_COLOURS(norm(0.1)), ERROR_COLOURS(norm(4.0))
    # each colour stands in the colour bar, in one line at most of it: the difference is the marks
    left = slice(0, 800)
    all_good, all_bad = (drawn(tmp_path, scene, [e] * 6)[:, left] for e in (0.1, 4.0))
    assert all_good.shape[0] > 700
    assert count_near(all_good, good) > 6 * 60 and count_near(all_good, bad) == 0
    assert count_near(all_bad, bad) > 6 * 60 and count_near(all_bad, good) == 0


def photo_box(image: np.ndarray, grey: float) -> tuple[int, int, int, int]:
    """top, left, height, width of what is of one grey (letters have some such pixels too)."""
    like = np.abs(image - grey).max(-1) < 3
    rows = np.flatnonzero(like.sum(1) > 0.5 * like.sum(1).max())
    columns = np.flatnonzero(like.sum(0) > 0.5 * like.sum(0).max())
    return rows[0], columns[0], np.ptp(rows) + 1, np.ptp(columns) + 1


def test_overlay_marks_keypoints_where_they_are(tmp_path):
    """One inlier of a large error in the upper left, and its line; an outlier in the lower right."""
    photo = Image.new("RGB", (640, 480), (128, 128, 128))
    points = Reprojection(
        np.array([[100.0, 100.0], [120, 100], [500, 400]]),
        np.array([[130.0, 100.0], [120, 100], [np.nan, 0]]),
        np.array([True, True, False]),
    )
    draw_overlay(tmp_path / "o.png", photo, points, "t", False)
    image = pixels(tmp_path / "o.png")
    base = 0.55 * 128 + 0.45 * 255
    top, left, _, width = photo_box(image, base)
    scale = width / 640

    def marks(x0, y0, x1, y1):
        part = image[top + int(y0 * scale) : top + int(y1 * scale), left + int(x0 * scale) : left + int(x1 * scale)]
        return part, int((np.abs(part - base).max(-1) > 30).sum())

    part, changed = marks(90, 90, 140, 110)
    assert changed > 60 and count_near(part, ERROR_COLOURS(1.0), 25) > 20
    assert marks(490, 390, 510, 410)[1] > 5  # faint
    assert marks(200, 200, 450, 350)[1] == 0
