"""Image names that shells, list files, globs, wildcards and web pages take otherwise, through the whole chain."""

import csv
import json
import shutil
from pathlib import Path

import h5py
import pycolmap
import pytest
from tiny_project import POSES, REPO, Project

from scrflow.baseline.hloc_run import pairs_from_retrieval
from scrflow.core.errors import ScrflowError
from scrflow.scene.checks import check_name
from scrflow.scene.colmap_model import read_model
from scrflow.scene.lists import query_line, read_poses, read_query_list
from scrflow.scene.model import load_scene
from scrflow.sfm.matching import extract_sift, match_pairs
from scrflow.storage.listfile import listed, read_lines, split_name

NAMES = [
    "with blank.jpg",
    "two  blanks in a row.jpg",
    "narrow\u202fblank, as macOS writes it.jpg",
    "quote'.jpg",
    'quotes "two".jpg',
    "semi;colon && touch pwned.jpg",
    "$(touch pwned).jpg",
    "`touch pwned`.jpg",
    "$HOME.jpg",
    "caf\u00e9.jpg",
    "cafe\u0301.jpg",
    "\u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u4e2d\u6587 \U0001f98a.jpg",
    "-rf.jpg",
    "100%s %(x)s.jpg",
    "{scene} {x} {.jpg",
    "star*?[a-z].jpg",
    "#comment.jpg",
    "[red]markup[/red] <b>bold</b> & <script>.jpg",
    "a.jpg b.jpg",
    "1 0 0 0 0 0 0.5.jpg",
    "PINHOLE 640 480 500 500 320 240.jpg",
    "back\\slash.jpg",
    "folder of photos/it's | here~.jpg",
    "l" * 246 + " ng.jpg",
]
QUERIES = [
    "a query.jpg",
    "#query; $(touch pwned) {x}.jpg",
    "--query <i>'\".jpg",
    "cafe\u0301 query.jpg",
    "night 1 2.png.jpg",
]


def scene_of_names(project: Project) -> None:
    """The project's scene with every photo under another name, its model in COLMAP's text form."""
    data = project.folder / "data"
    lists = [data / f"{name}.txt" for name in ("mapping", "queries_day", "queries_night")]
    mapping, day, night = (path.read_text().split() for path in lists)
    renamed = dict(zip([*mapping, *day, *night], [*NAMES, *QUERIES], strict=True))
    (data / "images").unlink()
    for old, new in renamed.items():
        (data / "images" / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / "demo/images" / old, data / "images" / new)
    model = read_model(data / "model")
    for image_id in model.images:
        image = model.image(image_id)
        image.name = renamed.get(image.name, image.name)
    shutil.rmtree(data / "model")
    (data / "model").mkdir()
    model.write_text(str(data / "model"))
    cameras = {model.image(i).name: model.image(i).camera for i in model.images}
    for path, names in zip(lists, (mapping, day, night), strict=True):
        new = [renamed[name] for name in names]
        bare = path.name == "mapping.txt"
        path.write_text("".join(f"{listed(n) if bare else query_line(n, cameras[n])}\n" for n in new))


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(tmp_path_factory.mktemp("names") / "project")
    scene_of_names(made)
    made.snakemake(POSES, "results/tiny/quick/report.html")
    return made


def test_all_artifacts_have_the_names(named: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(named.folder)  # a scene names its photos relative to the project
    results = named.folder / "results/tiny"
    scene = load_scene(results / "scene")
    assert [v.name for v in scene.mapping] == sorted(NAMES)
    assert [q.name for q in scene.queries] == sorted(QUERIES) and set(scene.query_poses) == set(QUERIES)
    details = json.loads((results / "quick/localization.json").read_text())["queries"]
    localized = {name for name, query in details.items() if query["localized"]}
    assert set(details) == set(QUERIES) and localized
    assert set(read_poses(named.folder / POSES)) == set(read_poses(results / "quick/poses.txt")) == localized
    with open(results / "quick/queries.csv", newline="") as file:
        assert {row["name"] for row in csv.DictReader(file)} == set(QUERIES)
    assert {q["hypothesis"] for q in details.values() if q["localized"]} <= set(NAMES)
    page = (results / "quick/report.html").read_text()
    assert "<script>.jpg" not in page and "<i>'" not in page
    assert not list(named.folder.rglob("pwned"))


def test_localize_and_export(named: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(named.folder)
    photos = tmp_path / "photos of mine"
    photos.mkdir()
    for name in QUERIES:
        shutil.copy(named.folder / "data/images" / name, photos / name)
    scene = load_scene(named.folder / "results/tiny/scene")
    cameras = tmp_path / "cameras.txt"
    cameras.write_text("".join(f"{query_line(q.name, q.camera)}\n" for q in scene.queries))
    map_path, out = "results/tiny/quick/map.safetensors", tmp_path / "poses.txt"
    told = ("--camera", str(cameras), "--out", str(out))
    # the map is too small to be sure of anything
    done = named.scrflow("localize", map_path, str(photos), *told, "--min-confidence", "0")
    assert done.returncode == 0, done.stderr
    assert set(read_poses(out)) == set(read_poses(named.folder / POSES))
    one = named.scrflow("localize", map_path, *told, "--", str(photos / QUERIES[2]))
    assert one.returncode == 1 and "no line of 1 of 1 photos" in one.stderr  # by its path, which the list has not
    shown = named.scrflow("inspect", POSES)
    assert shown.returncode == 0 and "poses: name qw" in shown.stdout

    parts = ("--encoder", "small", "--retrieval", "vlad", "--pairs", "3")
    done = named.scrflow("export-hloc", "tiny", *parts, "--out", "e")
    assert done.returncode == 0, done.stderr
    exported = named.folder / "e"
    assert list(read_query_list(exported / "mapping.txt")) == sorted(NAMES)
    assert list(read_query_list(exported / "queries.txt")) == sorted(QUERIES)
    with h5py.File(exported / "features.h5") as features:
        assert all("keypoints" in features[name] for name in (*NAMES, *QUERIES))
    pairs = (exported / "pairs-retrieval.txt").read_text().splitlines()
    assert len(pairs) == 3 * len(QUERIES)
    assert set(pairs) <= {f"{listed(query)} {listed(name)}" for query in QUERIES for name in NAMES}
    assert not list(named.folder.rglob("pwned")) and not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("name", [*NAMES, *QUERIES])
def test_lines_are_read_back(name, tmp_path):
    check_name(name, "here")
    assert split_name("seq/000 1 2 3") == ("seq/000", ["1", "2", "3"])  # no blank in the name: it needs no suffix
    camera = pycolmap.Camera(model="OPENCV", width=640, height=480, params=[500, 500, 320, 240, 0.1, 0, 0, 0])
    for after in ([], ["1"] * 7, query_line("", camera).split()):
        path = tmp_path / "list.txt"
        path.write_text("# a comment\n\n" + " ".join([listed(name), *after]) + "\n", encoding="utf-8")
        [(number, line)] = read_lines(path)
        assert number == 3 and split_name(line) == (name, after)


@pytest.mark.parametrize(
    "name, message",
    [
        ("../a.jpg", "leads out of the image folder"),
        ("/etc/a.jpg", "leads out of the image folder"),
        ("a/../../b.jpg", "leads out of the image folder"),
        ("", "leads out of the image folder"),
        ("a\nb.jpg", "control character"),
        ("a\tb.jpg", "control character"),
        ("a\0b.jpg", "control character"),
        ("a\x1b[31m.jpg", "control character"),
        ("a\u2028b.jpg", r"LINE SEPARATOR"),
        ("a\udcffb.jpg", "not UTF-8"),
        (" a.jpg", "begins or ends with a blank"),
        ("a.jpg ", "begins or ends with a blank"),
        ("a b", "has a blank and no suffix of a photo"),
        ("l" * 252 + ".jpg", "longer than a file name can be"),
    ],
)
def test_names_that_no_list_can_hold_are_refused(name, message):
    with pytest.raises(ScrflowError, match=message) as caught:
        check_name(name, "here")
    text = str(caught.value)
    assert text.startswith("here: image name ") and text.isprintable()


def test_colmap_matches_pairs_of_such_names(tmp_path):
    """Its lists of pairs part names at blanks; matches are those of plain names, and the database has its own again."""
    found = {}
    for kind, names in (
        ("plain", ["a.jpg", "b.jpg", "c.jpg"]),
        ("odd", ["a 1.jpg", "#b.jpg", "c; $(touch pwned) d.jpg"]),
    ):
        images = tmp_path / kind
        images.mkdir()
        for i, name in enumerate(names):
            shutil.copy(REPO / f"demo/images/mapping/{i:03}.jpg", images / name)
        database = tmp_path / f"{kind}.db"
        pycolmap.Database.open(database).close()
        pycolmap.import_images(database, images, pycolmap.CameraMode.SINGLE, names)
        extract_sift(database, images, names, 200, 256, 1)
        match_pairs(database, [(names[0], names[1]), (names[1], names[2])], 1, 0, verify=True)
        with pycolmap.Database.open(database) as db:
            ids = [db.read_image_with_name(name).image_id for name in names]  # COLMAP sorts them
            assert sorted(ids) == [1, 2, 3]
            pairs = [(ids[0], ids[1]), (ids[1], ids[2])]
            found[kind] = [len(db.read_two_view_geometry(*pair).inlier_matches) for pair in pairs]
    assert found["odd"] == found["plain"] and min(found["plain"]) > 15
    assert not list(tmp_path.rglob("pwned"))


def test_hloc_is_not_given_pairs_that_it_would_tear(tmp_path):
    listed_images = {"image_root": "images", "mapping": ["a b.jpg", "c.jpg"], "queries": []}
    (tmp_path / "images.json").write_text(json.dumps(listed_images))
    with pytest.raises(ScrflowError, match=r"1 image names have a blank, first 'a b\.jpg', and hloc splits its lists"):
        pairs_from_retrieval(tmp_path / "images.json", tmp_path / "none.h5", 1, tmp_path / "pairs.txt")


def test_bare_photos_of_such_names_are_inputs_of_rules(project: Project):
    """Snakemake has no way to write {x} or <x> in a path: the folder is watched in place of such a photo."""
    scene_of_names(project)
    project.edit("config/scenes/tiny.yaml", "reader: colmap\n  model: model\n", "reader: photos\n")
    assert project.planned("results/tiny/scene/scene.json") == {"reconstruct_scene": 1, "build_scene": 1}
