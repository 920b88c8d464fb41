"""Small scenes and graphs, all made here and synthetic."""

import numpy as np
import pycolmap
import pytest
from exif_photos import real

from scrflow.core.geometry import rotation_from_quaternion
from scrflow.graph.frustum import Frusta, harmonic_mean, visible_shares
from scrflow.scene.colmap_model import View


def rng(seed=11):
    return np.random.default_rng(seed)


def kitchen_views(step):
    """Every ``step``-th mapping image of redkitchen; the test is skipped where the scene is not there."""
    kitchen = real("redkitchen")
    poses = {n: np.array(v, float) for n, *v in map(str.split, (kitchen / "poses_sfm.txt").read_text().splitlines())}
    names = (kitchen / "mapping.txt").read_text().split()[::step]
    return [
        View(n, camera(640, 480, poses[n][7]), np.column_stack([rotation_from_quaternion(poses[n][:4]), poses[n][4:7]]))
        for n in names
    ]


def camera(width=64, height=48, f=50.0):
    return pycolmap.Camera(model="SIMPLE_PINHOLE", width=width, height=height, params=[f, width / 2, height / 2])


def look(centre, forward, up=(0, -1, 0)):
    """cam_from_world [3, 4] of a camera at ``centre`` that looks along ``forward`` (y down)."""
    z = np.asarray(forward, float) / np.linalg.norm(forward)
    x = np.cross(-np.asarray(up, float), z)
    x /= np.linalg.norm(x)
    R = np.stack([x, np.cross(z, x), z])
    return np.column_stack([R, -R @ np.asarray(centre, float)])


def frustum_overlap(views, samples, depth_range, rng):
    """Overlap [N, N] of all pairs of views, each pair computed: what frustum_graph must equal to the last bit."""
    frusta = Frusta.of(views, samples, depth_range, rng)
    count = len(frusta)
    seen = np.zeros((count, count))  # [i, j]: weighted share of i's samples that j sees
    for i in range(count):
        others = np.delete(np.arange(count), i)
        seen[i, others] = visible_shares(frusta, frusta.world_samples(i), i, others)
    return harmonic_mean(seen, seen.T)


def sample_frustum(camera, depth_range, count, rng):
    """Points [count, 3] in the camera's frame: pixel uniform over the image, depth (z) uniform."""
    unit = rng.random((count, 3))
    depth = depth_range[0] + unit[:, 2] * (depth_range[1] - depth_range[0])
    pixels = np.column_stack([unit[:, 0] * camera.width, unit[:, 1] * camera.height, np.ones(count)])
    return (pixels @ np.linalg.inv(camera.calibration_matrix()).T) * depth[:, None]


@pytest.fixture
def ring_views():
    """12 views on a circle of 0.3 m, looking outwards, and one far away."""
    angles = 2 * np.pi * np.arange(12) / 12
    views = [
        View(
            f"ring/{i:02d}.png", camera(), look([0.3 * np.sin(a), 0.02 * i, 0.3 * np.cos(a)], [np.sin(a), 0, np.cos(a)])
        )
        for i, a in enumerate(angles)
    ]
    return [*views, View("zz_alone.png", camera(), look([500, 0, 0], [1, 0, 0]))]
