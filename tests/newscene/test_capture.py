"""Is a capture good enough: blur, darkness, overlap and parallax of the demo's photos (rendered) and of views that a
turn on the spot makes."""

import math
import shutil
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from exif_photos import DEMO, real
from PIL import Image, ImageEnhance, ImageFilter
from scipy.ndimage import gaussian_filter, map_coordinates
from typer.testing import CliRunner

from scrflow.cli.app import app
from scrflow.config import SceneConfig, SfmConfig, SfmStage, Split
from scrflow.core.errors import ScrflowError
from scrflow.newscene.capture import after_sfm, lengths, look_at
from scrflow.scene.colmap_model import read_model
from scrflow.scene.photo_files import list_photos
from scrflow.scene.readers.colmap import PhotosSource
from scrflow.sfm.reconstruct import run_sfm

NAMES = [f"{i:03d}.jpg" for i in range(0, 24)]


@pytest.fixture
def walk(tmp_path) -> Path:
    folder = tmp_path / "walk"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(DEMO / "images/mapping" / name, folder)
    return folder


def turn_on_the_spot(folder: Path, count: int = 9) -> Path:
    """Views [320x240] of one photo that rotation alone makes."""
    folder.mkdir()
    with Image.open(DEMO / "images/mapping/000.jpg") as image:
        photo = np.asarray(image.convert("L"), float)
    height, width = photo.shape
    whole = np.array([[450, 0, width / 2], [0, 450, height / 2], [0, 0, 1.0]])
    view = np.array([[330, 0, 120], [0, 330, 90], [0, 0, 1.0]])
    u, v = np.meshgrid(np.arange(240) + 0.5, np.arange(180) + 0.5)
    for k in range(count):
        y = math.radians(-10 + 20 * k / (count - 1))
        R = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
        p = whole @ R @ np.linalg.inv(view) @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
        grey = map_coordinates(photo, [p[1] / p[2] - 0.5, p[0] / p[2] - 0.5], order=1).reshape(180, 240)
        Image.fromarray(grey.round().astype(np.uint8)).resize((640, 480)).save(folder / f"p{k}.jpg", quality=95)
    return folder


def test_a_good_walk_has_no_advice(walk):
    found = look_at(walk, NAMES)
    rows = dict(found.rows)
    assert found.advice == () and rows["overlap"].endswith("all connected")
    assert rows["sharpness"].startswith("0 of 24 photos") and rows["parallax"].startswith("24 of 24 photos")


def test_few_photos_are_told(walk):
    for name in NAMES[2:]:
        (walk / name).unlink()
    done = CliRunner().invoke(app, ["check", str(walk)], catch_exceptions=False)
    assert done.exit_code == 1 and "Photos: 2 are few; rooms take 20 to 200." in done.stdout
    for name in NAMES[:2]:  # no keypoint in it
        Image.new("RGB", (320, 240), (128, 128, 128)).save(walk / name)
    advice = " ".join(look_at(walk, NAMES[:2]).advice)
    assert "Blur: 2 of 2 photos" in advice and "fall into 2 sets of 1, 1" in advice


def test_blur_darkness_and_sets_that_share_nothing_are_named(walk):
    for name, change in {
        "003.jpg": lambda i: i.filter(ImageFilter.GaussianBlur(3)),
        "005.jpg": lambda i: ImageEnhance.Brightness(i).enhance(0.1),
    }.items():
        with Image.open(walk / name) as image:
            change(image).save(walk / name)
    elsewhere = gaussian_filter(np.random.default_rng(1).standard_normal((400, 600)), 3)  # SYNTHETIC
    elsewhere = (255 * (elsewhere - elsewhere.min()) / np.ptp(elsewhere)).astype(np.uint8)
    for k in range(3):
        Image.fromarray(elsewhere[:, 40 * k : 40 * k + 500]).save(walk / f"z{k}.jpg")
    advice = look_at(walk, list_photos(walk)).advice
    assert advice[0].startswith("Blur: 1 of 27 photos (003.jpg).")
    assert advice[1].startswith("Darkness: 1 of 27 photos (005.jpg).")
    assert advice[2].startswith("Overlap: the photos fall into 3 sets of 23, 3, 1 that")


def test_real_captures_of_two_places(tmp_path):
    for name, pattern, count, step in (("redkitchen/seq-01", "*.color.jpg", 10, 3), ("fox/images", "*", 8, 1)):
        for i, path in enumerate(sorted(real(name).glob(pattern))[::step][:count]):
            with Image.open(path) as image:
                image.thumbnail((640, 640))
                image.convert("RGB").save(tmp_path / f"{name[0]}{i}.jpg", quality=95)
    for name, change in {
        "r4.jpg": lambda i: i.filter(ImageFilter.GaussianBlur(5)),
        "r8.jpg": lambda i: ImageEnhance.Brightness(i).enhance(0.08),
    }.items():
        with Image.open(tmp_path / name) as image:
            change(image).save(tmp_path / name, quality=95)
    blur, darkness, overlap, *_ = look_at(tmp_path, list_photos(tmp_path)).advice
    assert blur.startswith("Blur: 1 of 18 photos (r4.jpg).")
    assert darkness.startswith("Darkness: 1 of 18 photos (r8.jpg).")
    assert "fall into 3 sets of 9, 8, 1 that" in overlap  # the blurred photo shares nothing


def test_a_turn_on_the_spot_is_told_before_sfm_and_by_it(tmp_path):
    folder = turn_on_the_spot(tmp_path / "pan")
    done = CliRunner().invoke(app, ["check", str(folder)], catch_exceptions=False)
    assert done.exit_code == 1 and "Parallax: the camera only turned between 9 of 9 photos" in " ".join(
        done.stdout.split()
    )
    source = PhotosSource(reader="photos", images="pan")
    stage = SfmStage(source=source, split=Split(), sfm=SfmConfig(max_features=1024), seed=1)
    with pytest.raises(ScrflowError, match=r"pan: the camera only turned, so there is no parallax .* walk sideways"):
        run_sfm(stage, tmp_path, tmp_path / "sfm", 2)


def test_a_model_is_judged_by_the_points_that_photos_share():
    """South Building's photos, of the model in the project's data, or nothing."""
    found = read_model(real("southbuilding/model"))
    names = sorted(found.image(i).name for i in found.reg_image_ids())
    told = after_sfm(found, [*names, "lost.jpg"])
    assert dict(told.rows)["registered by SfM"] == f"{len(names)} of {len(names) + 1}"
    assert told.advice[0].startswith("Not registered: lost.jpg.")


def test_lengths_of_a_model_and_a_wrong_depth_range():
    found = pycolmap.synthesize_dataset(pycolmap.SyntheticDatasetOptions(num_points3D=200))  # SYNTHETIC
    points = np.array([p.xyz for p in found.points3D.values()])
    depths = [d for i in found.reg_image_ids() for d in (found.image(i).cam_from_world() * points)[:, 2]]
    scene = {"description": "", "licence": "", "root": "x", "source": {"reader": "photos"}, "method": "quick"}
    told = lengths(found, SceneConfig(**scene), {"to": "GPS", "median_residual": 2.1})
    assert dict(told.rows)["scale"] == "by GPS: median residual 2.1" and not told.advice
    near, far = (float(word) for word in dict(told.rows)["depths"].split()[6:9:2])
    assert near == pytest.approx(np.quantile(depths, 0.01), rel=0.1) and far == pytest.approx(max(depths), rel=0.1)
    wrong = lengths(found, SceneConfig(**scene, depth_range=(2 * far, 3 * far)))
    assert wrong.advice[0].startswith("Depths: depth_range ") and "leaves out 100%" in wrong.advice[0]
