"""The exported points lie on the wall that the map was made of, have its colours, and load as PLY and COLMAP model."""

import numpy as np
import plane_map
import pycolmap
import pytest
from typer.testing import CliRunner

from scrflow.cli.app import app
from scrflow.core.errors import ScrflowError
from scrflow.localize.pointcloud import ExportOptions, export_map
from scrflow.scene.model import load_scene
from scrflow.scene.readers.nerfstudio import NerfstudioSource


@pytest.fixture(scope="module")
def exported(wall_map, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    options = ExportOptions(max_error_px=3.0)
    count = export_map(
        wall_map.map, None, folder / "wall.ply", folder / "model", options, nerfstudio=folder / "nerfstudio"
    )
    return folder, count


def test_ply_is_the_wall_in_its_colours(exported):
    folder, count = exported
    raw = (folder / "wall.ply").read_bytes()
    header, body = raw.split(b"end_header\n", 1)
    assert header.decode().splitlines() == [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {count}",
        *(f"property float {a}" for a in "xyz"),
        *(f"property uchar {c}" for c in ("red", "green", "blue")),
    ]
    points = np.frombuffer(body, [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    assert len(points) == count > 50
    # two photos' rays meet at some 8 degrees: 3 px are 0.1 m in depth. Measured: median 0.01 m
    assert np.median(np.abs(points["xyz"][:, 2])) < 0.05
    texel = np.floor((points["xyz"][:, :2] + [2, 1.5]) * plane_map.TEXELS).astype(int)
    wall = np.asarray(plane_map.wall(), float)
    there, elsewhere = wall[texel[:, 1], texel[:, 0]], wall[texel[::-1, 1], texel[::-1, 0]]
    said = points["rgb"].astype(float)
    # colours at points some px off on a wall of noise. Measured: 0.6 of what they differ by from another point's
    assert np.abs(said - there).mean() < 0.8 * np.abs(said - elsewhere).mean()


def test_colmap_model_holds_together(wall_map, exported):
    folder, count = exported
    model = pycolmap.Reconstruction(folder / "model")
    assert (model.num_points3D(), model.num_reg_images(), model.num_cameras()) == (count, 12, 1)
    assert model.compute_mean_track_length() >= 2
    errors = []
    for point in model.points3D.values():
        images = [e.image_id for e in point.track.elements]
        assert len(set(images)) == len(images)
        for e in point.track.elements:
            image = model.image(e.image_id)
            seen = image.project_point(point.xyz)
            errors.append(np.linalg.norm(seen - image.points2D[e.point2D_idx].xy))
    assert max(errors) < 3.0  # photos are encoded at their own size here: the same pixels


def test_nerfstudio_reads_back(wall_map, exported):
    folder = exported[0] / "nerfstudio"
    assert (folder / "sparse_pc.ply").read_bytes() == (exported[0] / "wall.ply").read_bytes()
    made, scene = NerfstudioSource(reader="nerfstudio").read(folder), load_scene(wall_map.scene)
    assert len(made.images) == len(scene.mapping)
    for image, view in zip(sorted(made.images, key=lambda image: image.name), scene.mapping, strict=True):
        assert (made.image_root / image.name).samefile(scene.image_path(view.name))
        np.testing.assert_allclose(image.cam_from_world, view.cam_from_world, atol=1e-12)
        assert image.camera.params.tolist() == view.camera.params.tolist()


def test_mistakes_are_one_line(wall_map, tmp_path):
    with pytest.raises(ScrflowError, match="--ply FILE"):
        export_map(wall_map.map, None, None, None, ExportOptions())
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(ScrflowError, match="not overwritten"):
        export_map(wall_map.map, None, None, tmp_path / "full", ExportOptions())
    with pytest.raises(ScrflowError, match="--min-views"):
        export_map(wall_map.map, None, tmp_path / "a.ply", None, ExportOptions(min_views=99))
    with pytest.raises(ScrflowError, match="give --scene"):
        export_map(wall_map.map, tmp_path, tmp_path / "a.ply", None, ExportOptions())
    result = CliRunner().invoke(app, ["export", str(tmp_path / "no.safetensors"), "--ply", str(tmp_path / "a.ply")])
    assert isinstance(result.exception, ScrflowError) and "no.safetensors" in str(result.exception)
