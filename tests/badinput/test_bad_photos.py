"""Photos of unusual kinds are read rightly, bad ones are refused in one line, and what was there before stays.

Missing, truncated and turned photos in each reader are in tests/scene, a broken one among others of ``scrflow
localize`` in tests/localize/test_batch.py.
"""

import shutil
from pathlib import Path

import numpy as np
import photo_kinds as kinds
import pycolmap
import pytest
from PIL import Image

from scrflow.config import ExtractorConfig, PcaConfig, PcaStage, SfmConfig, SfmStage, TriangulateStage
from scrflow.core.errors import ScrflowError
from scrflow.core.images import read_rgb
from scrflow.features.pca import fit_pca
from scrflow.localize.query import query_photo
from scrflow.scene import load_scene
from scrflow.scene.build import build_scene
from scrflow.sfm.reconstruct import run_sfm
from scrflow.sfm.triangulate import triangulate


@pytest.fixture()
def built(tmp_path: Path) -> tuple[Path, Path, bytes]:
    """A dataset, the scene made of it, and the bytes of its scene.json."""
    root = kinds.dataset(tmp_path / "data")
    build_scene(kinds.STAGE, root, tmp_path / "scene")
    return root, tmp_path / "scene", (tmp_path / "scene/scene.json").read_bytes()


def put(root: Path, file: str, data: bytes) -> Path:
    """In place of 1.jpg, under another name where the kind has one."""
    (root / "images/1.jpg").unlink()
    (root / "poses.txt").write_text((root / "poses.txt").read_text().replace("1.jpg ", f"{file} "))
    (root / "images" / file).write_bytes(data)
    return root / "images" / file


def one_line(caught: pytest.ExceptionInfo) -> str:
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600
    return text


# ------------------------------------------------------------------------------------------------------------- unusual


@pytest.mark.parametrize("kind", kinds.UNUSUAL)
def test_unusual_photos_are_read_as_they_look(tmp_path, kind):
    file, data, meant, tolerance = kinds.UNUSUAL[kind]
    root = kinds.dataset(tmp_path / "data")
    path = put(root, file, data())
    build_scene(kinds.STAGE, root, tmp_path / "scene")
    read = load_scene(tmp_path / "scene").photo(file)
    assert read.mode == "RGB" and read.size == kinds.SIZE
    apart = np.abs(np.asarray(read, float) - np.asarray(meant().convert("RGB"), float)).mean()
    assert apart <= tolerance
    with Image.open(path) as image:
        for form in (path, path.read_bytes(), image):  # what is sent to a service and a picture in memory, too
            query, _ = query_photo(form, kinds.LINE)
            assert np.array_equal(np.asarray(query), np.asarray(read))


@pytest.mark.parametrize("kind", [k for k in kinds.UNUSUAL if k != "RGBA, half transparent"])
def test_colmap_reads_them_alike(tmp_path, kind):
    """SfM and triangulation leave the reading to COLMAP. (It shows what is transparent, and we do not.)"""
    file, data, _, _ = kinds.UNUSUAL[kind]
    (tmp_path / file).write_bytes(data())
    grey = pycolmap.Bitmap.read(str(tmp_path / file), False).to_array().squeeze().astype(float)
    # measured: at most 1.4, the weights of the channels
    assert np.abs(grey - np.asarray(read_rgb(tmp_path / file).convert("L"), float)).mean() < 2


# ----------------------------------------------------------------------------------------------------------------- bad


@pytest.mark.parametrize("kind", [*kinds.REFUSED, *kinds.NO_FILES])
def test_a_bad_photo_is_refused_and_the_earlier_scene_stays(built, kind):
    root, scene, before = built
    if kind in kinds.REFUSED:
        file, data, message = kinds.REFUSED[kind]
        put(root, file, data())
    else:
        file, (make, message) = "1.jpg", kinds.NO_FILES[kind]
        (root / "images/1.jpg").unlink()
        make(root / "images/1.jpg")
    for read in (
        lambda: build_scene(kinds.STAGE, root, scene),
        lambda: query_photo(root / "images" / file, kinds.LINE),
    ):
        with pytest.raises(ScrflowError, match=rf"images/{file}: {message}") as caught:
            read()
        one_line(caught)
    assert (scene / "scene.json").read_bytes() == before


def test_a_name_in_the_other_unicode_form(built):
    """macOS writes an accent as a character of its own; the list has it in one."""
    root, _, _ = built
    (root / "images/1.jpg").rename(root / "images/cafe\u0301.jpg")
    with pytest.raises(ScrflowError, match="another Unicode form"):
        read_rgb(root / "images/caf\u00e9.jpg")


def test_webp_is_refused_where_colmap_reads_the_photos(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(4):
        kinds.picture().save(tmp_path / f"images/{i}.webp")
    stage = SfmStage(source={"reader": "photos"}, split={"every": 4}, sfm=SfmConfig(), seed=0)
    with pytest.raises(ScrflowError, match=r"0\.webp: COLMAP does not read WEBP.*JPEG by scrflow upright"):
        run_sfm(stage, tmp_path, tmp_path / "sfm", 1)


# ------------------------------------------------------------------------------------------- changed between two stages

CHANGED = r"images/1\.jpg: image is not the one that the scene was made of \(its bytes have changed\)"


def test_a_photo_that_changes_after_the_scene_was_made(built, tmp_path):
    root, scene, _ = built
    assert load_scene(scene).photo("1.jpg").size == kinds.SIZE
    shutil.copy(root / "images/2.jpg", root / "images/1.jpg")  # a photo as good as it was, of the same size
    with pytest.raises(ScrflowError, match=CHANGED) as caught:
        load_scene(scene).photo("1.jpg")
    one_line(caught)
    sift = ExtractorConfig(name="sift", short_side=120, max_keypoints=64)
    with pytest.raises(ScrflowError, match=CHANGED):
        fit_pca(PcaStage(extractor=sift, pca=PcaConfig(dim=4, samples=256), seed=0), scene, tmp_path / "pca", 1)
    with pytest.raises(ScrflowError, match=CHANGED):
        triangulate(TriangulateStage(seed=0), scene, tmp_path / "triangulated", 1)
    assert not (tmp_path / "pca").exists() and not (tmp_path / "triangulated").exists()
