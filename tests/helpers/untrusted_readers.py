"""One call for each format that scrflow reads: from outside, or from an earlier stage.

The tests of bad input and the fuzzer give bad files to these: each takes the path of a file or folder, and either reads
it or raises ScrflowError.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from scrflow.baseline.mapping import load_map as load_baseline_map
from scrflow.cli.inspection import inspect_file
from scrflow.config import table
from scrflow.config.scene import reader_named
from scrflow.features.networks import read_tensors
from scrflow.features.pca import load_pca
from scrflow.graph import covisibility
from scrflow.interop import hloc_files as hloc
from scrflow.localize.batch import cameras_of
from scrflow.localize.localizer import Localizer
from scrflow.newscene.queries import stated_split
from scrflow.newscene.rosbag import unpack_bag
from scrflow.newscene.survey import passed_over, source_of
from scrflow.newscene.video import pick_frames
from scrflow.pipeline.project import Project
from scrflow.report.stored import read_table
from scrflow.scene import downloads as download
from scrflow.scene import model
from scrflow.scene.lists import PhotoNames
from scrflow.scene.readers import detect_forms, read_source
from scrflow.scene.readers.nvm import read_nvm
from scrflow.storage.fetch import check_fetched, unpack
from scrflow.storage.journal import Journal

# images that the files in tests name
NAMES = ("db/0.png", "db/1.png", "query/0.png")
KEYPOINTS = {name: 12 for name in NAMES}


def _archive(path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        try:
            unpack(path, Path(folder) / "out")
        finally:
            outside = [p for p in path.parent.rglob("*") if p.name.startswith("escaped")]
            assert not outside, f"written outside: {outside}"


def _journal(path: Path) -> None:
    copy = path.with_name("copy.jsonl")
    shutil.copy(path, copy)
    with Journal(copy, "key") as journal:
        json.dumps(journal.done)


def _video(path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        pick_frames(path, Path(folder) / "frames")


def _source(reader: str, **keys: object) -> Callable[[Path], None]:
    return lambda root: read_source(reader_named(reader)(reader=reader, **keys), root)


def _own(reader: str, **keys: object) -> Callable[[Path], None]:
    """As ``scrflow new-scene`` and the scene stage read a folder that somebody made."""

    def read(root: Path) -> None:
        try:
            _source(reader, **keys)(root)
        finally:
            for found in detect_forms(root):
                passed_over(root, found, source_of(found))
            stated_split(root, PhotoNames(root))

    return read


def _bag(path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unpack_bag(path, Path(folder) / "out", 3)


READERS: dict[str, Callable[[Path], object]] = {
    "archive": _archive,
    "hloc features": lambda path: hloc.read_keypoints(path, NAMES),
    "hloc matches": lambda path: hloc.read_matches(path, KEYPOINTS),
    "hloc descriptors": lambda path: hloc.read_descriptors(path, NAMES),
    "poses": model.read_poses,
    "query list": model.read_query_list,
    "cameras of photos": lambda path: cameras_of(str(path), list(NAMES)),
    "map": lambda path: Localizer.open(path, "cpu"),
    "baseline map": load_baseline_map,
    "pca": load_pca,
    "graph": covisibility.load_graph,
    "scene": model.load_scene,
    "colmap": lambda path: model.views_of_model(model.read_model(path)),
    "nvm": read_nvm,
    "weights": read_tensors,
    "journal": _journal,
    "papers": table.load_papers,
    "table": read_table,
    "download table": download.read_table,
    "fetched": lambda root: check_fetched(root, [root / "room/a.txt", root / "room/b.txt"]),
    "config": Project,
    "video": _video,
    "inspect": inspect_file,
    "kapture": _source("kapture", mapping=".", queries={}),
    "nerfstudio": _source("nerfstudio"),
    "pose list": _source("poselist", poses="poses.txt"),
    "blender": _own("nerfstudio", transforms="transforms_{split}.json"),
    "colmap text": _own("colmap", model=".", images="."),
    "tum": _own("tum"),
    "arkit": _own("arkit"),
    "record3d": _own("record3d"),
    "realitycapture": _own("realitycapture", csv="cameras.csv"),
    "openmvg": _own("openmvg"),
    "opensfm": _own("opensfm"),
    "bundler": _own("bundler"),
    "ros bag": _bag,
    "nvm scene": _source("nvm", model="model.nvm", images="."),
    "dsac": _source("dsac"),
    "cambridge": _source("cambridge", folder="."),
    "7-scenes": _source("sevenscenes", folder=".", poses="dslam"),
    "12-scenes": _source("twelvescenes", folder="a/b", poses="dslam"),
    "map-free": _source("mapfree", scene="."),
}

# (reader, text in its folder; empty if the reader takes a file)
_ALONE = ("poses", "query list", "cameras of photos", "nvm", "journal", "table", "download table")
TEXTS = (
    *((name, "") for name in _ALONE),
    *(("kapture", name) for name in ("sensors/sensors.txt", "sensors/trajectories.txt", "sensors/records_camera.txt")),
    *(("nerfstudio", "transforms.json"), ("nvm scene", "model.nvm"), ("pose list", "poses.txt")),
    *(("cambridge", "dataset_train.txt"), ("7-scenes", "TrainSplit.txt"), ("12-scenes", "a/b/info.txt")),
    *(("7-scenes", "seq-01/frame-000000.pose.txt"), ("12-scenes", "a/b/split.txt"), ("map-free", "poses.txt")),
    *(("map-free", "intrinsics.txt"), ("dsac", "train/poses/0.txt"), ("blender", "transforms_test.json")),
    *(("colmap text", name) for name in ("cameras.txt", "images.txt")),
    *(("tum", name) for name in ("rgb.txt", "groundtruth.txt", "camera.txt")),
    *(("arkit", "1.json"), ("record3d", "metadata.json"), ("realitycapture", "cameras.csv")),
    *(("openmvg", "sfm_data.json"), ("opensfm", "reconstruction.json"), ("opensfm", "split.json")),
    *(("bundler", "bundle.out"), ("bundler", "list.txt")),
    *(("config", name) for name in ("config.yaml", "methods/quick.yaml", "scenes/tiny.yaml")),
)
