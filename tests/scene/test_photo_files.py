"""Cameras from EXIF, and upright copies, on real photos."""

import math

import numpy as np
import pycolmap
import pytest
from exif_photos import APPLE, F35, FOCAL, HEIGHT, SMALLER, WIDTH, with_exif
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import IFDRational
from small_datasets import built, source_for, stage_of

from scrflow.config import SceneStage, Split
from scrflow.core.errors import ScrflowError
from scrflow.core.images import read_rgb
from scrflow.scene import load_scene
from scrflow.scene.build import build_scene
from scrflow.scene.colmap_model import MODEL_DIGEST
from scrflow.scene.lists import PhotoNames, query_line
from scrflow.scene.photo_files import FOCAL_FACTOR, camera_from_exif, upright
from scrflow.sfm.matching import check_readable
from scrflow.storage.artifact import Stamp, folder_digest, write_json

CAMERAS = {
    # name: (size, tags, focal length px, source); the diagonal of 36x24 mm is 43.27 mm
    "35mm": ((768, 512), {F35: 28}, 28 / 43.27 * math.hypot(768, 512), "exif focal 35mm"),
    "35mm of a 4:3 photo": ((800, 600), {F35: 26}, 26 / 43.27 * 1000, "exif focal 35mm"),
    "35mm portrait": ((600, 800), {F35: 26}, 26 / 43.27 * 1000, "exif focal 35mm"),
    "35mm goes first": ((768, 512), {**SMALLER, F35: 28}, 28 / 43.27 * math.hypot(768, 512), "exif focal 35mm"),
    "sensor, photo made smaller": ((768, 512), SMALLER, 50 / 36 * 768, "exif focal + sensor"),
    "sensor by name": ((768, 512), {FOCAL: IFDRational(424, 100), **APPLE}, 4.24 / 4.89 * 768, "exif focal + sensor"),
    "cropped": ((600, 600), {F35: 28, WIDTH: 3072, HEIGHT: 2048}, FOCAL_FACTOR * 600, "guess"),
    "no sensor": ((768, 512), {FOCAL: IFDRational(50)}, FOCAL_FACTOR * 768, "guess"),
    "absurd": ((768, 512), {F35: 60000}, FOCAL_FACTOR * 768, "guess"),
    "zero": ((768, 512), {F35: 0, FOCAL: IFDRational(0, 1)}, FOCAL_FACTOR * 768, "guess"),
    "nothing": ((768, 512), {}, FOCAL_FACTOR * 768, "guess"),
}


@pytest.mark.parametrize("case", CAMERAS)
def test_camera_from_exif(photo, tmp_path, case):
    size, tags, focal, source = CAMERAS[case]
    path = with_exif(photo, tmp_path / "photo.jpg", size, **tags)
    camera, told = camera_from_exif(path, "SIMPLE_RADIAL")
    assert told == source and camera.has_prior_focal_length == (source != "guess")
    np.testing.assert_allclose(camera.params, [focal, size[0] / 2, size[1] / 2, 0], rtol=1e-3)
    assert (camera.width, camera.height) == size and camera.model.name == "SIMPLE_RADIAL"


def test_query_intrinsics_from_exif_or_an_error(colmap, photo, tmp_path):
    """Queries that the model lacks: EXIF tells the camera, with a warning; without it the run stops, or guesses."""
    known = with_exif(photo, colmap / "images/q/known.jpg", (600, 400), **{F35: 28})
    with_exif(photo, colmap / "images/q/unknown.jpg", (600, 400))
    (colmap / "one.txt").write_text("q/known.jpg\n")
    (colmap / "both.txt").write_text("q/known.jpg\nq/unknown.jpg\n")
    source = source_for("colmap", model="sparse/0", images="images")

    def stage(listed: str, **split) -> SceneStage:
        return stage_of(source, Split(queries={"all": listed}, **split))

    (query,) = built(stage("one.txt"), colmap, tmp_path / "scene").queries
    focal = 28 / 43.27 * math.hypot(600, 400)
    np.testing.assert_allclose(query.camera.params, [focal, 300, 200], rtol=1e-3)
    assert query.camera.model.name == "SIMPLE_PINHOLE" and query.name == "q/known.jpg"
    message = r"both\.txt: no intrinsics of 1 queries \(q/unknown\.jpg\).*split\.guess_cameras: true"
    with pytest.raises(ScrflowError, match=message):
        build_scene(stage("both.txt"), colmap, tmp_path / "scene")
    assert len(load_scene(tmp_path / "scene").queries) == 1  # the earlier artifact is untouched
    scene = built(stage("both.txt", guess_cameras=True), colmap, tmp_path / "scene")
    cameras = {q.name: q.camera for q in scene.queries}
    assert cameras["q/unknown.jpg"].params[0] == pytest.approx(FOCAL_FACTOR * 600)
    given = query_line("q/unknown.jpg", camera_from_exif(known, "PINHOLE")[0])
    (colmap / "both.txt").write_text(f"q/known.jpg\n{given}\n")
    cameras = {q.name: q.camera for q in built(stage("both.txt"), colmap, tmp_path / "scene").queries}
    assert cameras["q/unknown.jpg"].model.name == "PINHOLE"


def test_photos_that_sfm_left_out(colmap, photo, tmp_path, caplog):
    """Without a shared camera: EXIF, else the median of the registered ones of that size, else a guess that no query
    may have."""
    sfm = colmap / "sparse/0"
    source = source_for("photos", single_camera=False)
    write_json(sfm / "sfm.json", {MODEL_DIGEST: folder_digest(sfm)}, Stamp.make("sfm", source, "test"))
    with_exif(photo, colmap / "images/x/exif.jpg", (600, 400), **{F35: 28})
    with_exif(photo, colmap / "images/x/alike.jpg", (512, 384))
    with_exif(photo, colmap / "images/x/other.jpg", (600, 400))
    (colmap / "known.txt").write_text("x/exif.jpg\nx/alike.jpg\n")
    (colmap / "all.txt").write_text("x/exif.jpg\nx/alike.jpg\nx/other.jpg\n")

    def queries(listed: str, **split) -> dict[str, pycolmap.Camera]:
        stage = stage_of(source, Split(queries={"all": listed}, **split), "unit")
        return {q.name: q.camera for q in built(stage, colmap, tmp_path / "scene", sfm).queries}

    found = queries("known.txt")
    assert found["x/exif.jpg"].params[0] == pytest.approx(28 / 43.27 * math.hypot(600, 400), rel=1e-3)
    (registered,) = {tuple(v.camera.params) for v in load_scene(tmp_path / "scene").mapping}
    assert tuple(found["x/alike.jpg"].params) == registered
    assert "of 1 photos, which take the median camera" in caplog.text and "x/alike.jpg" in caplog.text
    with pytest.raises(ScrflowError, match=r"no intrinsics of 1 queries \(x/other\.jpg\)"):
        queries("all.txt")
    assert queries("all.txt", guess_cameras=True)["x/other.jpg"].params[0] == FOCAL_FACTOR * 600


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_upright(photo, tmp_path, orientation, suffix):
    """Pixels as viewers show them, the focal length kept; JPEG within 48 dB of them (measured 52 to 56)."""
    folder = tmp_path / "in"
    tags = {F35: 28, WIDTH: 768, HEIGHT: 512}
    turned = with_exif(photo, folder / f"a/turned{suffix}", top={0x0112: orientation, 0x0110: "phone"}, **tags)
    plain = with_exif(photo, folder / f"plain{suffix}", **tags)
    done = upright(folder, tmp_path / "out")
    assert done.turned == (f"a/turned{suffix}",) and done.copied == 1
    assert (tmp_path / f"out/plain{suffix}").read_bytes() == plain.read_bytes()
    with Image.open(turned) as image:
        shown = np.asarray(ImageOps.exif_transpose(image), np.float64)
    with Image.open(tmp_path / f"out/a/turned{suffix}") as image:
        found, exif = np.asarray(image, np.float64), image.getexif()
    assert found.shape == shown.shape == ((768, 512, 3) if orientation > 4 else (512, 768, 3))
    error = np.mean((found - shown) ** 2)
    assert error == 0 if suffix == ".png" else 10 * np.log10(255**2 / error) > 48
    inner = exif.get_ifd(0x8769)
    assert exif.get(0x0112, 1) == 1 and exif[0x0110] == "phone" and inner[0xA405] == 28
    assert (inner[0xA002], inner[0xA003]) == (found.shape[1], found.shape[0])
    camera, source = camera_from_exif(tmp_path / f"out/a/turned{suffix}", "SIMPLE_RADIAL")
    assert source == "exif focal 35mm"
    assert camera.mean_focal_length() == pytest.approx(28 / 43.27 * math.hypot(768, 512), rel=1e-3)
    size = turned.stat().st_size
    assert suffix == ".png" or 0.95 < (tmp_path / f"out/a/turned{suffix}").stat().st_size / size < 1.05


def test_upright_refuses(photo, tmp_path):
    with_exif(photo, tmp_path / "photos/turned.jpg", top={0x0112: 6})
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(ScrflowError, match=r"out: already exists"):
        upright(tmp_path / "photos", tmp_path / "out")
    with pytest.raises(ScrflowError, match=r"photos/out: lies in .*photos"):
        upright(tmp_path / "photos", tmp_path / "photos/out")
    damaged = tmp_path / "photos/damaged.jpg"
    damaged.write_bytes((tmp_path / "photos/turned.jpg").read_bytes()[:20_000])
    with pytest.raises(ScrflowError, match=r"damaged\.jpg: image is damaged"):
        upright(tmp_path / "photos", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("suffix", [".tif", ".bmp", ".mpo.jpg"])
def test_upright_of_other_files(photo, tmp_path, suffix):
    """BMP has no EXIF; phones write several pictures in a JPEG (MPO), of which the first is kept (49.9 dB)."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"in/photo{suffix}"
    path.parent.mkdir()
    with Image.open(photo) as image:
        small = image.resize((96, 64))
        if suffix == ".mpo.jpg":
            small.save(path, "MPO", save_all=True, append_images=[small], exif=exif.tobytes(), quality=92)
        elif suffix == ".bmp":
            small.save(path)
        else:
            small.save(path, exif=exif.tobytes())
    done = upright(tmp_path / "in", tmp_path / "out")
    with Image.open(path) as image, Image.open(tmp_path / f"out/photo{suffix}") as turned:
        shown = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.float64)
        found = np.asarray(turned.convert("RGB"), np.float64)
        assert turned.getexif().get(0x0112, 1) == 1
    assert bool(done.turned) == (suffix != ".bmp") and found.shape == shown.shape
    error = np.mean((found - shown) ** 2)
    assert 10 * np.log10(255**2 / error) > 47 if suffix == ".mpo.jpg" else error == 0


@pytest.mark.parametrize(("name", "form"), [("a.HEIC", "HEIF"), ("a.webp", "WEBP"), ("really webp.jpg", "WEBP")])
def test_photos_that_colmap_does_not_read_become_jpeg(photo, tmp_path, name, form):
    """With their camera, turned upright; transparent pixels are drawn on black."""
    folder = tmp_path / "in"
    jpeg = with_exif(photo, folder / "b.jpg", (600, 400), **{F35: 28})
    with Image.open(jpeg) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image = image.convert("RGBA") if form == "WEBP" else image
        image.save(folder / name, form, quality=95, exif=exif.tobytes())
    assert read_rgb(folder / name).size in ((600, 400), (400, 600))
    (camera, source), (same, _) = (camera_from_exif(folder / n, "SIMPLE_PINHOLE") for n in (name, "b.jpg"))
    assert source == "exif focal 35mm" and camera.params[0] == pytest.approx(same.params[0], rel=1e-3)
    with pytest.raises(ScrflowError, match=rf"{name}: COLMAP does not read {form}.*scrflow upright"):
        check_readable(folder, [name])
    upright(folder, tmp_path / "out")
    copy = PhotoNames(tmp_path / "out").find(name, "list")
    assert camera_from_exif(tmp_path / "out" / copy, "SIMPLE_PINHOLE")[1] == source
    check_readable(tmp_path / "out", [copy])
    with Image.open(tmp_path / "out" / copy) as image, Image.open(jpeg) as before:
        shown = np.asarray(before.transpose(Image.Transpose.ROTATE_270), np.float64)
        assert np.abs(np.asarray(image, np.float64) - shown).mean() < 3
    (folder / name).write_bytes(b"no image")
    with pytest.raises(ScrflowError, match=rf"{name}: image is damaged"):
        read_rgb(folder / name)
