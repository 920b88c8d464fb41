"""Readers, split and validation on small SYNTHETIC datasets (noise images, made-up poses)."""

from pathlib import Path

import numpy as np
import pycolmap
import pytest
from small_datasets import (
    LISTS,
    built,
    change,
    photo,
    pose,
    source_for,
    stage_of,
    write_dsac,
    write_nerfstudio,
    write_poselist,
)

from scrflow.config import Split
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pose_error
from scrflow.scene import load_scene
from scrflow.scene.build import build_scene
from scrflow.scene.colmap_model import View, model_with_points
from scrflow.storage.artifact import sha256_file
from scrflow.storage.fetch import list_path, write_list

POSELIST = stage_of(source_for("poselist", poses="poses.txt"), LISTS)
NERFSTUDIO = stage_of(source_for("nerfstudio"), Split(every=6))
DSAC = stage_of(source_for("dsac"))


def colmap(**split):
    return stage_of(source_for("colmap"), Split(**split))


@pytest.fixture
def dataset(tmp_path) -> Path:
    write_poselist(tmp_path / "data")
    return tmp_path / "data"


def test_poselist_round_trip(dataset, tmp_path):
    scene = built(POSELIST, dataset, tmp_path / "scene")
    assert [v.name for v in scene.mapping] == [f"im/{i}.png" for i in range(4)]
    assert [(q.name, q.condition) for q in scene.queries] == [("im/4.png", "day"), ("im/5.png", "day")]
    for i, view in enumerate(scene.mapping):
        np.testing.assert_allclose(view.cam_from_world, pose(i), atol=1e-12)
        assert view.camera.model.name == "SIMPLE_PINHOLE" and list(view.camera.params) == [50, 32, 24]
    np.testing.assert_allclose(scene.query_poses["im/5.png"], pose(5), atol=1e-12)
    assert scene.image_path("im/0.png").is_file()


@pytest.mark.parametrize("name", ["poses.txt", "mapping.txt", "im/2.png", "im/5.png"])
def test_a_scene_is_read_from_what_was_fetched(dataset, tmp_path, name):
    """Each of these would be read otherwise: a pose changed in a digit, one image fewer, another photo."""
    files = [path for path in dataset.rglob("*") if path.is_file()]
    write_list(dataset, "room.zip", {path.relative_to(dataset).as_posix(): sha256_file(path) for path in files})
    build_scene(POSELIST, dataset, tmp_path / "right")
    file = dataset / name
    if name.endswith(".png"):
        photo(file, 99)
    elif name == "poses.txt":
        file.write_text(file.read_text().replace(" 1.0 50.0", " 1.5 50.0", 1))
    else:
        file.write_text("\n".join(file.read_text().split()[:3]) + "\n")
    with pytest.raises(ScrflowError, match=f"{name}: is not what was fetched"):
        build_scene(POSELIST, dataset, tmp_path / "scene")
    list_path(dataset, "room.zip").unlink()
    build_scene(POSELIST, dataset, tmp_path / "scene")


def test_the_same_input_gives_the_same_bytes_and_another_photo_another_digest(dataset, tmp_path):
    for name in ("a", "b"):
        build_scene(POSELIST, dataset, tmp_path / name)
    for path in sorted((tmp_path / "a").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path
    photo(dataset / "im/0.png", 99)
    build_scene(POSELIST, dataset, tmp_path / "b")
    assert load_scene(tmp_path / "a").stamp.digest != load_scene(tmp_path / "b").stamp.digest


def test_damaged_artifacts_are_told(dataset, tmp_path):
    out = tmp_path / "scene"
    build_scene(POSELIST, dataset, out)
    (dataset / "im/0.png").unlink()
    with pytest.raises(ScrflowError, match=r"im/0\.png: image of the scene .* is gone"):
        load_scene(out)
    photo(dataset / "im/0.png", 0)
    for name, damage in (("queries.txt", b""), ("mapping/images.bin", b"\x01" * 40), ("more.txt", b"")):
        before = (out / name).read_bytes() if (out / name).exists() else None
        (out / name).write_bytes(damage)
        with pytest.raises(ScrflowError, match=r"damaged scene \(its files are not those that were written"):
            load_scene(out)
        (out / name).unlink() if before is None else (out / name).write_bytes(before)
    assert load_scene(out)
    with pytest.raises(ScrflowError, match="scene is missing"):
        load_scene(tmp_path / "nowhere")


def colmap_dataset(root: Path, text: bool) -> None:
    camera = pycolmap.Camera(model="OPENCV", width=64, height=48, params=[50, 51, 31, 25, 0.1, -0.02, 0.001, 0.002])
    names = [f"{i}.png" for i in range(6)]
    views = [View(n, camera, pose(i)) for i, n in enumerate(names)]
    for i, name in enumerate(names):
        photo(root / "images" / name, i)
    # a point seen by images 1, 2 and the query 5, and one seen by 1 and 5 only
    point, view, px = np.array([0, 0, 0, 1, 1]), np.array([1, 2, 5, 1, 5]), np.array([[10.0, 12]] * 3 + [[30, 5]] * 2)
    model = model_with_points(views, np.array([[0.0, 0, 5]] * 2), np.zeros((2, 3), np.uint8), point, view, px)
    (root / "model").mkdir()
    (model.write_text if text else model.write_binary)(str(root / "model"))


@pytest.mark.parametrize("text", [False, True])
def test_colmap_keeps_cameras_and_drops_what_queries_saw(tmp_path, text):
    root = tmp_path / "data"
    colmap_dataset(root, text)
    (root / "night.txt").write_text("5.png\n")
    (root / "day.txt").write_text("# hloc form\n0.png SIMPLE_RADIAL 64 48 55 32 24 0.01\n")
    scene = built(colmap(queries={"night": "night.txt", "day": "day.txt"}), root, tmp_path / "scene")
    assert [v.name for v in scene.mapping] == ["1.png", "2.png", "3.png", "4.png"]
    assert list(scene.mapping[0].camera.params) == [50, 51, 31, 25, 0.1, -0.02, 0.001, 0.002]
    found = [(q.name, q.condition, q.camera.model.name) for q in scene.queries]
    assert found == [("0.png", "day", "SIMPLE_RADIAL"), ("5.png", "night", "OPENCV")]
    np.testing.assert_allclose(scene.query_poses["5.png"], pose(5), atol=1e-9)
    model = pycolmap.Reconstruction(str(tmp_path / "scene/mapping"))
    assert model.num_images() == 4
    assert [sorted(e.image_id for e in p.track.elements) for p in model.points3D.values()] == [[2, 3]]


def test_colmap_without_split_says_so(tmp_path):
    root = tmp_path / "data"
    colmap_dataset(root, text=False)
    with pytest.raises(ScrflowError, match=r"data/model: nothing says which images are queries; give key split\.every"):
        build_scene(colmap(), root, tmp_path / "scene")


def test_nerfstudio_axes_and_intrinsics_by_frame(tmp_path):
    root = tmp_path / "data"
    write_nerfstudio(root, k1=0.1, k2=0.2, p1=0.003, p2=0.004)
    change(root / "transforms.json", r'("file_path": "\./images/2)', r'"fl_x": 70.0, \1')
    scene = built(NERFSTUDIO, root, tmp_path / "scene")
    for i, view in enumerate(scene.mapping, start=1):
        assert max(pose_error(view.cam_from_world, pose(i))) < 1e-9
    assert scene.mapping[0].camera.model.name == "OPENCV"
    assert list(scene.mapping[0].camera.params) == [50, 51, 31, 25, 0.1, 0.2, 0.003, 0.004]
    assert scene.mapping[1].camera.params[0] == 70


FISHEYE = {"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k3": 0.3, "k4": 0.4}


@pytest.mark.parametrize(
    ("values", "model", "params"),
    [
        ({}, "PINHOLE", [50, 51, 31, 25]),
        (FISHEYE, "OPENCV_FISHEYE", [50, 51, 31, 25, 0.1, 0, 0.3, 0.4]),
        ({"k1": 0.1, "k3": 0.3}, "FULL_OPENCV", [50, 51, 31, 25, 0.1, 0, 0, 0, 0.3, 0, 0, 0]),
    ],
)
def test_nerfstudio_camera_models(tmp_path, values, model, params):
    write_nerfstudio(tmp_path / "data", **values)
    camera = built(NERFSTUDIO, tmp_path / "data", tmp_path / "scene").mapping[0].camera
    assert camera.model.name == model and list(camera.params) == params


def test_dsac_layout(tmp_path):
    write_dsac(tmp_path / "data")
    scene = built(DSAC, tmp_path / "data", tmp_path / "scene")
    assert [v.name for v in scene.mapping] == [f"train/rgb/s-{i}.color.png" for i in range(4)]
    assert list(scene.mapping[0].camera.params) == [50, 51, 31, 25]
    assert list(scene.queries[0].camera.params) == [60.5, 32, 24]
    for i, view in enumerate(scene.mapping):
        assert max(pose_error(view.cam_from_world, pose(i))) < 1e-9


def test_dsac_files_belong_together_by_their_names(tmp_path):
    write_dsac(tmp_path / "data")
    (tmp_path / "data/train/poses/s-1.pose.txt").rename(tmp_path / "data/train/poses/s-9.pose.txt")
    with pytest.raises(ScrflowError, match=r"does not belong to s-1"):
        build_scene(DSAC, tmp_path / "data", tmp_path / "scene")
