"""Photos without a focal length, and photos stored sideways."""

import json
from dataclasses import replace

import numpy as np
import plane_map
import pycolmap
import pytest
from PIL import Image
from room_forms import room
from typer.testing import CliRunner

from scrflow import Localizer
from scrflow.cli.app import app
from scrflow.config import LocalizeConfig
from scrflow.core.geometry import pose_error
from scrflow.features.views import EncodedView, roll_rotation
from scrflow.localize.attempts import localized, turned_camera
from scrflow.localize.focal import estimated_focal, guessed_camera
from scrflow.localize.pose import estimate_pose
from scrflow.localize.result import Localization
from scrflow.scene.lists import read_poses

MODELS = ["SIMPLE_PINHOLE", "SIMPLE_RADIAL", "OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE", "FOV", "DIVISION", "EUCM"]


def result(focal: float, depths: tuple[float, float], size=(640, 480)) -> Localization:
    """800 keypoints, every third wrong, of a camera that was taken for one with the usual focal length."""
    rng = np.random.default_rng(3)
    K = np.array([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]])
    pixels, depth = rng.uniform((0, 0), size, (800, 2)), rng.uniform(*depths, (800, 1))
    xyz = np.concatenate([(pixels - K[:2, 2]) / focal, np.ones((800, 1))], 1) * depth + rng.normal(
        0, 5 / focal, (800, 3)
    )
    xyz[::3] += rng.normal(0, 1, (267, 3))
    guess = guessed_camera(size).mean_focal_length()
    pose = np.column_stack([np.eye(3), [0, 0, np.mean(depths) * (guess / focal - 1)]])
    wrong = np.diag([guess, guess, 1.0])
    wrong[:2, 2] = K[:2, 2]
    return Localization(pose, np.ones(800, bool), None, xyz, EncodedView(pixels, None, wrong, 0.0), {})


@pytest.mark.parametrize("focal", [320, 530, 1500])
def test_focal_length_of_a_scene_with_depth(focal):
    found = estimated_focal(result(focal, (1.5, 6)), guessed_camera((640, 480)))
    assert found.px == pytest.approx(focal, rel=0.03) and found.spread < 0.05


def test_landmarks_near_a_pose_do_not_tell_the_focal_length():
    """They were chosen under a guess of it; those that descriptors alone match do, also if every third is wrong."""
    found = result(530, (1.5, 6))
    assumed = np.linalg.inv(found.view.K) @ np.c_[found.view.pixels, np.ones(800)].T
    near = (assumed.T * found.xyz_world[:, 2:] - found.cam_from_world[:, 3]).astype(float)
    by_landmarks = replace(found, xyz_world=near, similarity=np.ones(800), by_descriptor=found.xyz_world)
    guess = guessed_camera((640, 480))
    assert estimated_focal(replace(by_landmarks, by_descriptor=None), guess).px == pytest.approx(608, rel=0.02)
    assert estimated_focal(by_landmarks, guess).px == pytest.approx(530, rel=0.02)


@pytest.mark.parametrize("stored", ["upright", "sideways", "upside down"])
@pytest.mark.parametrize("index", [3, 8])
def test_photos_of_known_cameras(index, stored, tmp_path):
    """Poses and focal length of redkitchen; keypoints with errors of SYNTHETIC points, found only in upright photos."""
    kitchen, rng = room(tmp_path / "room"), np.random.default_rng(index)
    pixels, depth = rng.uniform((0, 0), (640, 480), (600, 2)), rng.uniform(0.8, 4, (600, 1))
    rays = np.concatenate([(pixels - (320, 240)) / kitchen.focal, np.ones((600, 1))], 1)
    pose = kitchen.poses[index]
    world = (rays * depth - pose[:, 3]) @ pose[:, :3] + rng.normal(0, 0.01, (600, 3))
    world[::4] = rng.uniform(-2, 2, (150, 3))
    photo = Image.open(kitchen.sources[index])
    upright = np.asarray(photo)

    def attempt(image, camera):
        K = camera.calibration_matrix()
        found = estimate_pose(pixels, world, K, LocalizeConfig(iterations=1000), 10.0, 0)
        confidence = 0.4 if image.size == photo.size and np.array_equal(np.asarray(image), upright) else 0.01
        result = Localization(found.cam_from_world, found.inliers, None, world, EncodedView(pixels, None, K, 0.0), {})
        return replace(result, confidence=confidence), None

    quarters = {"upright": 0, "sideways": 1, "upside down": 2}[stored]
    found, _ = localized(attempt, Image.fromarray(np.rot90(upright, quarters)), None)
    assert found.turned == 90 * quarters
    assert found.camera.mean_focal_length() == pytest.approx(kitchen.focal, rel=4 * found.focal_spread)
    assert found.focal_spread < 0.03
    t, r = pose_error(roll_rotation(quarters * np.pi / 2) @ found.cam_from_world, pose)
    assert t < 0.1 and r < 1


def test_on_a_flat_wall_the_usual_focal_length_counts_and_the_spread_tells():
    found = estimated_focal(result(530, (3, 3.0001)), guessed_camera((640, 480)))
    assert found.px == pytest.approx(608, rel=0.2) and found.spread > 0.15


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("quarters", [1, 2, 3, 4])
def test_camera_of_a_turned_photo(model, quarters):
    camera = pycolmap.Camera.create_from_model_name(0, model, 500, 640, 480)
    values = dict(zip(camera.params_info.split(", "), camera.params, strict=True))
    values |= {
        k: v for k, v in {"fy": 510, "cx": 310, "cy": 250, "k1": 0.1, "p1": 0.02, "p2": -0.01}.items() if k in values
    }
    camera.params = list(values.values())
    turned = turned_camera(camera, quarters)
    rays = np.random.default_rng(1).uniform(-0.4, 0.4, (20, 2))
    x, y = camera.img_from_cam(np.column_stack([rays, np.ones(20)])).T
    width, height = 640, 480
    for _ in range(quarters):
        x, y, width, height = height - y, x, height, width
    seen = turned.img_from_cam(np.column_stack([rays @ roll_rotation(quarters * np.pi / 2)[:2, :2].T, np.ones(20)]))
    assert (turned.width, turned.height) == (width, height) and np.allclose(seen, np.stack([x, y], 1))


def test_a_lens_model_without_symmetry_is_not_turned():
    camera = pycolmap.Camera.create_from_model_name(0, "THIN_PRISM_FISHEYE", 500, 640, 480)
    assert turned_camera(camera, 1) is None


@pytest.mark.parametrize(
    "camera", [None, pycolmap.Camera(model="PINHOLE", width=240, height=320, params=[280, 280, 120, 160])]
)
def test_a_sideways_photo(wall_map, camera):
    localizer = Localizer.open(wall_map.map)

    def attempt(photo, camera):
        """As with an encoder that, unlike SIFT, does not recognise what is turned."""
        found = localizer.localize_photo(photo, camera)
        return (found if photo.size == (320, 240) else replace(found, confidence=0.01)), photo.size

    photo = Image.open(wall_map.photos / "query/00.png").convert("RGB")
    upright = localizer.localize_photo(photo, plane_map.CAMERA)
    found, size = localized(attempt, photo.transpose(Image.Transpose.ROTATE_90), camera)
    assert found.facts()["turned"] == 90 and size == (320, 240)
    t, r = pose_error(roll_rotation(np.pi / 2) @ found.cam_from_world, upright.cam_from_world)
    assert t < (1e-6 if camera else 0.3) and r < (1e-5 if camera else 5)
    keypoints, reprojected = found.photo_pixels(camera or found.camera)
    assert (keypoints.max(0) < (240, 320)).all()
    assert np.median(np.linalg.norm(keypoints - reprojected, axis=1)[found.inliers]) < 10


def test_photos_without_a_focal_length_on_the_command_line(wall_map, tmp_path):
    out = tmp_path / "poses.txt"
    photo = wall_map.photos / "query/00.png"
    done = CliRunner().invoke(app, ["localize", *map(str, (wall_map.map, photo, "--out", out))])
    assert done.exit_code == 0 and "1 of 1 photos have a pose" in done.output
    assert "focal length of 1 estimated" in done.output
    record = json.loads((tmp_path / "poses.jsonl").read_text().splitlines()[1])
    assert record["estimated_camera"].startswith("SIMPLE_PINHOLE 320 240") and record["focal_spread"] > 0
    assert 0 < record["confidence"] < record["confidence_at_focal"]
    localizer = Localizer.open(wall_map.map)
    known, unknown = (localizer.localize(Image.open(photo), camera) for camera in (plane_map.CAMERA, None))
    assert np.trace(unknown.covariance[:3, :3]) > 4 * np.trace(known.covariance[:3, :3])
    before = (tmp_path / "poses.jsonl").read_text()
    assert CliRunner().invoke(app, ["localize", *map(str, (wall_map.map, photo, "--out", out))]).exit_code == 0
    assert (tmp_path / "poses.jsonl").read_text() == before  # with its times: nothing was localized again
    assert pose_error(read_poses(out)[str(photo)], wall_map.queries["query/00.png"])[0] < 0.4
