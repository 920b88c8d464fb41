"""Real little runs for the report: the painted wall's photos, under names that try to break out of the page."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plane_map
from PIL import Image
from scenes import scene_of

from scrflow.config import EvaluateStage, LocalizeStage, MapStage
from scrflow.evaluate.metrics import evaluate
from scrflow.localize.localizer import localize_queries
from scrflow.map.file import write_map
from scrflow.scene.model import Query, load_scene
from scrflow.storage.artifact import read_stamp

SCRIPT, IMAGE = "<script>alert(1)</script>.png", "day/\"'><img/src=x/onerror=alert(2)>.png"
THRESHOLDS = ((0.02, 1.0), (0.05, 2.0), (0.5, 10.0))


@dataclass(frozen=True)
class Photo:
    """A query: where it is taken (None: a photo of nothing), where its reference says so (None: it has none)."""

    condition: str
    taken: np.ndarray | None
    reference: np.ndarray | None


def photo(x: float, condition: str = "day", known: bool = True, off: float = 0.0) -> Photo:
    """A query in front of the wall; ``off``: metres by which its reference is wrong."""
    taken = plane_map.pose(x, 0.1, 1.5, 10 * x, 1.0)
    return Photo(condition, taken, plane_map.pose(x + off, 0.1, 1.5, 10 * x, 1.0) if known else None)


def nothing(condition: str = "night", known: bool = True) -> Photo:
    """A grey photo, which cannot be localized."""
    return Photo(condition, None, plane_map.pose(0, 0, 1.5, 0, 0) if known else None)


MIXED = {
    SCRIPT: photo(0.3, "night"),
    IMAGE: photo(-0.3),
    **{f"day/{i}.png": photo(-0.25 + 0.05 * i) for i in range(10)},
    "day/unknown.png": photo(0.15, known=False),
    "night/astray.png": photo(0.2, "night", off=3.0),
    "night/dark.png": nothing(),
}


class Wall:
    """The painted wall and its map; ``run`` adds results of a set of queries."""

    def __init__(self, root: Path, made: plane_map.PlaneMap):
        self.root = root
        self.made, self.mapping = made, load_scene(made.scene).mapping
        self.photos = Path(shutil.copytree(made.photos, root / "photos"))
        self.stage = MapStage.model_validate(read_stamp(made.map, "map").config)
        self.stage = self.stage.model_copy(update={"thresholds": THRESHOLDS})

    def run(self, name: str, queries: dict[str, Photo]) -> Path:
        """results/NAME/tiny with all that the workflow leaves of localization; the folder."""
        photos, texture = self.photos, plane_map.wall()
        for query, of in queries.items():
            (photos / query).parent.mkdir(parents=True, exist_ok=True)
            grey = Image.new("RGB", plane_map.SIZE, (90, 90, 90))
            (grey if of.taken is None else plane_map.photograph(texture, of.taken)).save(photos / query)
        scene, folder = self.root / "results" / name / "scene", self.root / "results" / name / "tiny"
        config = EvaluateStage(thresholds=THRESHOLDS, unit="m", synthetic=True)
        asked = [Query(query, plane_map.CAMERA, of.condition) for query, of in queries.items()]
        known = {query: of.reference for query, of in queries.items() if of.reference is not None}
        scene_of(scene, photos, self.mapping, asked, known)
        parts = (self.made.map.with_name(file) for file in ("head.safetensors", "pca.safetensors"))
        map_path, poses, details = (folder / f for f in ("map.safetensors", "poses.txt", "localization.json"))
        write_map(self.stage, scene, *parts, None, None, map_path)
        localize_queries(LocalizeStage(localize=self.stage.localize, seed=1), scene, map_path, poses, details, 1)
        history = folder / "train.jsonl"
        curves = [(s, {"loss": 90 / s, "median_error_px": 400 / s, "inlier_share": s / 400}) for s in (100, 200, 300)]
        lines = [{"step": s, "lr": 1e-3, "seconds": s / 9, **of} for s, of in curves]
        history.write_text("".join(json.dumps(line) + "\n" for line in lines))
        outputs = (folder / f for f in ("queries.csv", "metrics.json", "errors.png", "overlay.png"))
        evaluate(config, scene, map_path, poses, details, history, *outputs)
        return folder
