"""The chains of stages that faults strike, each a scene of a tiny project with all that is made of it.

POSED is a scene with poses, whose graph counts triangulated points. PHOTOS is bare photos, whose poses are made.
FETCHED comes over https, and has what the others leave out: the baseline of feature matching, depths by points and by
depth images, clusters for an encoding, tables, the toy example, and the pages of the report.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import numpy as np
import yaml
from PIL import Image
from tiny_project import CONFIG, METHOD, REPO, SCENE, Project
from web import Site

Stages = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Chain:
    """Stages in their order: what each makes (relative to the project), and which of them read it.

    ``targets`` are asked for; of ``answers`` an undisturbed run always makes the same bytes. ``struck`` are the stages
    that faults are tried at, and ``photos`` is the folder that the images are in. ``prepare`` makes the scene of a tiny
    project, and gives the site that it is fetched from, if it is.
    """

    scene: str
    products: Stages
    after: Stages
    struck: tuple[str, ...]
    targets: tuple[str, ...]
    answers: tuple[str, ...]
    photos: str
    prepare: Callable[[Project], Site | None]
    names: dict[str, str]  # what the log of a stage is called where it is not its own name

    def following(self, stage: str) -> list[str]:
        """The stage and all that depends on it."""
        found, todo = set(), [stage]
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo.extend(self.after[name])
        return [name for name in self.products if name in found]

    def logs(self, folder: Path, stage: str, kind: str = "logs", suffix: str = ".log") -> list[Path]:
        """The logs (or benchmarks) of a stage that are there."""
        name = self.names.get(stage, stage)
        places = ("resources", f"results/*/{kind}", f"results/*/{kind}/{stage}")
        found = [path for place in places for path in folder.glob(f"{place}/*{suffix}")]
        return sorted(path for path in found if path.stem == name or path.parent.name == stage)


def _after(products: Stages, reads: Stages) -> Stages:
    """Which stages read a stage's products, from what each reads."""
    return {name: tuple(reader for reader, read in reads.items() if name in read) for name in products}


def _of_scene(scene: str, products: Stages) -> Stages:
    return {name: tuple(f"results/{scene}/{path}" for path in paths) for name, paths in products.items()}


# --------------------------------------------------------------------------------------------------- poses of a method

_PRODUCTS: Stages = {
    "reconstruct_scene": ("sfm",),
    "build_scene": ("scene",),
    "triangulate_points": ("triangulated",),
    "build_graph": ("covisibility.npz",),
    "embed_graph": ("encodings",),
    "build_retrieval": ("retrieval",),
    "fit_pca": ("local/small/pca.safetensors",),
    "fill_buffer": ("local/small/buffer-0.h5", "local/small/buffer-1.h5"),
    "triangulate_samples": ("local/small/depth-matched.h5",),
    "train_head": ("quick/head.safetensors", "quick/train.jsonl"),
    "write_map": ("quick/map.safetensors",),
    "localize_queries": ("quick/poses.txt", "quick/localization.json"),
    "evaluate_poses": ("quick/queries.csv", "quick/metrics.json", "quick/errors.png", "quick/overlay.png"),
    "choose_poses": ("poses.txt",),
}
_OF_SCENE = ("triangulate_points", "build_graph", "build_retrieval", "fit_pca", "fill_buffer", "triangulate_samples")
_READS: Stages = {
    "build_scene": ("reconstruct_scene",),
    **dict.fromkeys(_OF_SCENE, ("build_scene",)),
    "build_graph": ("build_scene", "reconstruct_scene", "triangulate_points"),
    "embed_graph": ("build_scene", "build_graph"),
    "fill_buffer": ("build_scene", "fit_pca"),
    "triangulate_samples": ("build_scene", "build_graph", "fill_buffer"),
    "train_head": ("build_scene", "build_graph", "embed_graph", "fill_buffer", "triangulate_samples"),
    "write_map": ("build_scene", "train_head", "embed_graph", "build_retrieval", "fit_pca"),
    "localize_queries": ("build_scene", "write_map"),
    "evaluate_poses": ("build_scene", "localize_queries", "write_map"),
    "choose_poses": ("evaluate_poses", "localize_queries"),
}


_GRAPHS = {**CONFIG["graphs"], "points": {"kind": "points"}}


def _posed(project: Project) -> None:
    """Samples with known depths, and a graph of shared points."""
    project.edit("config/methods/quick.yaml", "    pull: true\n", "    pull: true\n    known_depth: true\n")
    project.write("config/config.yaml", {**CONFIG, "graphs": _GRAPHS})
    project.write("config/scenes/tiny.yaml", {**SCENE, "graph": "points"})
    images = project.folder / "data/images"
    real = images.resolve()
    images.unlink()
    shutil.copytree(real, images)


def _bare(project: Project) -> None:
    """A dozen photos without poses."""
    _posed(project)
    photos = project.folder / "bare/photos"
    photos.mkdir(parents=True)
    for number in range(0, 24, 2):
        shutil.copy(REPO / f"demo/images/mapping/{number:03d}.jpg", photos)
    bare = {
        "root": "bare",
        "source": {"reader": "photos", "images": "photos"},
        "split": {"every": 6},
        "sfm": {"median_depth": 10},
        "min_mapping_images": 6,
    }
    project.write("config/scenes/bare.yaml", {**SCENE, **bare, "graph": "points"})


def _poses_chain(
    scene: str, without: tuple[str, ...], struck: tuple[str, ...], photos: str, prepare: Callable[[Project], None]
) -> Chain:
    products = _of_scene(scene, {name: paths for name, paths in _PRODUCTS.items() if name not in without})
    reads = {name: tuple(r for r in read if r not in without) for name, read in _READS.items() if name not in without}
    poses = (f"results/{scene}/poses.txt",)
    return Chain(scene, products, _after(products, reads), struck or tuple(products), poses, poses, photos, prepare, {})


POSED = _poses_chain("tiny", ("reconstruct_scene",), (), "data/images", _posed)
PHOTOS = _poses_chain(
    "bare", ("triangulate_points",), ("reconstruct_scene", "build_scene", "build_graph"), "bare/photos", _bare
)
# a tiny project as it is, of which the tests have a finished one
PLAIN = _poses_chain(
    "tiny", ("reconstruct_scene", "triangulate_points", "triangulate_samples"), (), "data/images", lambda project: None
)

# ---------------------------------------------------------------------------------------------------- and all the rest

_TABLE = {
    "title": "Tiny",
    "scenes": ["fetched"],
    "seeds": [1],
    "metrics": ["recall@2", "median_t", "map_mb"],
    "conditions": True,
    "rows": [
        {"id": "quick", "label": "quick", "method": "quick"},
        {"id": "match", "label": "matching", "baseline": "match"},
    ],
}
_BASELINE = {
    "description": "SIFT, small",
    "features": {"name": "sift", "max_keypoints": 2000, "descriptors": "uint8"},
    "neighbours": 6,
    "retrieval": "vlad",
    "localize": {"retrieved": 24},
}
_EVALUATED = ("queries.csv", "metrics.json", "errors.png", "overlay.png")
_TABLES = "results/tables"
_FETCHED: Stages = {
    "download_dataset": ("resources/fetched", "resources/fetched.downloaded"),
    **_of_scene(
        "fetched",
        {
            **{name: _PRODUCTS[name] for name in ("build_scene", "triangulate_points", "build_graph")},
            "build_retrieval": ("retrieval",),
            "cluster_features": ("encodings",),
            "fit_pca": _PRODUCTS["fit_pca"],
            "fill_buffer": _PRODUCTS["fill_buffer"],
            "find_point_depths": ("local/small/depth-points.h5",),
            "read_depth_maps": ("local/small/depth-maps.h5",),
            **{name: _PRODUCTS[name] for name in ("train_head", "write_map", "localize_queries", "evaluate_poses")},
            "map_baseline": ("match/map.h5",),
            "localize_baseline": ("match/poses.txt", "match/localization.json"),
            "evaluate_baseline": tuple(f"match/{name}" for name in _EVALUATED),
            "write_report": ("quick/report.html",),
            "write_baseline_report": ("match/report.html",),
        },
    ),
    "write_table": tuple(f"{_TABLES}/mini.{suffix}" for suffix in ("md", "csv", "tex")),
    "toy_example": tuple(f"{_TABLES}/glace-figure-8.{suffix}" for suffix in ("md", "csv", "tex", "png")),
}
_FETCHED_READS: Stages = {
    "build_scene": ("download_dataset",),
    **dict.fromkeys(("triangulate_points", "build_retrieval", "fit_pca"), ("build_scene",)),
    "build_graph": ("build_scene", "triangulate_points"),
    "cluster_features": ("build_scene", "build_retrieval"),
    "fill_buffer": ("build_scene", "fit_pca"),
    "find_point_depths": ("triangulate_points", "fill_buffer"),
    "read_depth_maps": ("build_scene", "fill_buffer"),
    "train_head": ("build_scene", "cluster_features", "fill_buffer", "find_point_depths"),
    "write_map": ("build_scene", "train_head", "cluster_features", "build_retrieval", "fit_pca"),
    "localize_queries": ("build_scene", "write_map"),
    "evaluate_poses": ("build_scene", "localize_queries", "write_map"),
    "map_baseline": ("build_scene", "build_graph", "build_retrieval"),
    "localize_baseline": ("build_scene", "map_baseline"),
    "evaluate_baseline": ("build_scene", "localize_baseline", "map_baseline"),
    "write_report": ("build_scene", "evaluate_poses", "localize_queries", "write_map", "train_head"),
    "write_baseline_report": ("build_scene", "evaluate_baseline", "localize_baseline", "map_baseline", "build_graph"),
    "write_table": ("evaluate_poses", "evaluate_baseline"),
    "toy_example": ("build_scene",),
}
_ELSEWHERE = ("build_scene", "triangulate_points", "build_graph", "build_retrieval", "fit_pca", "fill_buffer",
              "train_head", "write_map", "localize_queries", "evaluate_poses")  # fmt: skip


def _fetched(project: Project) -> Site:
    """A scene that a server has: photos in an archive, poses and lists as single files; the rest of the config."""
    site = Site(project.folder.parent / "site")
    data = project.folder / "data"
    _write_depth_images(data)
    _write_poses(data)
    with zipfile.ZipFile(site.folder / "photos.zip", "w") as archive:
        named = [name for listed in ("mapping", "queries_day", "queries_night")
                 for name in (data / f"{listed}.txt").read_text().split()]  # fmt: skip
        photos = [data / "images" / name for name in named]
        for path in sorted([*photos, *data.glob("depth/*/*")]):
            archive.write(path, path.relative_to(data))
    rows = ["path\tsha256\turl"]
    for path in sorted(data.glob("*.txt")):
        shutil.copy(path, site.folder)
        rows.append(f"{path.name}\t{_sha256(path)}\t{site.url(path.name)}")
    shutil.rmtree(data)
    (project.folder / "config/scenes/downloads").mkdir()
    (project.folder / "config/scenes/downloads/fetched.tsv").write_text("\n".join(rows) + "\n")

    archive = {"url": site.url("photos.zip"), "sha256": _sha256(site.folder / "photos.zip")}
    scene: dict[str, Any] = {**SCENE, "root": "fetched", "in_project": False, "graph": "points"}
    scene["source"] = {"reader": "poselist", "poses": "poses.txt", "images": "images"}
    scene["download"] = {"files": "downloads/fetched.tsv", "archives": [archive]}
    scene["depth_maps"] = {"pattern": "depth/{folder}/{stem}.png", "max_depth": 60, "max_relative_step": 0.5}
    project.write("config/scenes/fetched.yaml", scene)
    (project.folder / "config/scenes/tiny.yaml").unlink()

    method = yaml.safe_load(yaml.safe_dump(METHOD))
    method["global_encoding"] = {"name": "groups", "neighbour_share": 0.0}
    method["localize"]["hypotheses"] = 1
    method["training"]["depth_source"] = "points"
    method["training"]["loss"]["known_depth"] = True
    project.write("config/methods/quick.yaml", method)
    project.write("config/baselines/match.yaml", _BASELINE)
    project.write("config/tables/mini.yaml", _TABLE)
    shutil.copytree(REPO / "config/papers", project.folder / "config/papers")
    toy = {"scenes": ["fetched"], "photos": 4, "columns": 2, "steps": 100, "seeds": [1]}
    encodings = {"groups": {"kind": "clusters", "retrieval": "vlad", "clusters": 4}}
    project.write("config/config.yaml", {**CONFIG, "graphs": _GRAPHS, "encodings": encodings, "toy": toy})
    return site


def _write_poses(data: Path) -> None:
    """As a list, which comes without 3D points, so that they are triangulated. A list says focal lengths alone: of half
    the queries distortion and principal point are lost, which costs them half a pixel."""
    lines = [line for line in (data / "model/images.txt").read_text().splitlines() if line and line[0] != "#"]
    focal = {"1": 400, "2": 432}
    cameras = {
        "1": "1 PINHOLE 512 384 400 400 256 192",
        "2": "2 SIMPLE_RADIAL 512 384 432 254.5 193.5 -0.05",
    }
    text = (data / "model/cameras.txt").read_text()
    assert all(camera in text for camera in cameras.values()), "the demo's cameras are others"
    poses = []
    for line in lines:
        _, *pose, camera, name = line.split()
        poses.append(" ".join([name, *pose, str(focal[camera])]))
    (data / "poses.txt").write_text("\n".join(poses) + "\n")


def _write_depth_images(data: Path) -> None:
    """SYNTHETIC: everything 10 m away, in millimetres. Only that they are read or told matters here."""
    for name in (data / "mapping.txt").read_text().split():
        with Image.open(data / "images" / name) as photo:
            width, height = photo.size
        path = (data / "depth" / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((height // 4, width // 4), 10_000, np.uint16)).save(path)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


_QUICK, _MATCH = "results/fetched/quick", "results/fetched/match"
FETCHED = Chain(
    scene="fetched",
    products=_FETCHED,
    after=_after(_FETCHED, _FETCHED_READS),
    struck=tuple(name for name in _FETCHED if name not in _ELSEWHERE),
    targets=(
        f"{_TABLES}/mini.md",
        f"{_TABLES}/glace-figure-8.md",
        f"{_QUICK}/report.html",
        f"{_MATCH}/report.html",
        *_FETCHED["read_depth_maps"],
    ),
    answers=(
        f"{_QUICK}/poses.txt",
        f"{_MATCH}/map.h5",
        f"{_MATCH}/poses.txt",
        f"{_TABLES}/mini.csv",
        f"{_TABLES}/mini.md",
        f"{_TABLES}/glace-figure-8.csv",
        *_FETCHED["read_depth_maps"],
    ),
    photos="resources/fetched/images",
    prepare=_fetched,
    names={"write_table": "mini", "toy_example": "glace-figure-8", "download_dataset": "fetched"},
)
