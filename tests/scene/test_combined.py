"""Rooms combined into one scene: where they come to lie, what must agree, and that no edge leads through a wall."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_datasets import built, source_for, stage_of

from scrflow.config import CovisibilityStage, GraphConfig, Split
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_centre
from scrflow.graph.covisibility import build_graph, load_graph
from scrflow.scene import load_scene
from scrflow.scene.build import build_scene
from scrflow.sfm.triangulate import pose_pairs
from scrflow.storage.checksum import write_checksum

REPO = Path(__file__).resolve().parents[2]


def build_combined(tmp_path: Path, parts: dict[str, Path], **keys):
    stage = stage_of(source_for("combined", scenes=tuple(parts), **keys))
    return built(stage, Path("."), tmp_path / "combined", None, [part for part in parts.values() if part])


@pytest.fixture(scope="module")
def rooms(tmp_path_factory) -> dict[str, Path]:
    """Three 'rooms': mapping photos of the demo scene dealt out, so that all of them see the same square."""
    folder = tmp_path_factory.mktemp("rooms")
    photos = folder / "photos"
    parts = {}
    lines = (REPO / "demo/mapping.txt").read_text().split()
    for number, name in enumerate(("hall", "attic", "cellar")):
        root = photos / name
        root.mkdir(parents=True)
        (root / "images").symlink_to(REPO / "demo/images")
        (root / "model").symlink_to(REPO / "demo/model")
        (root / "mapping.txt").write_text("\n".join(lines[number:30:3]) + "\n")
        (root / "queries.txt").write_text(f"day/{number:03d}.jpg\n")
        split = Split(mapping="mapping.txt", queries={"day": "queries.txt"})
        build_scene(stage_of(source_for("colmap"), split), root, folder / name / "scene")
        parts[name] = folder / name / "scene"
    return parts


def project_points(view, pose: np.ndarray, points_N3: np.ndarray) -> np.ndarray:
    local = points_N3 @ pose[:, :3].T + pose[:, 3]
    return np.array([view.camera.img_from_cam(p) for p in local])


def test_points_of_a_room_project_where_they_did(rooms, tmp_path):
    """Three rooms make two columns; a room's centre comes to (-row, -column, 0) cells."""
    centre = (1.0, 2.0, 3.0)
    scene = build_combined(tmp_path, rooms, cell=7.0, centres={"attic": centre})
    images = {v.name: v for v in scene.mapping}
    assert len(images) == 30 and scene.unit == "m"
    for name, corner in {"hall": (0, 0, 0), "attic": (0, -7, 0), "cellar": (-7, 0, 0)}.items():
        part = load_scene(rooms[name])
        poses = np.stack([v.cam_from_world for v in part.mapping])
        shift = np.array(corner) - (centre if name == "attic" else camera_centre(poses).mean(0))
        for view in part.mapping:
            moved = images[f"{name}/images/{view.name}"]
            assert scene.image_path(moved.name).samefile(part.image_path(view.name))
            assert list(moved.camera.params) == list(view.camera.params)
            # points within 8 m in front of the camera
            local = np.random.default_rng(0).uniform([-1, -1, 1], [1, 1, 8], (20, 3))
            points = (local - view.cam_from_world[:, 3]) @ view.cam_from_world[:, :3]
            before = project_points(view, view.cam_from_world, points)
            # float64 over 40 m: 1e-14 relative, 1e-9 px is room for that
            np.testing.assert_allclose(project_points(moved, moved.cam_from_world, points + shift), before, atol=1e-9)
        query = part.queries[0].name
        np.testing.assert_allclose(
            camera_centre(scene.query_poses[f"{name}/images/{query}"]),
            camera_centre(part.query_poses[query]) + shift,
            atol=1e-9,
        )


def test_queries_keep_their_room_as_condition(rooms, tmp_path):
    scene = build_combined(tmp_path, rooms)
    assert {q.name: q.condition for q in scene.queries} == {
        f"{name}/images/day/{i:03d}.jpg": name for i, name in enumerate(rooms)
    }
    assert set(scene.stamp.inputs) >= {"part_hall", "part_attic", "part_cellar"}
    assert scene.parts == {v.name: v.name.split("/")[0] for v in scene.mapping}


def test_no_edge_between_rooms(rooms, tmp_path):
    """All rooms are the same square here, 1 m apart: by geometry alone nearly every image would see every other."""
    scene = build_combined(tmp_path, rooms, cell=1.0)
    config = CovisibilityStage(
        graph=GraphConfig(kind="frustum", samples=128, min_overlap=0.2), depth_range=(0.1, 50), seed=1
    )
    build_graph(config, scene.folder, tmp_path / "graph.npz")
    graph = load_graph(tmp_path / "graph.npz")
    part = np.array([name.split("/")[0] for name in graph.names])
    i, j = graph.csr.nonzero()
    assert len(i) > 0 and (part[i] == part[j]).all()
    assert set(part[i]) == set(rooms), "every room has edges of its own"

    # the same images as one room: the edges that were kept are the same, and others come between the rooms
    info = json.loads((scene.folder / "scene.json").read_text())
    del info["parts"]
    (scene.folder / "scene.json").write_text(json.dumps(info))
    write_checksum(scene.folder / "scene.json")
    build_graph(config, scene.folder, tmp_path / "one.npz")
    one = load_graph(tmp_path / "one.npz").csr
    a, b = one.nonzero()
    assert (part[a] != part[b]).sum() > (part[a] == part[b]).sum()
    np.testing.assert_array_equal(one.toarray()[i, j], graph.csr.toarray()[i, j])


def test_triangulation_pairs_stay_in_a_room(rooms, tmp_path):
    scene = build_combined(tmp_path, rooms, cell=1.0)
    pairs = pose_pairs(scene.mapping, 5, scene.same_part())
    assert pairs and all(scene.parts[a] == scene.parts[b] for a, b in pairs)
    assert any(scene.parts[a] != scene.parts[b] for a, b in pose_pairs(scene.mapping, 5))


def with_unit(scene: Path, out: Path, unit: str) -> Path:
    info = json.loads((scene / "scene.json").read_text())
    shutil.copytree(scene, out)
    (out / "scene.json").write_text(json.dumps(info | {"unit": unit}))
    write_checksum(out / "scene.json")
    return out


def test_units_must_agree_unless_allowed(rooms, tmp_path):
    parts = {"hall": rooms["hall"], "attic": with_unit(rooms["attic"], tmp_path / "attic/scene", "feet")}
    with pytest.raises(ScrflowError, match=r"units differ \(hall: m, attic: feet\).*allow_units: true"):
        build_combined(tmp_path, parts)
    assert not (tmp_path / "combined").exists()
    assert len(build_combined(tmp_path, parts, allow_units=True).mapping) == 20


def test_a_photo_in_two_rooms_and_a_missing_part_are_told(rooms, tmp_path):
    twice = {"hall": rooms["hall"], "again": with_unit(rooms["hall"], tmp_path / "again/scene", "m")}
    with pytest.raises(ScrflowError, match=r"photos/hall/images/mapping/.*\.jpg: image of both hall and again"):
        build_combined(tmp_path, twice)
    with pytest.raises(ScrflowError, match="no scene artifact of attic given"):
        build_combined(tmp_path, {"hall": rooms["hall"], "attic": None})
    with pytest.raises(ScrflowError, match=r"scene is missing"):
        build_combined(tmp_path, {"hall": rooms["hall"], "attic": tmp_path / "attic/scene"})
