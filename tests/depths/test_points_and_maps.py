"""Depths of samples by SfM points and by depth images."""

import itertools
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import synthetic
import torch
from exif_photos import real
from PIL import Image
from scipy.spatial.transform import Rotation

from scrflow.config import DepthMaps, PointDepthConfig
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import rays_from_pixels, rotation_from_quaternion
from scrflow.depths.maps import DrawnDepth, depths_of_samples, read_depth
from scrflow.depths.points import ObservedPoints, _relative_sigma
from scrflow.depths.points import depths_of_samples as depths_by_points
from scrflow.pipeline.project import Project
from scrflow.scene.colmap_model import View
from scrflow.scene.model import Scene
from scrflow.training.buffer import Buffer

CONFIG = Path(__file__).resolve().parents[2] / "config"
FRAMES = (0, 48, 96)  # of redkitchen


def observed(buffer: Buffer, points: np.ndarray, point_of: np.ndarray) -> ObservedPoints:
    """Every image observes the points that its plain copy samples."""
    plain = buffer.plain[buffer.view].numpy()
    return ObservedPoints(points, point_of[plain], buffer.image[buffer.view].numpy()[plain])


def test_points_tell_depths_of_plain_and_augmented_samples():
    buffer, points, point_of = synthetic.scene()
    result = depths_by_points(buffer, observed(buffer, points, point_of), PointDepthConfig())
    pose = buffer.cam_from_world[buffer.view].numpy()
    true = (pose[:, 2, :3] * points[point_of]).sum(1) + pose[:, 2, 3]
    depth = result.depth.numpy()
    plain = buffer.plain[buffer.view].numpy()
    # the rolled copies see some points that the plain ones do not
    assert np.isfinite(depth[plain]).all() and np.isfinite(depth[~plain]).mean() > 0.9
    known = np.isfinite(depth)
    # measured: all of them, and 98.8 % of the rolled samples known
    assert (np.abs(depth / true - 1)[known] < 1e-5).mean() > 0.99
    assert (result.matches == -1).all()


def test_samples_far_from_points_stay_unknown():
    buffer, points, point_of = synthetic.scene()
    moved = Buffer(**{**vars(buffer), "pixel": buffer.pixel + torch.tensor([3.0, 0])})
    o = observed(buffer, points, point_of)
    near, far = (depths_by_points(moved, o, PointDepthConfig(radius_px=r)) for r in (5, 2))
    # 3 px beside its point a sample takes that point's depth, and trusts it less: 2 * 3 / 500
    assert torch.isfinite(near.depth).float().mean() > 0.9
    assert float(near.relative_sigma.nanmedian()) == pytest.approx(0.012, rel=0.1)
    # another point is nearer than 2 px by chance: measured 2.8 %
    assert torch.isfinite(far.depth).float().mean() < 0.04


def test_sigma_moves_the_other_observations_by_a_pixel():
    """Move a point along its ray by the sigma: its other observations move by 1 px in all."""
    buffer, points, point_of = synthetic.scene(roll_copies=False)
    o = observed(buffer, points, point_of)
    K, pose = buffer.K.numpy(), buffer.cam_from_world.numpy()
    mine = o.by_image(synthetic.IMAGES)[4]
    sigma = _relative_sigma(o.xyz[mine], mine, o.by_point(), 4, K, pose)
    centre = -pose[4, :, :3].T @ pose[4, :, 3]
    moved = centre + (points[mine] - centre) * (1 + sigma[:, None])
    total = np.zeros(len(mine))
    for i in set(range(synthetic.IMAGES)) - {4}:
        a, b = (x @ pose[i, :, :3].T + pose[i, :, 3] for x in (points[mine], moved))
        shift = 500 * (a[:, :2] / a[:, 2:] - b[:, :2] / b[:, 2:])
        total += np.isin(mine, o.by_image(synthetic.IMAGES)[i]) * (shift**2).sum(1)
    # to first order; measured 0.989 at worst
    assert np.abs(total - 1).max() < 0.02


def test_points_of_a_colmap_model():
    options = pycolmap.SyntheticDatasetOptions()
    options.num_frames_per_rig, options.num_points3D = 4, 50
    model = pycolmap.synthesize_dataset(options)
    names = tuple(sorted(model.image(i).name for i in model.reg_image_ids()))
    o = ObservedPoints.of_model(model, names, Path("model"))
    assert len(o.image) == model.compute_num_observations()
    images, start = o.by_point()
    lengths = sorted(model.points3D[i].track.length() for i in model.points3D)
    assert sorted(np.diff(start)) == lengths and len(images) == sum(lengths)
    with pytest.raises(ScrflowError, match=r"model: mapping image gone\.jpg is not in the model"):
        ObservedPoints.of_model(model, (*names, "gone.jpg"), Path("model"))
    for i in list(model.points3D):
        model.delete_point3D(i)
    with pytest.raises(ScrflowError, match="no 3D points"):
        ObservedPoints.of_model(model, names, Path("model"))


CAMERA = pycolmap.Camera(model="OPENCV", width=320, height=240, params=[260, 260, 160, 120, 0.05, -0.02, 0.001, 0.0])
PLANE = np.array([0.3, -0.2, 1.0])  # PLANE . x = 3 in the photo's camera


def plane_scene(tmp_path: Path, config: DepthMaps) -> tuple[Buffer, Scene, np.ndarray]:
    """A tilted plane: its depth image as ``config`` says, a plain and a rolled view of a photo, and true depths."""
    height, width = 240, 320
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    pixels = np.column_stack([x.ravel(), y.ravel()])
    if config.focal is None:
        rays, centre = rays_from_pixels(CAMERA, pixels), np.zeros(3)
    else:
        rays = (pixels - [width / 2, height / 2]) / config.focal
        centre = np.array(config.photo_from_depth)
    rays = np.column_stack([rays, np.ones(len(rays))])
    z = (3 - PLANE @ centre) / (rays @ PLANE)
    raw = np.round(z / config.scale).astype(np.uint16).reshape(height, width)
    raw[:, 300:], raw[:5] = 0, 65535
    (tmp_path / "seq").mkdir()
    Image.fromarray(raw).save(tmp_path / "seq/a.depth.png")
    rng = np.random.default_rng(0)
    photo_px = rng.uniform([10, 10], [270, 230], (400, 2))
    rays = np.column_stack([rays_from_pixels(CAMERA, photo_px), np.ones(400)])
    K = np.array([[260.0, 0, 160], [0, 260, 120], [0, 0, 1]])
    pose = np.column_stack([Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix(), [1.0, 2, 3]])
    roll = Rotation.from_euler("z", 12, degrees=True).as_matrix()
    zoom = np.diag([1.2, 1.2, 1])
    views = [(K, pose, rays), (zoom @ K, roll @ pose, rays @ roll.T)]
    buffer = Buffer(
        descriptor=torch.zeros(800, 2),
        pixel=torch.from_numpy(np.concatenate([r[:, :2] * k[0, 0] + k[:2, 2] for k, _, r in views])).float(),
        view=torch.arange(2).repeat_interleave(400),
        image=torch.zeros(2, dtype=torch.int64),
        plain=torch.tensor([True, False]),
        K=torch.from_numpy(np.stack([k for k, _, _ in views])),
        cam_from_world=torch.from_numpy(np.stack([p for _, p, _ in views])),
        names=("seq/a.color.jpg",),
    )
    scene = Scene(tmp_path, tmp_path, "m", (View("seq/a.color.jpg", CAMERA, pose),), (), {}, None)
    return buffer, scene, np.tile(3 / (rays @ PLANE), 2)


@pytest.mark.parametrize("camera", [{}, {"focal": 300.0, "photo_from_depth": (-0.03, 0.01, 0.02)}])
def test_depths_of_a_plane(tmp_path, camera):
    config = DepthMaps(pattern="{folder}/{stem}.depth.png", max_depth=20, **camera)
    buffer, scene, true = plane_scene(tmp_path, config)
    result = depths_of_samples(buffer, scene, {0: tmp_path / config.path_of("seq/a.color.jpg")}, config)
    depth = result.depth.numpy()
    assert np.isfinite(depth).mean() > 0.9
    error = np.abs(depth / true - 1)[np.isfinite(depth)]
    # measured: median 0.0004 aligned, 0.0003 by its own camera; at most 0.0017: half a cell on the slope
    assert np.median(error) < 0.001 and error.max() < 0.004
    assert np.allclose(depth[:400], depth[400:], rtol=4e-3, equal_nan=True)
    # the wrong focal length shows: measured 0.013
    if camera:
        wrong = config.model_copy(update={"focal": 360.0})
        bad = depths_of_samples(buffer, scene, {0: tmp_path / "seq/a.depth.png"}, wrong).depth.numpy()
        assert np.nanmedian(np.abs(bad / true - 1)) > 0.01


def test_edges_and_holes_have_no_depth():
    depth = np.full((60, 80), 2.0, np.float32)
    depth[:, 40:] = 4.0
    depth[20:40, 10:20] = np.nan
    camera = pycolmap.Camera(model="PINHOLE", width=80, height=60, params=[70, 70, 40, 30])
    config = DepthMaps(pattern="{base}.png", max_depth=10)
    drawn = DrawnDepth.of(depth, camera, config, Path("d.png"))
    pixels = np.array([[30.5, 10.5], [60.5, 10.5], [40.0, 10.5], [15.0, 30.0], [500.0, 10.0]])
    z, sigma = drawn.at((pixels - [40, 30]) / 70, config)
    assert z[:2].tolist() == [2, 4] and np.isnan(z[2:]).all() and np.isnan(sigma[2:]).all()
    assert sigma[:2] == pytest.approx(0.01)


def test_depth_images_that_are_none(tmp_path):
    config = DepthMaps(pattern="{base}.png", max_depth=10)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "colour.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    for name, message in (("colour.png", "one channel"), ("broken.png", "cannot be read")):
        with pytest.raises(ScrflowError, match=rf"{name}: .*{message}"):
            read_depth(tmp_path / name, config)
    with pytest.raises(ScrflowError, match="not aligned"):
        DrawnDepth.of(np.ones((60, 60), np.float32), CAMERA, config, tmp_path / "square.png")


@pytest.mark.parametrize("pattern", ["depth.png", "{folder}/depth.png", "../{stem}.png", "d{folder}/{stem}"])
def test_patterns_that_leave_the_folder_or_name_no_photo_are_refused(pattern):
    with pytest.raises(ValueError, match="pattern"):
        DepthMaps(max_depth=10, pattern=pattern)


def test_scenes_without_depth_images():
    project = Project(CONFIG)
    assert project.runs("redkitchen", "depth-rscore") and not project.runs("fox", "depth-rscore")
    assert project.runs("fox", "depth-rscore-points")
    with pytest.raises(ScrflowError, match=r"fox\.yaml: key depth_maps: not given"):
        project.depth_maps("fox", "depth-rscore")
    with pytest.raises(ScrflowError, match=r"fox\.yaml: key depth_maps"):
        Project(CONFIG, {"scenes": {"fox": {"method": "depth-rscore"}}})
    assert project.has_points("herzjesu") and not project.has_points("demo") and not project.has_points("redkitchen")


def test_depth_images_of_redkitchen_agree():
    """A pixel's 3D point by one frame's depth image lies on the surface that another frame's shows."""
    root = real("redkitchen")
    maps = Project(CONFIG).scene("redkitchen").depth_maps
    lines = [line.split() for line in (root / "poses_sfm.txt").read_text().splitlines()]
    numbers = {name: np.array(values, float) for name, *values in lines}
    poses = {n: (np.column_stack([rotation_from_quaternion(v[:4]), v[4:7]]), float(v[7])) for n, v in numbers.items()}
    names = [f"seq-01/frame-{n:06d}.color.jpg" for n in FRAMES]
    camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=640, height=480, params=[poses[names[0]][1], 320, 240])
    # measured: 0.0067, and 0.0130 with the photo's focal length
    assert disagreement(root, maps, camera, names, poses) < 0.009
    wrong = maps.model_copy(update={"focal": camera.params[0]})
    assert disagreement(root, wrong, camera, names, poses) > 0.011


def disagreement(root: Path, maps: DepthMaps, camera: pycolmap.Camera, names: list[str], poses: dict) -> float:
    """Median relative difference of depths, every frame against every other."""
    x, y = np.meshgrid(np.arange(40, 600, 8.0), np.arange(40, 440, 8.0))
    rays = rays_from_pixels(camera, np.column_stack([x.ravel(), y.ravel()]))
    drawn = [DrawnDepth.of(read_depth(root / maps.path_of(n), maps), camera, maps, Path(n)) for n in names]
    errors = []
    for i, j in itertools.permutations(range(len(names)), 2):
        (R, t), (S, u) = ((p[:, :3], p[:, 3]) for p in (poses[names[i]][0], poses[names[j]][0]))
        z, _ = drawn[i].at(rays, maps)
        known = np.isfinite(z)
        xyz = np.column_stack([rays, np.ones(len(rays))])[known] * z[known, None]
        there = (xyz - t) @ R @ S.T + u
        seen, _ = drawn[j].at(there[:, :2] / there[:, 2:], maps)
        errors.append((seen / there[:, 2] - 1)[np.isfinite(seen)])
    return float(np.median(np.abs(np.concatenate(errors))))
