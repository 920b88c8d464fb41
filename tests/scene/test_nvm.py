"""VisualSFM's files: lines, distortion, measurements. The data are SYNTHETIC: demo images with made-up points."""

from pathlib import Path

import numpy as np
import pytest
from replicas import HEIGHT, WIDTH, Replica, copy_photo, replica, write_nvm
from small_datasets import built, poses_of, source_for, stage_of

from scrflow.config import SceneStage, Split
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pixels_from_rays, pose_error, rays_from_pixels
from scrflow.scene.build import build_scene
from scrflow.scene.colmap_model import read_model
from scrflow.scene.readers.nvm import MAX_FIT_PX, radial_camera, read_nvm

CENTRE = np.array([WIDTH / 2, HEIGHT / 2])


@pytest.fixture(scope="module")
def rep() -> Replica:
    return replica(count=6, radial=0.08)


def names_of(rep: Replica) -> list[str]:
    return [f"a/{i}.jpg" for i in range(len(rep.photos))]


@pytest.fixture(params=["visualsfm", "colmap"])
def dataset(request, rep, tmp_path) -> Path:
    """A model and its photos; COLMAP's export has the pixels of the same cameras, from another origin."""
    root = tmp_path / "data"
    write_nvm(root / "model.nvm", rep, names_of(rep), colmap=request.param == "colmap")
    for name, photo in zip(names_of(rep), rep.photos, strict=True):
        copy_photo(photo, root / "images" / name)
    return root


def stage(**source) -> SceneStage:
    return stage_of(source_for("nvm", model="model.nvm", **source), Split(every=6))


def test_poses_cameras_and_points(dataset, rep, tmp_path):
    scene = built(stage(), dataset, tmp_path / "scene")
    assert [v.name for v in scene.mapping] == names_of(rep)[1:] and list(scene.query_poses) == ["a/0.jpg"]
    poses = poses_of(scene)
    for i, name in enumerate(names_of(rep)):
        assert max(pose_error(poses[name], rep.poses[i])) < 1e-8  # 12 digits in the file
    pixels = np.stack(np.meshgrid(np.linspace(0, WIDTH, 9), np.linspace(0, HEIGHT, 9)), -1).reshape(-1, 2)
    for i, view in enumerate(scene.mapping, start=1):
        m = (pixels - (WIDTH / 2, HEIGHT / 2)) / rep.focal[i]
        ideal = m * (1 + rep.radial[i] * (m**2).sum(1, keepdims=True))
        assert np.abs(rays_from_pixels(view.camera, pixels) - ideal).max() * rep.focal[i] < 1.5 * MAX_FIT_PX

    model = read_model(tmp_path / "scene/mapping")
    expected = {}
    for k, seen in enumerate(rep.seen):
        mapped = {f"a/{i}.jpg": m + CENTRE for i, m in seen if i > 0}
        if len(mapped) >= 2:
            expected[k] = mapped
    assert len(expected) > 50 and model.num_points3D() == len(expected)
    assert model.compute_mean_reprojection_error() < 0.1
    for k, mapped in expected.items():
        p = model.point3D(k + 1)
        np.testing.assert_allclose(p.xyz, rep.xyz[k], atol=1e-9)
        assert list(p.color) == [k % 256, 20, 30]
        found = {}
        for e in p.track.elements:
            image = model.image(e.image_id)
            assert image.point2D(e.point2D_idx).point3D_id == k + 1
            found[image.name] = image.point2D(e.point2D_idx).xy
        assert found.keys() == mapped.keys()
        for name, px in mapped.items():
            np.testing.assert_allclose(found[name], px, atol=1e-4)  # 8 digits in the file


def test_published_intrinsics_stand_in(dataset, rep, tmp_path):
    lines = [f"{name} SIMPLE_RADIAL {WIDTH} {HEIGHT} {300 + i} 250 190 0.01" for i, name in enumerate(names_of(rep))]
    (dataset / "intrinsics.txt").write_text("\n".join(lines) + "\n")
    without_points = stage(intrinsics="intrinsics.txt", points=False)
    scene = built(without_points, dataset, tmp_path / "scene")
    assert list(scene.mapping[0].camera.params) == [301, 250, 190, 0.01]
    with pytest.raises(ScrflowError, match=r"model\.nvm: its points are .* px \(median\) from their measurements"):
        build_scene(stage(intrinsics="intrinsics.txt"), dataset, tmp_path / "scene")
    (dataset / "intrinsics.txt").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ScrflowError, match=r"intrinsics\.txt: no intrinsics of a/5\.jpg"):
        build_scene(without_points, dataset, tmp_path / "scene")


def test_names_with_blanks_and_backslashes(tmp_path):
    path = tmp_path / "m.nvm"
    path.write_text('NVM_V3\n1\nmy"photos\\a 1.jpg\t800 1 0 0 0 1 2 3 0 0\n0\n')
    assert read_nvm(path).names == ("my photos/a 1.jpg",)


def vsfm_error(r: float, focal: float, width: int, height: int) -> float:
    """Largest distance, px, between VisualSFM's pixel and ours of one ray, over the image's diagonal."""
    camera = radial_camera(width, height, focal, r, "test")
    corner = np.array([width / 2, height / 2])
    m = np.linspace(0.01, 1, 100)[:, None] * corner
    rays = m / focal * (1 + r * (m**2).sum(1, keepdims=True) / focal**2)
    return float(np.linalg.norm(pixels_from_rays(camera, rays) - corner - m, axis=1).max())


@pytest.mark.parametrize(
    ("r", "model", "limit"),
    [
        (0.02, "RADIAL", 0.001),
        (-0.1, "RADIAL", 0.07),
        (0.2, "FULL_OPENCV", 0.001),
        (-0.3, "FULL_OPENCV", 0.006),
    ],
)
def test_distortion_over_a_photo_of_cambridge(r, model, limit):
    """1920x1080 px at f 1670. The limits are the measured residuals, rounded up."""
    assert radial_camera(1920, 1080, 1670.0, r, "test").model.name == model
    assert vsfm_error(r, 1670.0, 1920, 1080) < limit


@pytest.mark.parametrize(("r", "focal"), [(-0.9, 1670.0), (-0.3, 900.0), (3.0, 800.0)])
def test_distortion_beyond_every_model_is_refused(r, focal):
    with pytest.raises(ScrflowError, match=r"m\.nvm: a\.jpg: radial distortion .* has no COLMAP camera within 0\.1 px"):
        radial_camera(1920, 1080, focal, r, "m.nvm: a.jpg")
