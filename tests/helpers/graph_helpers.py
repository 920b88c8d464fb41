"""Small scenes and graphs, all made here and synthetic."""

from __future__ import annotations

import numpy as np
import pycolmap
import pytest
from PIL import Image

from scrflow.config import PoseListSource, SceneStage, Split
from scrflow.scene.model import View, write_scene


def camera(width=64, height=48, f=50.0):
    return pycolmap.Camera(model="SIMPLE_PINHOLE", width=width, height=height, params=[f, width / 2, height / 2])


def look(centre, forward, up=(0, -1, 0)):
    """cam_from_world [3, 4] of a camera at ``centre`` that looks along ``forward`` (y down)."""
    z = np.asarray(forward, float) / np.linalg.norm(forward)
    x = np.cross(-np.asarray(up, float), z)
    x /= np.linalg.norm(x)
    R = np.stack([x, np.cross(z, x), z])
    return np.column_stack([R, -R @ np.asarray(centre, float)])


def write_small_scene(folder, views, model=None):
    """A scene artifact of grey photos with the given views."""
    root = folder / "photos"
    for view in views:
        (root / view.name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (view.camera.width, view.camera.height), (90, 90, 90)).save(root / view.name)
    config = SceneStage(
        source=PoseListSource(reader="poselist", poses="p.txt"), split=Split(), min_mapping_images=2, unit="m"
    )
    write_scene(
        folder / "scene",
        config=config,
        code="test",
        image_root=root,
        unit="m",
        mapping=views,
        queries=[],
        query_poses={},
        image_sha256={v.name: "0" * 64 for v in views},
        model=model,
    )
    return folder / "scene"


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
