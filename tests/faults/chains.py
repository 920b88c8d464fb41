"""The chains of stages that faults strike. Each chain is a scene of a tiny project with all that is made of it.

POSED is a scene with poses, whose graph counts triangulated points: two methods, the baseline of feature matching,
depths by matches, points and depth images, a table and the report pages. PHOTOS is bare photos, posed by SfM. Snakemake
itself says which stages a chain has, what each makes, and which stage reads which.
"""

import csv
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import numpy as np
from PIL import Image
from tiny_project import BASELINE, CONFIG, METHOD, REPO, SCENE, Project

from scrflow.config import deep_merge


@dataclass(frozen=True)
class Chain:
    """What is asked of a scene. An undisturbed run always makes the same bytes of ``answers``. Faults are tried at the
    stages ``struck`` (none named: at all). ``photos`` is the folder of the images. ``prepare`` makes the scene of a
    tiny project."""

    scene: str
    targets: tuple[str, ...]
    answers: tuple[str, ...]
    photos: str
    prepare: Callable[[Project], None]
    struck: tuple[str, ...] = ()


# folders whose whole content is one stage's, beside the files that the stage declares
_OWN_FOLDERS = ("sfm", "scene", "triangulated", "encodings", "retrieval")


class Stages:
    """The stages of a chain in their order, as Snakemake plans them in a project."""

    def __init__(self, project: Project, targets: tuple[str, ...]):
        text = project.snakemake(*targets, "--summary").stdout
        lines = text[text.index("output_file\t") :].splitlines()
        rows = [row for row in csv.DictReader(lines, delimiter="\t") if row["rule"]]
        reads = _reads(project.snakemake(*targets, "--rulegraph").stdout)
        made = {row["rule"] for row in rows}
        self.order = [name for name in TopologicalSorter(reads).static_order() if name in made]
        self._readers = {name: [reader for reader, read in reads.items() if name in read] for name in self.order}
        self.products: dict[str, list[str]] = {name: [] for name in self.order}
        self._logs: dict[str, set[str]] = {name: set() for name in self.order}
        for row in rows:
            self._logs[row["rule"]].add(row["log-file(s)"])
            products = self.products[row["rule"]]
            products += [product for product in _products(row["output_file"]) if product not in products]

    def following(self, stage: str) -> list[str]:
        """The stage and all that depends on it."""
        found, todo = set(), [stage]
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo.extend(self._readers[name])
        return [name for name in self.order if name in found]

    def logs(self, folder: Path, stage: str) -> list[Path]:
        """The stage's logs that are there."""
        return [folder / log for log in sorted(self._logs[stage]) if (folder / log).exists()]

    def seconds(self, folder: Path, stage: str) -> float:
        """How long the stage's longest job took, by its benchmark."""
        names = [log.replace("/logs/", "/benchmarks/").removesuffix(".log") + ".tsv" for log in self._logs[stage]]
        return max(float((folder / name).read_text().splitlines()[1].split("\t")[0]) for name in names)


def _reads(dot: str) -> dict[str, set[str]]:
    """rule -> the rules that it reads from, by Snakemake's graph of rules."""
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', dot))
    reads: dict[str, set[str]] = {name: set() for name in names.values()}
    for source, reader in re.findall(r"(\d+) -> (\d+)", dot):
        reads[names[reader]].add(names[source])
    return reads


def _products(output: str) -> list[str]:
    top, scene, *below = Path(output).parts
    if "benchmarks" in below:
        return []
    return [f"{top}/{scene}/{below[0]}"] if below and below[0] in _OWN_FOLDERS else [output]


_METHOD = {
    "global_encoding": {"name": "groups", "neighbour_share": 0.0},
    "training": {"depth_source": "points", "loss": {"known_depth": True}},
    "localize": {"hypotheses": 1},
}
_TABLE = {
    "title": "Tiny",
    "scenes": ["tiny"],
    "seeds": [1],
    "metrics": ["recall@2", "median_t", "map_mb"],
    "conditions": True,
    "rows": [
        {"id": "grouped", "label": "grouped", "method": "grouped"},
        {"id": "match", "label": "matching", "baseline": "match"},
    ],
}
_SHARED = {
    "graphs": {**CONFIG["graphs"], "points": {"kind": "points"}},
    "encodings": {**CONFIG["encodings"], "groups": {"kind": "clusters", "retrieval": "vlad", "clusters": 4}},
}


def _own_photos(project: Project) -> None:
    """Samples with known depths, and photos that can be changed."""
    project.edit("config/methods/quick.yaml", "    pull: true\n", "    pull: true\n    known_depth: true\n")
    project.write("config/config.yaml", {**CONFIG, **_SHARED})
    images = project.folder / "data/images"
    real = images.resolve()
    images.unlink()
    shutil.copytree(real, images)


def _posed(project: Project) -> None:
    """Another method, a baseline and a table beside the tiny project's method; a graph of shared points."""
    _own_photos(project)
    _write_depth_images(project.folder / "data")
    maps = {"pattern": "depth/{folder}/{stem}.png", "max_depth": 60, "max_relative_step": 0.5}
    project.write("config/scenes/tiny.yaml", {**SCENE, "graph": "points", "depth_maps": maps})
    project.write("config/methods/grouped.yaml", deep_merge(METHOD, _METHOD))
    project.write("config/baselines/match.yaml", BASELINE)
    project.write("config/tables/mini.yaml", _TABLE)


def _write_depth_images(data: Path) -> None:
    """SYNTHETIC: everything 10 m away, in millimetres. Only that they are read or told matters here."""
    for name in (data / "mapping.txt").read_text().split():
        with Image.open(data / "images" / name) as photo:
            width, height = photo.size
        path = (data / "depth" / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((height // 4, width // 4), 10_000, np.uint16)).save(path)


def _bare(project: Project) -> None:
    """A dozen photos without poses."""
    _own_photos(project)
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


_RESULTS = "results/tiny"
_POSES = (f"{_RESULTS}/poses.txt", f"{_RESULTS}/local/small/depth-maps.h5")
POSED = Chain(
    scene="tiny",
    targets=(
        *(*_POSES, "results/tables/mini.md"),
        *(f"{_RESULTS}/{name}/report.html" for name in ("grouped", "match")),
    ),
    answers=(
        *(*_POSES, "results/tables/mini.csv", "results/tables/mini.md", f"{_RESULTS}/match/map.h5"),
        *(f"{_RESULTS}/{name}/poses.txt" for name in ("grouped", "match")),
    ),
    photos="data/images",
    prepare=_posed,
)


def _poses_chain(scene: str, photos: str, prepare: Callable[[Project], None], struck: tuple[str, ...] = ()) -> Chain:
    poses = (f"results/{scene}/poses.txt",)
    return Chain(scene, poses, poses, photos, prepare, struck)


PHOTOS = _poses_chain("bare", "bare/photos", _bare, ("reconstruct_scene", "build_scene", "build_graph"))
# a tiny project as it is, of which the tests have a finished one
PLAIN = _poses_chain("tiny", "data/images", lambda project: None)
