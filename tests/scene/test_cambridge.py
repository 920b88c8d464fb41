"""Cambridge Landmarks in its layout, made of demo images (SYNTHETIC): lists of poses, VisualSFM's intrinsics, PNGs."""

import logging
from pathlib import Path

import numpy as np
import pytest
from replicas import COUNT, HEIGHT, MAPPING, WIDTH, Replica, name, replica, write_cambridge, write_list
from small_datasets import built, poses_of, source_for, stage_of

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pose_error, rays_from_pixels
from scrflow.scene import Scene
from scrflow.scene.build import build_scene
from scrflow.scene.colmap_model import read_model

STAGE = stage_of(source_for("cambridge", folder="ShopFacade"))


@pytest.fixture(scope="module")
def rep() -> Replica:
    return replica(COUNT, radial=0.06)


@pytest.fixture
def dataset(rep, tmp_path) -> Path:
    """As the archive unpacks: a folder of the scene in the root."""
    write_cambridge(tmp_path / "data/ShopFacade", rep)
    return tmp_path / "data"


def check(scene: Scene, rep: Replica, mapping: list[int], queries: list[int]) -> None:
    assert [v.name for v in scene.mapping] == [name(i) for i in mapping]
    assert [(q.name, q.condition) for q in scene.queries] == [(name(i), "all") for i in queries]
    poses = poses_of(scene)
    cameras = {v.name: v.camera for v in (*scene.mapping, *scene.queries)}
    corners = np.array([[0, 0], [WIDTH, 0], [WIDTH / 2, HEIGHT], [100, 300]], float)
    for i in (*mapping, *queries):
        t, r = pose_error(poses[name(i)], rep.poses[i])
        assert t < 2e-6 and r < 2e-4, "six decimals in the lists"
        m = (corners - (WIDTH / 2, HEIGHT / 2)) / rep.focal[i]
        ideal = m * (1 + rep.radial[i] * (m**2).sum(1, keepdims=True))
        assert np.abs(rays_from_pixels(cameras[name(i)], corners) - ideal).max() * rep.focal[i] < 0.15


def test_lists_model_and_photos(dataset, rep, tmp_path):
    check(built(STAGE, dataset, tmp_path / "scene"), rep, list(range(MAPPING)), list(range(MAPPING, COUNT)))
    model = read_model(tmp_path / "scene/mapping")
    assert model.num_images() == MAPPING
    expected = sum(sum(i < MAPPING for i, _ in seen) >= 2 for seen in rep.seen)
    assert model.num_points3D() == expected > 50
    assert model.compute_mean_reprojection_error() < 0.1


def test_images_that_the_model_lacks_or_that_are_far_away_are_left_out_and_named(dataset, rep, tmp_path, caplog):
    """As ACE's set-up does: 2 is not in the model, 7 (a query) is 20 km away."""
    folder = dataset / "ShopFacade"
    text = (folder / "reconstruction.nvm").read_text()
    (folder / "reconstruction.nvm").write_text(text.replace("seq1/frame00003.jpg", "seq1/frame99999.jpg"))
    lines = (folder / "dataset_test.txt").read_text().split("\n")
    fields = lines[4].split()
    lines[4] = " ".join([fields[0], "20000", *fields[2:]])
    (folder / "dataset_test.txt").write_text("\n".join(lines))
    with caplog.at_level(logging.WARNING, "scrflow"):
        scene = built(STAGE, dataset, tmp_path / "scene")
    check(scene, rep, [0, 1, 3, 4, 5], [6, 8])
    assert "left out 1 of 9 images, not in reconstruction.nvm: seq1/frame00003.png" in caplog.text
    assert "left out 1 of 9 images, pose over 10000 m away: seq3/frame00008.png" in caplog.text


def test_poses_that_differ_from_the_model_are_told(dataset, tmp_path, caplog):
    moved = replica(COUNT, radial=0.06)
    moved.poses[1, :, 3] += 0.5
    write_list(dataset / "ShopFacade/dataset_train.txt", moved, range(MAPPING))
    with caplog.at_level(logging.WARNING, "scrflow"):
        build_scene(STAGE, dataset, tmp_path / "scene")
    assert "1 of 9 images have another pose in reconstruction.nvm than in the lists" in caplog.text
    assert name(1) in caplog.text
    moved.poses[:, :, 3] += 0.5
    write_list(dataset / "ShopFacade/dataset_train.txt", moved, range(MAPPING))
    with pytest.raises(ScrflowError, match=r"ShopFacade: 6 of 9 images have another pose .* not of one reconstruction"):
        build_scene(STAGE, dataset, tmp_path / "scene")
