"""scrflow new-scene on photos (the demo's are rendered) in many layouts."""

import shutil
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import yaml
from exif_photos import DEMO, F35, real, with_exif
from PIL import Image
from replicas import (
    COUNT,
    FOLDER,
    SEQUENCES,
    copy_photo,
    replica,
    seven_replica,
    twelve_replica,
    write_cambridge,
    write_hyundai,
    write_mapfree,
    write_nvm,
    write_wayspots,
)
from small_datasets import built, stage_of
from tiny_project import REPO, without_scenes
from typer.testing import CliRunner

from scrflow.cli.app import app
from scrflow.config import SceneConfig, Split
from scrflow.core.errors import ScrflowError
from scrflow.newscene import NewScene, draft_scene
from scrflow.pipeline.project import Project
from scrflow.scene import Scene
from scrflow.scene.colmap_model import read_model
from scrflow.scene.readers.colmap import ColmapSource


@pytest.fixture(scope="module")
def project() -> Project:
    return Project(REPO / "config")


def draft(project: Project, path: Path, **options):
    return draft_scene(NewScene(name="place", path=path, **options), project, gpu=False)


def build(config: SceneConfig, out: Path) -> Scene:
    return built(stage_of(config.source, config.split, config.unit), Path(config.root), out)


def test_a_colmap_scene_from_any_of_its_folders(colmap, project):
    for path in (colmap, colmap / "sparse", colmap / "sparse/0"):
        found = draft(project, path)
        source = found.config.source
        assert isinstance(source, ColmapSource) and found.config.split.every == 8
        assert Path(found.config.root) / source.model == colmap / "sparse/0", path
        assert Path(found.config.root) / source.images == colmap / "images"
    rows = dict(found.rows)
    assert rows["photos"].startswith("10 under") and rows["sizes"] == "512x384: 10" and rows["poses"] == "10 of 10"
    assert rows["method"] == "landmarks" == found.config.method and rows["EXIF focal lengths"].startswith("0 of 10")
    assert any(line.startswith("Scale: this form has no unit") for line in found.missing)
    metric = draft(project, colmap, unit="m", outdoor=True).config
    assert metric.unit == "m" and metric.depth_range is None and metric.thresholds[0] == (0.25, 2)


def test_queries_that_the_model_lacks(colmap, photo, project):
    with_exif(photo, colmap / "images/q/known.jpg", (600, 400), **{F35: 28})
    with_exif(photo, colmap / "images/q/unknown.jpg", (600, 400))
    (colmap / "one.txt").write_text("q/known.jpg\n")
    found = draft(project, colmap, queries=colmap / "one.txt")
    assert found.config.split == Split(queries={"all": "one.txt"})
    assert any(line.startswith("Intrinsics of 1 queries: from EXIF") for line in found.missing)
    assert any(line.startswith("Reference poses of 1 queries") for line in found.missing)
    with pytest.raises(ScrflowError, match=r"images/q: 1 queries have no intrinsics.*q/unknown\.jpg.*--guess-cameras"):
        draft(project, colmap, queries=colmap / "images/q")
    found = draft(project, colmap, queries=colmap / "images/q", guess_cameras=True)
    assert found.config.split.guess_cameras
    assert found.lists == ((colmap / "place-queries.txt", "q/known.jpg\nq/unknown.jpg\n"),)


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
    assert config.depth_bias == 2.4 and config.target_depth == 80
    assert config.thresholds == ((0.08, 1), (0.16, 2), (0.4, 5))
    found = draft(project, colmap, unit="m")
    assert any("Indoors? The median depth is 20 m" in m for m in found.missing)


def test_a_scale_for_bare_photos(photos, project):
    found = draft(project, photos)
    assert found.config.unit == "unit" and found.config.sfm.median_depth == 2.5
    assert any("--gps (EXIF has it of 0 photos), --known-distance A.jpg B.jpg 3.2m" in line for line in found.missing)
    a, b = sorted(p.name for p in photos.rglob("*.jpg"))[:2]
    found = draft(project, photos, known_distance=(a, b, "320cm"))
    assert found.config.sfm.known_distances == ((a, b, 3.2),) and found.config.sfm.median_depth is None
    assert found.config.unit == "m" and f"--known-distance {a} {b} 320cm" in found.text.partition("\n")[0]
    for given, message in [
        ({"gps": True}, "GPS gives positions of 0 of"),
        ({"gps": True, "known_distance": (a, b, "3m")}, "--gps and --known-distance: give one of them"),
        ({"known_distance": (a, b, "three")}, "expected a length such as 3.2m"),
        ({"known_distance": (a, "no.jpg", "3m")}, r"no\.jpg: no such photo"),
        ({"positions": photos / "no.txt"}, r"no\.txt"),
    ]:
        with pytest.raises(ScrflowError, match=message):
            draft(project, photos, **given)


def test_missing_photos_are_left_out_and_counted_where_asked(colmap, project, tmp_path, caplog):
    """Of the model, and of a list of queries."""
    names = sorted(p.relative_to(colmap / "images").as_posix() for p in (colmap / "images").rglob("*.jpg"))
    lose(colmap)
    (colmap / "ask.txt").write_text("\n".join(names[2:5]) + "\n")
    found = draft(project, colmap, skip_missing=True, queries=colmap / "ask.txt")
    assert dict(found.rows)["photos"].endswith("; 3 without a file are left out")
    assert dict(found.rows)["queries"].startswith("2, ")
    scene = build(found.config, tmp_path / "scene")
    assert (len(scene.mapping), len(scene.queries)) == (5, 2)
    assert "ask.txt: 1 of 3 photos have no file; they are left out" in caplog.text


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
    with monkeypatch.context() as patched:
        patched.setattr("os.access", lambda path, mode: False)  # a read-only folder: root may write to any
        queries = draft(project, photos, queries=photos / "ask")
    (listed, _), split = queries.lists[0], queries.config.split
    assert listed == REPO / "config/scenes/place-queries.txt" and split.queries == {"all": str(listed)}
    # paths: absolute where there is nothing else, relative to data_root or the project where it lies there
    assert found.config.root == str(photos / "map") and not found.config.in_project
    monkeypatch.setenv("SCRFLOW_DATA", str(tmp_path))
    assert draft(project, photos).config.root == "photos"
    monkeypatch.setenv("SCRFLOW_DATA", "elsewhere")
    monkeypatch.chdir(tmp_path)
    config = draft(project, Path("photos")).config
    assert config.root == "photos" and config.in_project


def test_photos_as_phones_make_them_and_query_folders_elsewhere(photos, photo, tmp_path, monkeypatch):
    """HEIC, photos that EXIF turns, folders behind links, and two folders of queries with equal base names."""
    there = tmp_path / "other disk"
    for day in ("day", "night"):
        with_exif(photo, there / day / "1.jpg", (600, 400), **{F35: 28})
    (photos / "map/linked").symlink_to(there, target_is_directory=True)
    (photos / "map/linked/back").symlink_to(photos, target_is_directory=True)
    with Image.open(photos / "map/1.jpg") as image:
        image.save(photos / "map/3.HEIC", quality=95)
    with_exif(photos / "map/1.jpg", photos / "map/1.jpg", (512, 384), {0x0112: 6})
    config = without_scenes(tmp_path) / "config"
    monkeypatch.chdir(tmp_path)
    arguments = ["new-scene", "yard", "photos/map", "--queries", "other disk/day", "--queries", str(there / "night")]
    arguments += ["--known-distance", "3.HEIC", "5.jpg", "2m"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.stdout
    scene, root = Project(config).scene("yard"), tmp_path / "resources/yard"
    assert scene.in_project and scene.root == "resources/yard" and scene.source.images == "images"
    assert {c: (root / f).read_text() for c, f in scene.split.queries.items()} == {
        "day": "day/1.jpg\n",
        "night": "night/1.jpg\n",
    }
    assert scene.sfm.known_distances[0][:2] == ("mapping/3.HEIC.jpg", "mapping/5.jpg")
    with Image.open(root / "images/mapping/1.jpg") as turned, Image.open(root / "images/mapping/3.HEIC.jpg") as jpeg:
        assert turned.size == (384, 512) and jpeg.size == (512, 384) and jpeg.format == "JPEG"
    assert (root / "images/mapping/5.jpg").readlink() == photos / "map/5.jpg"
    assert (root / "images/mapping/linked/day/1.jpg").is_file()


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


def nvm(root: Path) -> None:
    rep = replica(count=6, radial=0.08)
    names = [f"seq/{i}.jpg" for i in range(len(rep.photos))]
    write_nvm(root / "place/models/place.nvm", rep, names)
    for name, photo in zip(names, rep.photos, strict=True):
        copy_photo(photo, root / "place/pictures" / name)


DATASETS = {  # form: (writes it under a root, the folder to name, mapping images, queries)
    "kapture": (write_hyundai, FOLDER, 10, 3),
    "7-Scenes": (seven_replica, "7scenes/chess", 5, 3),
    "12-Scenes": (twelve_replica, "12scenes/apt1/kitchen", 6, 2),
    "DSAC*": (lambda r: write_wayspots(r, "bears", SEQUENCES), "wayspots_bears", 6, 6),
    "Map-free": (lambda r: write_mapfree(r / "s0", SEQUENCES), "s0", 6, 6),
    "Cambridge Landmarks": (lambda r: write_cambridge(r / "Shop", replica(COUNT, radial=0.06)), "Shop", 6, 3),
    "NVM": (nvm, "place", 5, 1),
}


def as_windows_writes(root: Path) -> None:
    """Byte-order marks, CRLF, backslashes in names and another suffix than the photos have."""
    for path in [p for p in root.rglob("*") if p.suffix in (".txt", ".nvm") and p.is_file()]:
        lines = path.read_text(encoding="utf-8").split("\n")
        if path.name in ("records_camera.txt", "poses.txt", "intrinsics.txt", "place.nvm") or "dataset_" in path.name:
            changed = (line.replace("/", "\\").replace(".png", ".PNG") for line in lines)
            lines = [line if line.startswith("#") else new for line, new in zip(lines, changed, strict=True)]
        path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))


@pytest.mark.parametrize("form", DATASETS)
def test_datasets_are_recognised_and_build(form, project, tmp_path):
    """A mapping image has no file: it is told, and with --skip-missing left out and counted. Then whole, with lists as
    Windows writes them."""
    write, folder, mapping, queries = DATASETS[form]
    write(tmp_path)
    lost = {"kapture": "records_data/*.jpg", "12-Scenes": "frame-000004.color.jpg", "NVM": "1.jpg"}
    lost |= {"Map-free": "seq0/*", "DSAC*": "train/rgb/*"}
    path = sorted((tmp_path / folder).rglob(lost.get(form, "*.png")))[0]
    aside = path.rename(tmp_path / "aside")
    if form not in ("7-Scenes", "12-Scenes"):  # their frames are those of the folder
        with pytest.raises(ScrflowError, match=r"no file|missing|not under|for 5 images"):
            draft(project, tmp_path / folder)
    found = draft(project, tmp_path / folder, skip_missing=True)
    assert dict(found.rows)["photos"].endswith("; 1 without a file are left out")
    scene = build(found.config, tmp_path / "scene")
    assert (len(scene.mapping), len(scene.queries)) == (mapping - 1, queries)
    assert not any(path == scene.image_path(view.name) for view in scene.mapping)

    aside.rename(path)
    as_windows_writes(tmp_path)
    found = draft(project, tmp_path / folder)
    assert dict(found.rows)["form"].startswith(form) and (found.config.unit == "m") == (form != "NVM")
    scene = build(found.config, tmp_path / "scene")
    assert (len(scene.mapping), len(scene.queries)) == (mapping, queries)


def test_real_scenes(project, monkeypatch):
    """fox and redkitchen as they lie there: lists beside the scene are taken, and data_root is seen."""
    fox, kitchen = real("fox"), real("redkitchen")
    monkeypatch.setenv("SCRFLOW_DATA", str(fox.parent))
    fox = draft(project, fox, skip_missing=True)
    assert fox.config.root == "fox" and fox.config.split.queries == {"all": "queries.txt"}
    assert dict(fox.rows)["sizes"] == "1080x1920: 50" and dict(fox.rows)["cameras"] == "1 OPENCV"
    kitchen = draft(project, kitchen / "poses_sfm.txt", unit="m").config
    assert kitchen.source.poses == "poses_sfm.txt" and kitchen.split.mapping == "mapping.txt"


def cut(root: Path) -> None:
    for path in (root / "map/1.jpg", root / "map/3.jpg"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def turn(root: Path) -> None:
    for path in (root / "map/1.jpg", root / "map/3.jpg"):
        with_exif(path, path, (512, 384), {0x0112: 6})


def raw_only(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()
    (root / "IMG_1.CR2").write_bytes(b"")


def lose(root: Path) -> None:
    for path in sorted((root / "images/mapping").iterdir())[:3]:
        path.unlink()


MISSING = r"sparse/0: 3 of its 10 images are not under .*images: mapping/000\.jpg, mapping/\d+\.jpg, mapping"
RESIZED = r"sparse/0: 1 images have another size .*mapping/000\.jpg is 256x192, its camera 512x384"
FAULTS = [  # (photos alone or a COLMAP model, what breaks it, options, message)
    ("photos", lambda r: (shutil.rmtree(r), r.mkdir()), {}, "photos: an empty folder; give photos, a video"),
    ("photos", raw_only, {}, r"photos: no photos and no form known in it, only \.cr2"),
    (
        "photos",
        lambda r: (r / "map/9.jpg").unlink() or (r / "map/9.jpg").symlink_to("/gone/9.jpg"),
        {},
        r"map/9\.jpg: is a link to /gone/9\.jpg, which is not there \(1 of 12 photos",
    ),
    ("photos", cut, {}, r"2 of 12 photos cannot be used: map/1\.jpg \("),
    ("photos", turn, {}, r"2 of 12 photos are turned by .* \(map/1\.jpg, map/3\.jpg\): turn the pixels by scrflow"),
    (
        "photos",
        lambda r: Image.new("I;16", (4, 4)).save(r / "map/d.png"),
        {},
        r"1 images are depth maps .*\(map/d\.png",
    ),
    ("colmap", lose, {}, MISSING),
    ("colmap", lambda r: Image.new("RGB", (256, 192)).save(r / "images/mapping/000.jpg"), {}, RESIZED),
    ("colmap", lambda r: (r / "q.txt").write_text("a.jpg\n"), {"queries": "q.txt"}, r"q\.txt: 1 of 1 .*: a\.jpg"),
    ("colmap", lambda r: None, {"queries": "images", "every": 3}, "exclude each other"),
    ("colmap", lambda r: None, {"queries": "sparse"}, r"sparse: query photos belong under .*images"),
    ("colmap", lambda r: None, {"form": "kapture"}, "not of form 'kapture'; it looks like COLMAP, photos"),
]


@pytest.mark.parametrize(("place", "breaks", "options", "message"), FAULTS)
def test_faults_are_one_line(photos, colmap, project, place, breaks, options, message):
    root = colmap if place == "colmap" else photos
    breaks(root)
    if "queries" in options:
        options = {**options, "queries": root / options["queries"]}
    with pytest.raises(ScrflowError, match=message) as raised:
        draft(project, root, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["a b", "../up", "", "scene", "rscore-cpu", "-x"])
def test_names_that_cannot_be(colmap, project, name):
    with pytest.raises(ScrflowError, match="scene"):
        draft_scene(NewScene(name=name, path=colmap), project, gpu=False)


def test_the_command_writes_once_and_the_project_takes_it(photos, tmp_path, monkeypatch):
    config = without_scenes(tmp_path) / "config"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    arguments = ["new-scene", "yard", str(photos), "--queries", str(photos / "ask"), "--config", str(config)]
    arguments += ["--licence", "ours: all of it # really"]
    run = CliRunner()
    with pytest.raises(ScrflowError, match=r"nothing/config: no such folder; correct --config"):
        run.invoke(app, [*arguments, "--config", "nothing/config"], catch_exceptions=False)
    dry = run.invoke(app, [*arguments, "--config", "../config", "--dry-run"], catch_exceptions=False)
    assert "reader: photos" in dry.stdout and not list((config / "scenes").iterdir())
    done = run.invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and "next: look at it, then scrflow run yard" in done.stdout, done.stdout
    text = (config / "scenes/yard.yaml").read_text()
    assert text in dry.stdout and text.count("#") >= 6
    project = Project(config)
    scene = project.scene("yard")
    assert scene == SceneConfig.model_validate(yaml.safe_load(text)) and scene.licence == "ours: all of it # really"
    assert Path.cwd() == tmp_path and project.scene_root("yard") == Path("photos")
    assert text.startswith(f"# Written by: scrflow new-scene yard {photos} ")
    assert scene.split.queries == {"all": "yard-queries.txt"} and (photos / "yard-queries.txt").is_file()
    assert run.invoke(app, [*arguments[:1], "again", *arguments[2:]], catch_exceptions=False).exit_code == 0
    again = Project(config)
    assert again.scene_root("again") == Path("photos")
    assert again.scene("again").split.queries == {"all": "again-queries.txt"}
    (config / "scenes/yard.yaml").write_text(text + "citation: mine\n")
    with pytest.raises(ScrflowError, match=r"yard\.yaml: already exists; --force"):
        run.invoke(app, arguments, catch_exceptions=False)
    assert (config / "scenes/yard.yaml").read_text() == text + "citation: mine\n"
    assert run.invoke(app, [*arguments, "--force"], catch_exceptions=False).exit_code == 0
    assert (config / "scenes/yard.yaml").read_text() == text
