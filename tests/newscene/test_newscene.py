"""scrflow new-scene and upright, and cameras from EXIF, on real photos (the demo's are rendered) in many layouts."""

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import yaml
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import IFDRational
from typer.testing import CliRunner

from scrflow.cli.app import app
from scrflow.config import ColmapSource, PhotosSource, SceneConfig, SceneStage, Split
from scrflow.core.errors import ScrflowError
from scrflow.newscene import NewScene, draft_scene
from scrflow.newscene.forms import detect
from scrflow.pipeline.project import Project
from scrflow.scene import load_scene
from scrflow.scene.build import build_scene
from scrflow.scene.colmap_model import MODEL_DIGEST, read_model, views_of_model
from scrflow.scene.lists import query_line
from scrflow.scene.photo_files import FOCAL_FACTOR, camera_from_exif, upright
from scrflow.storage.artifact import Stamp, folder_digest, write_json

REPO = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SCRFLOW_DATA", "../shared/data"))
DEMO = REPO / "demo"


@pytest.fixture(scope="module")
def photo() -> Path:
    path = DATA / "herzjesu/images/0000.jpg"
    if not path.is_file():
        pytest.skip(f"real photos are not at hand ({DATA}/herzjesu)")
    return path


# ---------------------------------------------------------------------------------------------------------------- EXIF


def with_exif(source: Path, target: Path, size=(768, 512), top=None, **tags) -> Path:
    """A smaller copy with EXIF tags by number."""
    exif = Image.Exif()
    exif.update(top or {})
    exif.get_ifd(0x8769).update({int(tag.removeprefix("x"), 16): value for tag, value in tags.items()})
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as image:
        image.resize(size).save(target, exif=exif.tobytes())
    return target


F35, FOCAL, WIDTH, HEIGHT, PLANE_X, PLANE_Y, UNIT = "xA405", "x920A", "xA002", "xA003", "xA20E", "xA20F", "xA210"
FULL_FRAME = {FOCAL: IFDRational(50), PLANE_X: IFDRational(3072 * 254, 360), PLANE_Y: IFDRational(2048 * 254, 240)}
SMALLER = {**FULL_FRAME, WIDTH: 3072, HEIGHT: 2048, UNIT: 2}  # as a 3072x2048 photo made smaller keeps it
APPLE = {"top": {0x010F: "Apple", 0x0110: "iPhone 6"}}
CAMERAS = {
    # name: (size, tags, focal length px, source); the diagonal of 36x24 mm is 43.27 mm
    "35mm": ((768, 512), {F35: 28}, 28 / 43.27 * math.hypot(768, 512), "exif focal 35mm"),
    "35mm of a 4:3 photo": ((800, 600), {F35: 26}, 26 / 43.27 * 1000, "exif focal 35mm"),
    "35mm portrait": ((600, 800), {F35: 26}, 26 / 43.27 * 1000, "exif focal 35mm"),
    "35mm goes first": ((768, 512), {**SMALLER, F35: 28}, 28 / 43.27 * math.hypot(768, 512), "exif focal 35mm"),
    "sensor, photo made smaller": ((768, 512), SMALLER, 50 / 36 * 768, "exif focal + sensor"),
    "sensor known by name": (
        (768, 512),
        {FOCAL: IFDRational(424, 100), **APPLE},
        4.24 / 4.89 * 768,
        "exif focal + sensor",
    ),
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


def test_camera_from_exif_is_what_sfm_starts_from(photo, tmp_path):
    """pycolmap's own import: the same where EXIF has the 35 mm equivalent."""
    path = with_exif(photo, tmp_path / "photo.jpg", (800, 600), **{F35: 26})
    inferred = pycolmap.infer_camera_from_image(str(path), pycolmap.ImageReaderOptions(camera_model="SIMPLE_RADIAL"))
    np.testing.assert_allclose(camera_from_exif(path, "SIMPLE_RADIAL")[0].params, inferred.params, rtol=1e-6)


# ------------------------------------------------------------------------------------------------------ a COLMAP scene


@pytest.fixture(scope="module")
def views():
    return views_of_model(read_model(DEMO / "model"))


@pytest.fixture
def colmap(tmp_path, views) -> Path:
    """Ten demo images in COLMAP's usual layout: sparse/0 and images."""
    root = tmp_path / "place"
    model = read_model(DEMO / "model")
    keep = {v.name for v in views if v.name.startswith("mapping/")}
    keep = set(sorted(keep)[:40:4])
    for image_id in list(model.reg_image_ids()):
        if model.image(image_id).name not in keep:
            model.deregister_frame(model.image(image_id).frame_id)
    (root / "sparse/0").mkdir(parents=True)
    model.write_binary(str(root / "sparse/0"))
    for name in keep:
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DEMO / "images" / name, root / "images" / name)
    return root


@pytest.fixture(scope="module")
def project() -> Project:
    return Project(REPO / "config")


def draft(project: Project, path: Path, **options):
    return draft_scene(NewScene(name="place", path=path, **options), project, gpu=False)


def test_a_colmap_scene_from_any_of_its_folders(colmap, project):
    for path in (colmap, colmap / "sparse", colmap / "sparse/0"):
        found = draft(project, path)
        source = found.config.source
        assert isinstance(source, ColmapSource) and found.config.split.every == 8
        assert Path(found.config.root) / source.model == colmap / "sparse/0", path
        assert Path(found.config.root) / source.images == colmap / "images"
    rows = dict(found.rows)
    assert rows["photos"].startswith("10 under") and rows["sizes"] == "512x384: 10" and rows["poses"] == "10 of 10"
    assert rows["method"] == "rscore-cpu" == found.config.method and rows["EXIF focal lengths"].startswith("0 of 10")
    assert any(line.startswith("Scale: this form has no unit") for line in found.missing)
    metric = draft(project, colmap, unit="m", outdoor=True).config
    assert metric.unit == "m" and metric.depth_range == (0.1, 50) and metric.thresholds[0] == (0.25, 2)


def test_query_intrinsics_from_exif_or_an_error(colmap, photo, project, tmp_path):
    """Queries that the model lacks: EXIF tells the camera, with a warning; without it the run stops, or guesses."""
    known = with_exif(photo, colmap / "images/q/known.jpg", (600, 400), **{F35: 28})
    with_exif(photo, colmap / "images/q/unknown.jpg", (600, 400))
    (colmap / "one.txt").write_text("q/known.jpg\n")
    (colmap / "both.txt").write_text("q/known.jpg\nq/unknown.jpg\n")
    source = ColmapSource(reader="colmap", model="sparse/0", images="images")

    def stage(listed: str, **split) -> SceneStage:
        split = Split(queries={"all": listed}, **split)
        return SceneStage(source=source, split=split, min_mapping_images=3, unit="m")

    build_scene(stage("one.txt"), colmap, tmp_path / "scene")
    (query,) = load_scene(tmp_path / "scene").queries
    focal = 28 / 43.27 * math.hypot(600, 400)
    np.testing.assert_allclose(query.camera.params, [focal, 300, 200], rtol=1e-3)
    assert query.camera.model.name == "SIMPLE_PINHOLE" and query.name == "q/known.jpg"
    message = r"both\.txt: no intrinsics of 1 queries \(q/unknown\.jpg\).*split\.guess_cameras: true"
    with pytest.raises(ScrflowError, match=message):
        build_scene(stage("both.txt"), colmap, tmp_path / "scene")
    assert len(load_scene(tmp_path / "scene").queries) == 1  # the earlier artifact is untouched
    build_scene(stage("both.txt", guess_cameras=True), colmap, tmp_path / "scene")
    cameras = {q.name: q.camera for q in load_scene(tmp_path / "scene").queries}
    assert cameras["q/unknown.jpg"].params[0] == pytest.approx(FOCAL_FACTOR * 600)
    given = query_line("q/unknown.jpg", camera_from_exif(known, "PINHOLE")[0])
    (colmap / "both.txt").write_text(f"q/known.jpg\n{given}\n")
    build_scene(stage("both.txt"), colmap, tmp_path / "scene")
    cameras = {q.name: q.camera for q in load_scene(tmp_path / "scene").queries}
    assert cameras["q/unknown.jpg"].model.name == "PINHOLE"

    # new-scene says the same before the run
    found = draft(project, colmap, queries=colmap / "one.txt")
    assert found.config.split == Split(queries={"all": "one.txt"})
    assert any(line.startswith("Intrinsics of 1 queries: from EXIF") for line in found.missing)
    assert any(line.startswith("Reference poses of 1 queries") for line in found.missing)
    with pytest.raises(ScrflowError, match=r"images/q: 1 queries have no intrinsics.*q/unknown\.jpg.*--guess-cameras"):
        draft(project, colmap, queries=colmap / "images/q")
    found = draft(project, colmap, queries=colmap / "images/q", guess_cameras=True)
    assert found.config.split.guess_cameras
    assert found.lists == ((colmap / "place-queries.txt", "q/known.jpg\nq/unknown.jpg\n"),)


def test_photos_that_sfm_left_out(colmap, photo, tmp_path, caplog):
    """Without a shared camera: EXIF, else the median of the registered ones of that size, else a guess that no query
    may have."""
    sfm = colmap / "sparse/0"
    source = PhotosSource(reader="photos", single_camera=False)
    write_json(sfm / "sfm.json", {MODEL_DIGEST: folder_digest(sfm)}, Stamp.make("sfm", source, "test"))
    with_exif(photo, colmap / "images/x/exif.jpg", (600, 400), **{F35: 28})
    with_exif(photo, colmap / "images/x/alike.jpg", (512, 384))
    with_exif(photo, colmap / "images/x/other.jpg", (600, 400))
    (colmap / "known.txt").write_text("x/exif.jpg\nx/alike.jpg\n")
    (colmap / "all.txt").write_text("x/exif.jpg\nx/alike.jpg\nx/other.jpg\n")

    def queries(listed: str, **split) -> dict[str, pycolmap.Camera]:
        split = Split(queries={"all": listed}, **split)
        stage = SceneStage(source=source, split=split, min_mapping_images=3, unit="unit")
        build_scene(stage, colmap, tmp_path / "scene", sfm)
        return {q.name: q.camera for q in load_scene(tmp_path / "scene").queries}

    found = queries("known.txt")
    assert found["x/exif.jpg"].params[0] == pytest.approx(28 / 43.27 * math.hypot(600, 400), rel=1e-3)
    (registered,) = {tuple(v.camera.params) for v in load_scene(tmp_path / "scene").mapping}
    assert tuple(found["x/alike.jpg"].params) == registered
    assert "of 1 photos, which take the median camera" in caplog.text and "x/alike.jpg" in caplog.text
    with pytest.raises(ScrflowError, match=r"no intrinsics of 1 queries \(x/other\.jpg\)"):
        queries("all.txt")
    assert queries("all.txt", guess_cameras=True)["x/other.jpg"].params[0] == FOCAL_FACTOR * 600


def test_depths_of_the_models_points_make_the_proposal(colmap, project):
    """SYNTHETIC points on a wall 20 units before each camera."""
    model = read_model(colmap / "sparse/0")
    for image_id in list(model.reg_image_ids()):
        image = model.image(image_id)
        pixels = np.array([[100.0, 100.0], [300.0, 200.0]])
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(p) for p in pixels])
        rays = np.column_stack([model.camera(image.camera_id).cam_from_img(pixels), np.ones(2)]) * 20
        for index, xyz in enumerate(rays):
            world = image.cam_from_world().inverse() * xyz
            track = pycolmap.Track([pycolmap.TrackElement(image_id, index)])
            model.add_point3D(world, track, np.zeros(3, np.uint8))
    model.write_binary(str(colmap / "sparse/0"))
    config = draft(project, colmap).config
    assert config.depth_range == (0.8, 64) and config.depth_bias == 2.4 and config.target_depth == 80
    assert config.thresholds == ((0.08, 1), (0.16, 2), (0.4, 5))
    found = draft(project, colmap, unit="m")
    assert found.config.depth_range == (0.1, 8) and any("Indoors? The median depth is 20 m" in m for m in found.missing)


# ------------------------------------------------------------------------------------------------------- other layouts


@pytest.fixture
def photos(tmp_path) -> Path:
    """Twelve demo photos, six of them in a folder of queries."""
    root = tmp_path / "photos"
    for i in range(12):
        target = root / ("map" if i % 2 else "ask") / f"{i}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DEMO / f"images/mapping/{i:03d}.jpg", target)
    return root


def test_bare_photos(photos, project, tmp_path, monkeypatch):
    found = draft(project, photos / "map")
    assert found.config.source.reader == "photos" and found.config.source.single_camera
    assert found.config.sfm.median_depth == 2.5 and found.config.unit == "unit"
    assert any(line.startswith("Scale: SfM has none") for line in found.missing)
    assert any("not in EXIF of 6 photos" in line for line in found.missing)
    queries = draft(project, photos, queries=photos / "ask", outdoor=True)
    assert queries.config.source.images == "." and queries.config.sfm.median_depth == 10
    assert queries.lists[0][1] == "".join(f"ask/{i}.jpg\n" for i in (0, 10, 2, 4, 6, 8))
    # paths: absolute where there is nothing else, relative to data_root or the project where it lies there
    assert found.config.root == str(photos / "map") and not found.config.in_project
    monkeypatch.setenv("SCRFLOW_DATA", str(tmp_path))
    assert draft(project, photos).config.root == "photos"
    monkeypatch.setenv("SCRFLOW_DATA", "elsewhere")
    monkeypatch.chdir(tmp_path)
    config = draft(project, Path("photos")).config
    assert config.root == "photos" and config.in_project


def test_several_cameras_are_noticed(photos, photo, project):
    for i in range(3):
        with_exif(photo, photos / f"map/zoomed{i}.jpg", (512, 384), **{F35: 70})
        with_exif(photo, photos / f"map/wide{i}.jpg", (512, 384), **{F35: 26})
    found = draft(project, photos / "map")
    assert not found.config.source.single_camera
    assert any("focal lengths of 26 to 70 mm" in line for line in found.missing)
    assert dict(found.rows)["EXIF focal lengths"] == "6 of 12 photos, 35 mm equivalent 26, 70 mm"
    assert draft(project, photos / "map", single_camera=True).config.source.single_camera
    with Image.open(photos / "map/1.jpg") as image:
        image.resize((400, 300)).save(photos / "map/1.jpg")
    assert not draft(project, photos / "map").config.source.single_camera
    with pytest.raises(ScrflowError, match=r"2 sizes .*which one camera cannot have; leave out --single-camera"):
        draft(project, photos / "map", single_camera=True)


def pose_lines(views, names) -> list[str]:
    by_name = {v.name: v for v in views}
    lines = []
    for name in names:
        x, y, z, w = pycolmap.Rotation3d(by_name[name].cam_from_world[:, :3]).quat
        numbers = [w, x, y, z, *by_name[name].cam_from_world[:, 3], by_name[name].camera.mean_focal_length()]
        lines.append(" ".join([name, *map(repr, map(float, numbers))]))
    return lines


def layout(root: Path, form: str, views) -> None:
    """A small dataset in the layout of a form, with demo photos."""
    names = [f"mapping/{i:03d}.jpg" for i in range(8)]
    by_name = {v.name: v for v in views}

    def put(name: str, target: str) -> None:
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DEMO / "images" / name, root / target)

    def world_from_cam(name: str) -> np.ndarray:
        return np.linalg.inv(np.vstack([by_name[name].cam_from_world, [0, 0, 0, 1]]))

    if form == "pose list":
        for name in names:
            put(name, name)
        (root / "poses.txt").write_text("\n".join(pose_lines(views, names)) + "\n")
    elif form == "nerfstudio":
        frames = []
        for name in names:
            put(name, f"images/{Path(name).name}")
            matrix = (world_from_cam(name) @ np.diag([1, -1, -1, 1])).tolist()
            frames.append({"file_path": f"images/{Path(name).name}", "transform_matrix": matrix})
        focal = by_name[names[0]].camera.mean_focal_length()
        (root / "transforms.json").write_text(json.dumps({"fl_x": focal, "frames": frames}))
    elif form == "DSAC*":
        for i, name in enumerate(names):
            split = "train" if i < 6 else "test"
            put(name, f"{split}/rgb/{i}.jpg")
            for kind, values in (("poses", world_from_cam(name)), ("calibration", np.array([[400.0]]))):
                (root / split / kind).mkdir(exist_ok=True)
                np.savetxt(root / split / kind / f"{i}.txt", values)


@pytest.mark.parametrize("form", ["pose list", "nerfstudio", "DSAC*"])
def test_forms_with_poses_are_recognised_and_build(form, views, project, tmp_path):
    layout(tmp_path / "data", form, views)
    found = draft(project, tmp_path / "data")
    rows = dict(found.rows)
    assert rows["form"].startswith(form) and rows["poses"] == "8 of 8", rows
    config = found.config
    stage = SceneStage(source=config.source, split=config.split, min_mapping_images=3, unit=config.unit)
    build_scene(stage, Path(config.root), tmp_path / "scene")
    scene = load_scene(tmp_path / "scene")
    assert len(scene.queries) == (2 if form == "DSAC*" else 1) and len(scene.mapping) == 8 - len(scene.queries)
    assert config.unit == ("m" if form == "DSAC*" else "unit")
    assert draft(project, tmp_path / "data", form="photos").config.source.reader == "photos"
    if form == "nerfstudio":
        (tmp_path / "data/images/003.jpg").unlink()
        with pytest.raises(ScrflowError, match=r"1 of 8 frames have no image .*--skip-missing"):
            draft(project, tmp_path / "data")
        assert dict(draft(project, tmp_path / "data", skip_missing=True).rows)["poses"] == "7 of 7"


NVM = "NVM_V3\n\n1\nseq/a.jpg\t500 1 0 0 0 0 0 0 0.01 0\n\n0\n"
SKELETONS = {
    # form: (files, text), the path's folder, keys of the source
    "kapture": (
        [
            f"{p}/sensors/{name}"
            for p in ("mapping", "query")
            for name in ("sensors.txt", "records_camera.txt", "a.jpg")
        ],
        {"reader": "kapture", "mapping": "mapping", "queries": {"all": "query"}},
    ),
    "7-Scenes": (
        ["TrainSplit.txt", "TestSplit.txt", "seq-01/frame-000000.pose.txt", "seq-01/frame-000000.color.png"],
        {"reader": "sevenscenes", "folder": "data", "poses": "dslam"},
    ),
    "12-Scenes": (
        ["info.txt", "split.txt", "data/frame-000000.pose.txt", "data/frame-000000.color.jpg"],
        {"reader": "twelvescenes", "folder": "home/data", "poses": "dslam"},
    ),
    "Map-free": (
        ["intrinsics.txt", "poses.txt", "seq0/frame_00000.jpg", "seq1/frame_00000.jpg"],
        {"reader": "mapfree"},
    ),
    "Cambridge Landmarks": (
        ["dataset_train.txt", "dataset_test.txt", "reconstruction.nvm", "seq1/frame00001.png"],
        {"reader": "cambridge"},
    ),
    "NVM": (
        ["models/place.nvm", "photos/seq/a.jpg"],
        {"reader": "nvm", "model": "models/place.nvm", "images": "photos"},
    ),
}


@pytest.mark.parametrize("form", SKELETONS)
def test_datasets_are_recognised_by_their_files(form, tmp_path):
    """Empty files of the true names: detection alone, and keys that the scene's config takes."""
    files, source = SKELETONS[form]
    root = tmp_path / "home/data"
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(NVM if name.endswith(".nvm") else "")
    found = detect(root)
    assert found[0].form == form and found[0].source == source, found
    assert found[-1].form == "photos" and len(found) == (3 if form == "Cambridge Landmarks" else 2)
    assert (found[0].unit == "m") == (form != "NVM")
    values = {"description": "", "licence": "", "root": str(found[0].root), "method": "ace", "source": source}
    config = SceneConfig.model_validate(values)
    assert any(path.is_file() for path in config.source.files(Path(config.root)))


def test_real_scenes(project, monkeypatch):
    """fox and redkitchen as they lie there: lists beside the scene are taken, and data_root is seen."""
    for name in ("fox", "redkitchen"):
        if not (DATA / name).is_dir():
            pytest.skip(f"real photos are not at hand ({DATA}/{name})")
    monkeypatch.setenv("SCRFLOW_DATA", str(DATA))
    fox = draft(project, DATA / "fox", skip_missing=True)
    assert fox.config.root == "fox" and fox.config.split.queries == {"all": "queries.txt"}
    assert dict(fox.rows)["sizes"] == "1080x1920: 50" and dict(fox.rows)["cameras"] == "1 OPENCV"
    kitchen = draft(project, DATA / "redkitchen/poses_sfm.txt", unit="m").config
    assert kitchen.source.poses == "poses_sfm.txt" and kitchen.split.mapping == "mapping.txt"


# -------------------------------------------------------------------------------------------------------------- faults


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def turn(root: Path) -> None:
    for name in ("1.jpg", "3.jpg"):
        exif = Image.Exif()
        exif[0x0112] = 6
        with Image.open(root / "map" / name) as image:
            image.save(root / "map" / name, exif=exif.tobytes())


def heic_only(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()
    (root / "IMG_1.HEIC").write_bytes(b"")


PHOTO_FAULTS = {
    "none": (lambda r: shutil.rmtree(r), "photos: no such file or folder"),
    "empty": (lambda r: (shutil.rmtree(r), r.mkdir()), "photos: an empty folder; expected one of: kapture"),
    "heic": (heic_only, r"photos: no photos and no form known in it, only \.heic"),
    "cut": (lambda r: (cut(r / "map/1.jpg"), cut(r / "map/3.jpg")), r"2 of 12 photos cannot be used: map/1\.jpg \("),
    "text": (
        lambda r: (r / "map/1.jpg").write_text("no"),
        r"1 of 12 photos cannot be used: map/1\.jpg \(image is damaged or truncated \(not an",
    ),
    "newline": (lambda r: (r / "map/1.jpg").rename(r / "map/1\n1.jpg"), r"image name 'map/1\\n1\.jpg' has a control"),
    "turned": (turn, r"2 of 12 photos are turned by their EXIF tag alone \(map/1\.jpg, map/3\.jpg\): scrflow upright"),
    "depth": (
        lambda r: Image.fromarray(np.zeros((4, 4), np.uint16)).save(r / "map/depth.png"),
        r"1 images are depth maps or the like \(map/depth\.png\)",
    ),
}


@pytest.mark.parametrize("fault", PHOTO_FAULTS)
def test_photo_faults_are_one_line(photos, project, fault):
    breaks, message = PHOTO_FAULTS[fault]
    breaks(photos)
    with pytest.raises(ScrflowError, match=message) as raised:
        draft(project, photos)
    assert "\n" not in str(raised.value)


MODEL_FAULTS = {
    "images missing": (
        lambda r: [p.unlink() for p in sorted((r / "images/mapping").iterdir())[:3]],
        {},
        r"sparse/0: 3 of its 10 images are not under .*images: mapping/000\.jpg, mapping/\d+\.jpg, mapping",
    ),
    "resized": (
        lambda r: Image.new("RGB", (256, 192)).save(r / "images/mapping/000.jpg"),
        {},
        r"sparse/0: 1 images have another size .*mapping/000\.jpg is 256x192, its camera 512x384",
    ),
    "query not there": (lambda r: (r / "q.txt").write_text("a.jpg\n"), {"queries": "q.txt"}, r"q\.txt: 1 of 1 queries"),
    "no query list": (lambda r: None, {"queries": "q.txt"}, r"q\.txt: no such file"),
    "queries and every": (lambda r: None, {"queries": "images", "every": 3}, "exclude each other"),
    "queries elsewhere": (lambda r: None, {"queries": "sparse"}, r"sparse: query photos belong under .*images"),
    "form": (lambda r: None, {"form": "kapture"}, "not of form 'kapture'; it looks like COLMAP, photos"),
    "method": (lambda r: None, {"method": "none"}, "no method 'none'"),
    "skip missing": (lambda r: None, {"skip_missing": True}, "--skip-missing is for the form nerfstudio"),
}


@pytest.mark.parametrize("fault", MODEL_FAULTS)
def test_model_faults_are_one_line(colmap, project, fault):
    breaks, options, message = MODEL_FAULTS[fault]
    breaks(colmap)
    if "queries" in options:
        options = {**options, "queries": colmap / options["queries"]}
    with pytest.raises(ScrflowError, match=message) as raised:
        draft(project, colmap, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["a b", "../up", "", "scene", "rscore-cpu", "-x"])
def test_names_that_cannot_be(colmap, project, name):
    with pytest.raises(ScrflowError, match="scene"):
        draft_scene(NewScene(name=name, path=colmap), project, gpu=False)


# ---------------------------------------------------------------------------------------------------------- the command


def test_the_command_writes_once_and_the_project_takes_it(photos, tmp_path):
    config = tmp_path / "config"
    shutil.copytree(REPO / "config", config, ignore=shutil.ignore_patterns("scenes", "tables"))
    (config / "scenes").mkdir()
    arguments = ["new-scene", "yard", str(photos), "--queries", str(photos / "ask"), "--config", str(config)]
    arguments += ["--licence", "ours: all of it # really"]
    run = CliRunner()
    dry = run.invoke(app, [*arguments, "--dry-run"], catch_exceptions=False)
    assert "reader: photos" in dry.stdout and not list((config / "scenes").iterdir())
    done = run.invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and "snakemake --cores all results/yard/poses.txt" in done.stdout, done.stdout
    text = (config / "scenes/yard.yaml").read_text()
    assert text in dry.stdout and text.count("#") >= 6
    project = Project(config)
    scene = project.scene("yard")
    assert scene == SceneConfig.model_validate(yaml.safe_load(text)) and scene.licence == "ours: all of it # really"
    assert project.scene_root("yard") == photos  # data_root / absolute
    assert scene.split.queries == {"all": "yard-queries.txt"} and (photos / "yard-queries.txt").is_file()
    (config / "scenes/yard.yaml").write_text(text + "citation: mine\n")
    with pytest.raises(ScrflowError, match=r"yard\.yaml: is there already; --force"):
        run.invoke(app, arguments, catch_exceptions=False)
    assert (config / "scenes/yard.yaml").read_text() == text + "citation: mine\n"
    assert run.invoke(app, [*arguments, "--force"], catch_exceptions=False).exit_code == 0
    assert (config / "scenes/yard.yaml").read_text() == text


# -------------------------------------------------------------------------------------------------------------- upright


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_upright(photo, project, tmp_path, orientation, suffix):
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


@pytest.mark.parametrize("suffix", [".tif", ".webp", ".bmp", ".mpo.jpg"])
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


def test_upright_refuses(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(ScrflowError, match=r"out: is there already"):
        upright(photos, tmp_path / "out")
    with pytest.raises(ScrflowError, match=r"photos/out: lies in .*photos"):
        upright(photos, photos / "out")
    turn(photos)
    cut(photos / "map/3.jpg")
    with pytest.raises(ScrflowError, match=r"map/3\.jpg: image is damaged"):
        upright(photos, tmp_path / "new")
    assert not (tmp_path / "new").exists()
