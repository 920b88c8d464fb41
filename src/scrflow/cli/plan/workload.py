"""How large a scene is: what costs are counted by. From its artifact, its lists, or the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from scrflow.core.errors import ScrflowError
from scrflow.pipeline.project import Project

# of the synthetic city of benchmarks/graph.py at 50 000 images: 411 484 edges, each of two images
CITY_DEGREE = 16.5
HEADROOM = 5.0  # the largest number of neighbours over the mean, where no graph is there to tell: 45 / 26.8 in the demo


@dataclass(frozen=True)
class Workload:
    """A scene by numbers."""

    images: int  # mapping
    queries: int
    size: tuple[int, int]  # px, of a photo as it is on disk
    degree: float  # neighbours of an image in the covisibility graph, mean
    most_neighbours: int
    bare: bool = False  # photos without poses: structure from motion comes first
    told_by: str = "the command line"

    @property
    def megapixels(self) -> float:
        """Of a photo on disk."""
        return self.size[0] * self.size[1] / 1e6

    def encoded(self, short_side: int) -> float:
        """Pixels of a photo at this short side, over those of 640 x 480."""
        low, high = sorted(self.size)
        return short_side * short_side * high / low / (640 * 480)


def workload_of(
    project: Project,
    scene: str | None,
    results: Path,
    images: int | None = None,
    queries: int | None = None,
    size: tuple[int, int] | None = None,
    degree: float | None = None,
    bare: bool = False,
) -> Workload:
    """Numbers of a scene, what is given going before what is found. ScrflowError where nothing tells how many images
    there are."""
    folder = None if scene is None else results / scene
    found_images, found_queries, told_by = (None, None, "the command line")
    if scene is not None:
        found_images, found_queries, told_by = _counts(project, scene, folder)
        bare = project.scene(scene).source.reader == "photos"
    images = found_images if images is None else images
    queries = found_queries if queries is None else queries
    if images is None:
        raise ScrflowError(
            f"{scene}: how many photos it has is known once it is built ({folder}/scene/scene.json), or its lists are "
            "there; give --images (and --queries)"
        )
    images, queries = max(1, images), 100 if queries is None else queries
    mean, most = _degree(folder) or (None, None)
    if degree is not None or mean is None:
        mean = min(CITY_DEGREE if degree is None else degree, images - 1)
        most = min(images - 1, round(HEADROOM * mean))
    return Workload(images, queries, size or _size(folder) or (640, 480), mean, most, bare, told_by)


def _counts(project: Project, scene: str, folder: Path) -> tuple[int | None, int | None, str]:
    """Mapping images and queries of a scene that is built, or whose lists are there."""
    path = folder / "scene/scene.json"
    if path.is_file():
        try:
            info = json.loads(path.read_text("utf-8"))
            return int(info["mapping_images"]), int(info["queries"]), str(path)
        except (ValueError, KeyError, TypeError):
            raise ScrflowError(f"{path}: not a scene artifact; delete the scene's folder and run again") from None
    s, root = project.scene(scene), project.scene_root(scene)
    split = s.split
    if split.mapping is None or not split.queries:
        return None, None, "the command line"
    lists = [root / split.mapping, *(root / name for name in split.queries.values())]
    if not all(path.is_file() for path in lists):
        return None, None, "the command line"
    counts = [sum(bool(line.split()) and line[0] != "#" for line in p.read_text("utf-8").splitlines()) for p in lists]
    return counts[0], sum(counts[1:]), str(lists[0])


def _size(folder: Path | None) -> tuple[int, int] | None:
    """Of the first query."""
    path = None if folder is None else folder / "scene/queries.txt"
    if path is None or not path.is_file():
        return None
    from scrflow.scene.lists import read_query_list

    camera = next(iter(read_query_list(path).values()), None)
    return None if camera is None else (camera.width, camera.height)


def _degree(folder: Path | None) -> tuple[float, int] | None:
    """Mean and largest number of neighbours in the scene's graph, if it is made."""
    path = None if folder is None else folder / "covisibility.npz"
    if path is None or not path.is_file():
        return None
    import numpy as np

    from scrflow.storage.untrusted import read_arrays

    degrees = np.diff(read_arrays(path, "covisibility")["indptr"])
    return float(degrees.mean()), int(degrees.max())


def resolution(text: str) -> tuple[int, int]:
    """Width and height of ``WxH``."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ScrflowError(f"--resolution {text}: expected WIDTHxHEIGHT, e.g. 1600x1200")
    return int(parts[0]), int(parts[1])
