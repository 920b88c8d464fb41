"""Cambridge Landmarks in its layout, made of demo images (SYNTHETIC): lists of poses, VisualSFM's intrinsics, PNGs."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from nvm_replica import HEIGHT, WIDTH, Replica, replica
from replicas_cambridge import COUNT, MAPPING, name, write_cambridge, write_list

from scrflow.config import CambridgeSource, SceneStage, Split
from scrflow.core.cameras import rays_from_pixels
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pose_error
from scrflow.pipeline.project import Project
from scrflow.scene import load_scene
from scrflow.scene.build import build_scene
from scrflow.scene.colmap_model import read_model

REPO = Path(__file__).resolve().parents[2]
STAGE = SceneStage(
    source=CambridgeSource(reader="cambridge", folder="ShopFacade"), split=Split(), min_mapping_images=3, unit="m"
)


@pytest.fixture(scope="module")
def rep() -> Replica:
    return replica(COUNT, radial=0.06)


@pytest.fixture
def dataset(rep, tmp_path) -> Path:
    """As the archive unpacks: a folder of the scene in the root."""
    write_cambridge(tmp_path / "data/ShopFacade", rep)
    return tmp_path / "data"


def check(out: Path, rep: Replica, mapping: list[int], queries: list[int]) -> None:
    scene = load_scene(out)
    assert [v.name for v in scene.mapping] == [name(i) for i in mapping]
    assert [(q.name, q.condition) for q in scene.queries] == [(name(i), "all") for i in queries]
    poses = {v.name: v.cam_from_world for v in scene.mapping} | scene.query_poses
    cameras = {v.name: v.camera for v in (*scene.mapping, *scene.queries)}
    corners = np.array([[0, 0], [WIDTH, 0], [WIDTH / 2, HEIGHT], [100, 300]], float)
    for i in (*mapping, *queries):
        t, r = pose_error(poses[name(i)], rep.poses[i])
        assert t < 2e-6 and r < 2e-4, "six decimals in the lists"
        m = (corners - (WIDTH / 2, HEIGHT / 2)) / rep.focal[i]
        ideal = m * (1 + rep.radial[i] * (m**2).sum(1, keepdims=True))
        assert np.abs(rays_from_pixels(cameras[name(i)], corners) - ideal).max() * rep.focal[i] < 0.15


def test_lists_model_and_photos(dataset, rep, tmp_path):
    build_scene(STAGE, dataset, tmp_path / "scene")
    check(tmp_path / "scene", rep, list(range(MAPPING)), list(range(MAPPING, COUNT)))
    model = read_model(tmp_path / "scene/mapping")
    assert model.num_images() == MAPPING
    expected = sum(sum(i < MAPPING for i, _ in seen) >= 2 for seen in rep.seen)
    assert model.num_points3D() == expected > 50
    assert model.compute_mean_reprojection_error() < 0.1


def test_files_may_lie_in_the_root_itself(dataset, rep, tmp_path):
    build_scene(STAGE, dataset / "ShopFacade", tmp_path / "scene")
    check(tmp_path / "scene", rep, list(range(MAPPING)), list(range(MAPPING, COUNT)))


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
        build_scene(STAGE, dataset, tmp_path / "scene")
    check(tmp_path / "scene", rep, [0, 1, 3, 4, 5], [6, 8])
    assert "left out 1 of 9 images, not in reconstruction.nvm: seq1/frame00003.png" in caplog.text
    assert "left out 1 of 9 images, pose over 10000 m away: seq3/frame00008.png" in caplog.text


def test_poses_that_differ_from_the_model_are_told(dataset, rep, tmp_path, caplog):
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


@pytest.mark.parametrize("points", [True, False])
def test_a_camera_frame_the_wrong_way_round_does_not_pass(dataset, rep, tmp_path, points):
    """Camera-to-world quaternions, the usual mistake, are found by the model."""
    wrong = replica(COUNT, radial=0.06)
    centres = wrong.centres()
    wrong.poses[:, :, :3] = np.swapaxes(wrong.poses[:, :, :3].copy(), 1, 2)
    wrong.poses[:, :, 3] = -np.einsum("nij,nj->ni", wrong.poses[:, :, :3], centres)
    for path, images in (("dataset_train.txt", range(MAPPING)), ("dataset_test.txt", range(MAPPING, COUNT))):
        write_list(dataset / "ShopFacade" / path, wrong, images)
    source = CambridgeSource(reader="cambridge", folder="ShopFacade", points=points)
    with pytest.raises(ScrflowError, match="9 of 9 images have another pose"):
        build_scene(STAGE.model_copy(update={"source": source}), dataset, tmp_path / "scene")


def edit(path: str, change):
    def apply(root: Path) -> None:
        file = root / "ShopFacade" / path
        file.write_text(change(file.read_text()))

    return apply


def drop_last_field(text: str) -> str:
    lines = text.split("\n")
    lines[4] = lines[4].rsplit(" ", 1)[0]
    return "\n".join(lines)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FAULTS = {
    "line cut": (
        edit("dataset_train.txt", drop_last_field),
        r"dataset_train\.txt: line 5: seq1/frame00002\.png: expect",
    ),
    "not a number": (
        edit("dataset_test.txt", lambda t: t.replace("seq3/frame00008.png ", "seq3/frame00008.png x")),
        r"dataset_test\.txt: line 5: seq3/frame00008\.png: expected 'name x y z",
    ),
    "quaternion": (
        edit("dataset_train.txt", lambda t: "\n".join([*t.split("\n")[:3], f"{name(0)} 0 0 0 2 0 0 0"])),
        r"dataset_train\.txt: line 4: .*quaternion has length 2",
    ),
    "no header": (
        edit("dataset_train.txt", lambda t: "\n".join(t.split("\n")[3:])),
        r"dataset_train\.txt: expected three lines of header",
    ),
    "header of one line": (
        edit("dataset_train.txt", lambda t: "\n".join([t.split("\n")[0], *t.split("\n")[3:]])),
        r"dataset_train\.txt: expected three lines of header",
    ),
    "header alone": (
        edit("dataset_train.txt", lambda t: "\n".join(t.split("\n")[:3]) + "\n"),
        r"dataset_train\.txt: no image in it",
    ),
    "twice": (
        edit("dataset_train.txt", lambda t: t + t.split("\n")[3] + "\n"),
        r"dataset_train\.txt: line 10: seq1/frame00001\.png: listed twice",
    ),
    "in both lists": (
        edit("dataset_test.txt", lambda t: t.replace("seq3/frame00008", "seq1/frame00001")),
        r"dataset_test\.txt: seq1/frame00001\.png listed more than once",
    ),
    "no list": (lambda r: (r / "ShopFacade/dataset_test.txt").unlink(), r"dataset_test\.txt: no such file"),
    "no model": (lambda r: (r / "ShopFacade/reconstruction.nvm").unlink(), r"reconstruction\.nvm: NVM model cannot"),
    "another model": (
        edit("reconstruction.nvm", lambda t: t.replace("seq1/", "other/").replace("seq3/", "other/")),
        r"reconstruction\.nvm: has none of the 9 images",
    ),
    "missing photo": (
        lambda r: (r / "ShopFacade" / name(2)).unlink(),
        r"seq1/frame00003\.png: image is missing",
    ),
    "truncated photo": (lambda r: truncate(r / "ShopFacade" / name(2)), r"seq1/frame00003\.png: image is damaged"),
    "no folder": (lambda r: shutil.rmtree(r), r"data: no such folder"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_its_file_and_keeps_what_was_there(dataset, tmp_path, fault):
    out = tmp_path / "scene"
    build_scene(STAGE, dataset, out)
    kept = (out / "scene.json").read_bytes()
    break_it, message = FAULTS[fault]
    break_it(dataset)
    with pytest.raises(ScrflowError, match=message) as error:
        build_scene(STAGE, dataset, out)
    assert "\n" not in str(error.value)
    assert (out / "scene.json").read_bytes() == kept


def test_the_five_scenes_of_the_papers():
    project = Project(REPO / "config")
    scenes = {n: s for n, s in project.scenes.items() if n.startswith("cambridge-")}
    assert len(scenes) == 5
    for scene in scenes.values():
        archive = scene.download.archives[0]
        folder = archive.url.rsplit("/", 1)[1].removesuffix(".zip")
        assert scene.source.folder == folder and scene.root == f"cambridge/{folder}"
    assert len({s.download.archives[0].url for s in scenes.values()}) == 5
