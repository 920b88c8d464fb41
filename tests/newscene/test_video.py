"""Frames of videos that are made here of real photos (7-Scenes redkitchen), with blurred and still frames put in."""

import struct
from pathlib import Path

import numpy as np
import pytest
from exif_photos import real, write_video
from PIL import Image, ImageFilter
from tiny_project import without_scenes
from typer.testing import CliRunner

from scrflow.cli.app import app
from scrflow.core.errors import ScrflowError
from scrflow.newscene.video import pick_frames
from scrflow.pipeline.project import Project
from scrflow.scene import load_scene
from scrflow.scene.build import build_scene
from scrflow.sfm.reconstruct import run_sfm
from scrflow.storage.artifact import read_json

FRAMES = 45
RATE = 15


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Every fourth frame of the Kinect's 30 a second."""
    files = sorted(real("redkitchen/seq-01").glob("*.color.jpg"))[:FRAMES]
    return [Image.open(file).convert("RGB") for file in files]


@pytest.fixture(scope="module")
def walk(photos, tmp_path_factory) -> tuple[Path, list[tuple[str, int]]]:
    """A walk with a blurred double of every second photo and two rests of 2 s, and what each frame is."""
    frames, what = [], []
    for i, photo in enumerate(photos):
        frames.append(photo)
        what.append(("photo", i))
        if i % 2:
            frames.append(photo.filter(ImageFilter.GaussianBlur(2)))
            what.append(("blurred", i))
        for _ in range(2 * RATE if i in (12, 30) else 0):
            frames.append(photo)
            what.append(("still", i))
    return write_video(tmp_path_factory.mktemp("video") / "walk.mp4", frames, RATE), what


@pytest.fixture(scope="module")
def picked(walk, tmp_path_factory):
    out = tmp_path_factory.mktemp("picked") / "images"
    return pick_frames(walk[0], out), out


def test_sharp_frames_with_a_baseline_are_picked(walk, picked, photos):
    """None is a blurred double, no rest gives a second frame, and each is the frame that its name says (mean difference
    to its photo, from compression, measured: at most 2.9 grey levels; to the blurred double 3.7 and more, to the photos
    before and after 8.0)."""
    _, what = walk
    frames, out = picked
    assert frames.decoded == len(what) and frames.size == (640, 480)
    chosen = [what[int(name[6:12])] for name in frames.names]
    assert [p.name for p in sorted(out.glob("*.jpg"))] == list(frames.names)
    assert all(kind != "blurred" for kind, _ in chosen), chosen
    shown = [i for _, i in chosen]
    assert shown == sorted(set(shown)) and 8 <= len(shown) <= 20 and shown[-1] >= FRAMES - 6, shown
    for name, (_, i) in zip(frames.names, chosen, strict=True):
        image = np.asarray(Image.open(out / name), np.float64)
        assert np.abs(image - np.asarray(photos[i])).mean() < 3.5, (name, i)
    rows = (out / "frames.csv").read_text().splitlines()
    assert rows[0] == "name,time_s,sharpness" and [r.split(",")[0] for r in rows[1:]] == list(frames.names)
    assert float(rows[-1].split(",")[1]) == pytest.approx(int(frames.names[-1][6:12]) / RATE, abs=1e-3)


def test_the_number_of_frames_is_bounded_by_a_longer_baseline(walk, picked, tmp_path):
    frames = pick_frames(walk[0], tmp_path / "few", max_frames=6)
    assert 3 <= len(frames.names) <= 6 and frames.min_baseline > picked[0].min_baseline


def turn_display_matrix(path: Path) -> None:
    """The track header's matrix of a phone held upright: shown a quarter turn clockwise (x' = -y, y' = x)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4  # version and flags, then 9 words, 4 half words, the matrix
    assert data[at] == 0
    matrix = at + 4 + 5 * 4 + 2 * 4 + 4 * 2
    one = 1 << 16
    assert struct.unpack(">9i", data[matrix : matrix + 36]) == (one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def test_videos_held_upright_are_turned(photos, tmp_path):
    plain = write_video(tmp_path / "plain.mp4", photos[:24:3], 5)
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(plain.read_bytes())
    turn_display_matrix(turned)
    as_stored = pick_frames(plain, tmp_path / "a")
    assert pick_frames(plain, tmp_path / "again") == as_stored
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    as_shown = pick_frames(turned, tmp_path / "b")
    assert as_shown.names == as_stored.names and as_shown.size == (480, 640)
    for name in as_shown.names:
        stored, shown = (np.asarray(Image.open(tmp_path / folder / name), np.float64) for folder in "ab")
        assert np.abs(np.rot90(stored, -1) - shown).mean() < 1.5  # coded as JPEG twice; measured 0.6


FAULTS = {
    "absent": (lambda f: f.unlink(), r"walk\.mp4: no such video file"),
    "cut": (lambda f: f.write_bytes(f.read_bytes()[:-4000]), r"walk\.mp4: not a video that FFmpeg reads"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told(walk, tmp_path, fault):
    breaks, message = FAULTS[fault]
    video = tmp_path / "walk.mp4"
    video.write_bytes(walk[0].read_bytes())
    breaks(video)
    with pytest.raises(ScrflowError, match=message):
        pick_frames(video, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_camera_that_stands_still_is_told_and_nothing_is_overwritten(photos, tmp_path):
    still = write_video(tmp_path / "still.mp4", photos[:1] * 20, RATE)
    with pytest.raises(ScrflowError, match=r"still\.mp4: 1 of 20 frames differ enough"):
        pick_frames(still, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["still.mp4"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(ScrflowError, match=r"out: already exists"):
        pick_frames(still, tmp_path / "out")


def test_from_a_video_to_a_scene(walk, tmp_path, monkeypatch):
    """new-scene on a video: frames, config, then SfM and the scene stage as the config says."""
    config = without_scenes(tmp_path) / "config"
    monkeypatch.chdir(tmp_path)
    arguments = ["new-scene", "kitchen", str(walk[0]), "--every", "5"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and "frames of" in done.stdout, done.stdout
    project = Project(config, {"scenes": {"kitchen": {"sfm": {"max_features": 1024, "max_image_size": 640}}}})
    root = project.scene_root("kitchen")
    assert root == Path("resources/kitchen") and project.scene("kitchen").source.images == "images"
    run_sfm(project.sfm_stage("kitchen"), root, tmp_path / "sfm", 2)
    report = read_json(tmp_path / "sfm/sfm.json", "sfm")
    assert report["registered"] >= 0.9 * report["images"] and report["cameras"] == 1
    assert report["mean_reprojection_error_px"] < 1
    build_scene(project.scene_stage("kitchen"), root, tmp_path / "scene", tmp_path / "sfm")
    assert len(load_scene(tmp_path / "scene").mapping) >= 6
