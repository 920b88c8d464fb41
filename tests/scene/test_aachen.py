"""Aachen Day-Night v1.0 and v1.1 in their layouts, made of demo images (SYNTHETIC), read by the project's own configs;
pseudo ground truth of the queries."""

import logging
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from replicas import (
    DAY,
    FOCAL,
    HEIGHT,
    NIGHT,
    WIDTH,
    Replica,
    copy_photo,
    db,
    demo_queries,
    replica,
    write_queries,
    write_v10,
)
from small_datasets import built, check_refused

from scrflow.config import SceneStage
from scrflow.core.geometry import pose_error
from scrflow.pipeline.project import Project
from scrflow.scene.colmap_model import View, model_of_views, read_model
from scrflow.scene.lists import pose_line


@pytest.fixture(scope="module")
def rep() -> Replica:
    return replica(count=8, radial=0.0, vary_focal=False)


@pytest.fixture
def v10(rep, tmp_path) -> Path:
    return write_v10(tmp_path / "data", rep)


def stage(scene: str, **split) -> SceneStage:
    found = Project("config").scene_stage(scene)
    return found.model_copy(update={"split": found.split.model_copy(update=split)})


def test_v10(v10, rep, tmp_path):
    scene = built(stage("aachen"), v10, tmp_path / "scene")
    assert [v.name for v in scene.mapping] == [db(i) for i in range(8)]
    for i, view in enumerate(scene.mapping):
        assert max(pose_error(view.cam_from_world, rep.poses[i])) < 1e-8
        assert (view.camera.model.name, list(view.camera.params)) == ("SIMPLE_RADIAL", [FOCAL, 256, 192, 0])
    assert {q.name: q.condition for q in scene.queries} == dict.fromkeys(DAY, "day") | dict.fromkeys(NIGHT, "night")
    assert scene.query_poses == {} and not (tmp_path / "scene/query_poses.txt").exists()
    truth = demo_queries()
    for query in scene.queries:
        np.testing.assert_allclose(query.camera.params[0], truth[query.name].camera.params[0])
    model = read_model(tmp_path / "scene/mapping")
    assert model.num_points3D() == len(rep.xyz)
    assert model.compute_num_observations() == sum(len(seen) for seen in rep.seen)
    assert model.compute_mean_reprojection_error() < 1e-4  # 8 digits in the file


def test_v11_is_a_colmap_model(rep, tmp_path):
    root = tmp_path / "data"
    params = [FOCAL, WIDTH / 2, HEIGHT / 2, 0]
    camera = pycolmap.Camera(model="SIMPLE_RADIAL", width=WIDTH, height=HEIGHT, params=params)
    names = [db(0), db(1), *(f"sequences/nexus4_sequences/sequence_1/aachen_{i:05d}.jpg" for i in range(2, 8))]
    for name, photo in zip(names, rep.photos, strict=True):
        copy_photo(photo, root / "images_upright" / name)
    folder = root / "3D-models/aachen_v_1_1"
    folder.mkdir(parents=True)
    model_of_views([View(n, camera, p) for n, p in zip(names, rep.poses, strict=True)]).write_binary(str(folder))
    for newer in ("rigs.bin", "frames.bin"):  # the published model is older than these
        (folder / newer).unlink()
    write_queries(root, "images_upright")
    scene = built(stage("aachen-v11"), root, tmp_path / "scene")
    assert [v.name for v in scene.mapping] == names
    for view, pose in zip(scene.mapping, rep.poses, strict=True):
        assert max(pose_error(view.cam_from_world, pose)) < 1e-8
    assert sorted(q.condition for q in scene.queries) == ["day"] * 3 + ["night"] * 2


OTHER = "IMG_other.jpg 1 0 0 0 0 0 0\n"


def pose_lines(names: dict[str, str]) -> str:
    truth = demo_queries()
    return "".join(f"{pose_line(name, truth[query].cam_from_world)}\n" for query, name in names.items())


@pytest.mark.parametrize("base", [True, False])
def test_query_poses_of_ones_own(v10, tmp_path, caplog, base):
    names = {q: q.rsplit("/", 1)[1] if base else q for q in (*DAY, NIGHT[0])}
    (v10 / "pgt.txt").write_text(pose_lines(names) + OTHER)
    with caplog.at_level(logging.INFO, "scrflow"):
        scene = built(stage("aachen", query_poses="pgt.txt"), v10, tmp_path / "scene")
    assert sorted(scene.query_poses) == sorted([*DAY, NIGHT[0]])
    truth = demo_queries()
    for name, pose in scene.query_poses.items():
        assert max(pose_error(pose, truth[name].cam_from_world)) < 1e-9
    assert "1 of 5 names are no queries: IMG_other.jpg" in caplog.text
    assert "reference poses of 4 of 5 queries" in caplog.text


TWICE = pose_lines({DAY[0]: DAY[0], DAY[1]: DAY[0].rsplit("/", 1)[1]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"pgt\.txt: no such file"),
        (OTHER, r"pgt\.txt: none of its 1 names is a query"),
        (TWICE, r"pgt\.txt: .* is there twice, also as"),
    ],
)
def test_query_poses_faults(v10, tmp_path, text, message):
    if text is not None:
        (v10 / "pgt.txt").write_text(text)
    check_refused(stage("aachen", query_poses="pgt.txt"), v10, tmp_path / "scene", message)
