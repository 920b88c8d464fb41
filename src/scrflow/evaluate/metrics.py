"""The evaluation stage: estimated poses against the reference, by condition, as numbers and as two pictures.

A query is right within a threshold when both its position and its rotation error are below it. A query that was not
localized has infinite errors; one without a reference pose is counted, but has none.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from scrflow.config import EvaluateStage
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pose_error
from scrflow.evaluate.figures import Reprojection, draw_errors, draw_overlay
from scrflow.pipeline.provenance import gather, last_of_history
from scrflow.pipeline.stages import code_of
from scrflow.scene.lists import read_poses
from scrflow.scene.model import Scene, load_scene
from scrflow.storage.artifact import Stamp, atomic_path, read_json, require, sha256_file, write_json

OVERALL = "all"  # the name of the group of all queries, and the condition of scenes that tell none apart
CONFIDENCE_EDGES = np.array([0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0])  # of the bins of a reliability curve
COLUMNS = ("name", "condition", "localized", "t_err", "r_err", "inliers", "confidence", "hypothesis", "ms")
TRAINING = ("seconds", "step", "median_error_px", "inlier_share")

Count = Annotated[int, Field(ge=0)]
Pixel = tuple[FiniteFloat, FiniteFloat]
Poses = Mapping[str, np.ndarray]  # cam_from_world [3, 4] by query name


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True)  # further keys are none of this stage's business


class QueryDetail(_Form):
    """What the localizer says of one query."""

    localized: bool
    inliers: Count
    keypoints: Count
    hypothesis: str | None
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    ms: dict[str, FiniteFloat]
    reason: str | None = None

    @model_validator(mode="after")
    def _timed(self) -> Self:
        if "total" not in self.ms:
            raise ValueError("ms has no total")
        return self


class OverlayDetail(_Form):
    """Keypoints of one query (px of the photo, distorted) and where its scene coordinates fall; null: behind it."""

    name: str
    pixels: list[Pixel]
    reprojected: list[Pixel | None]
    inlier: list[bool]

    @model_validator(mode="after")
    def _even(self) -> Self:
        if not len(self.pixels) == len(self.reprojected) == len(self.inlier):
            raise ValueError("pixels, reprojected and inlier differ in length")
        return self


class LocalizationDetails(_Form):
    """``METHOD/localization.json``."""

    queries: dict[str, QueryDetail]
    overlay: OverlayDetail | None = None
    poses_sha256: str


def evaluate(
    config: EvaluateStage,
    scene: Path,
    map_path: Path,
    poses: Path,
    details: Path,
    training: Path | None,
    out_csv: Path,
    out_metrics: Path,
    errors_png: Path,
    overlay_png: Path,
) -> None:
    """Write the per-query table, the metrics and the two pictures of one method on one scene.

    ``scene`` is the scene artifact's folder, ``poses`` the lines ``name qw qx qy qz tx ty tz`` (cam_from_world) of the
    localized queries, ``details`` localization.json, ``training`` the log of training (None: nothing was trained).
    Scene and method are named after the folders of ``out_metrics``. Errors are in the scene's unit and in degrees.
    ScrflowError for input that is damaged or does not belong together.
    """
    loaded = load_scene(scene)
    said = read_details(details)
    if sha256_file(require(poses, "poses")) != said.poses_sha256:
        raise ScrflowError(f"{poses}: does not belong to {details}; delete both and localize again")
    estimates = read_poses(poses)
    _check_names(loaded, estimates, poses, said, details)

    table = query_table(loaded, estimates, said.queries)
    folder = Path(out_metrics).resolve().parent
    conditions = [(str(name), part) for name, part in table.groupby("condition") if name != OVERALL]
    metrics = {
        "scene": folder.parent.name,
        "method": folder.name,
        "synthetic": config.synthetic,
        "unit": config.unit,
        "thresholds": [list(t) for t in config.thresholds],
        "reference": _reference_note(loaded),
        "overall": summarize(table, said.queries, config.thresholds),
        "conditions": {name: summarize(part, said.queries, config.thresholds) for name, part in conditions},
        "confidence": _confidence(table, config.thresholds[0]),
        "map_mb": require(map_path, "map").stat().st_size / 1e6,
        "training": None if training is None else _training(training),
        # variants that differ in localization alone share a head
        "trained_as": None if training is None else Path(training).resolve().parent.name,
        "queries_without_pose": {n: q.reason or "no reason given" for n, q in said.queries.items() if not q.localized},
    }
    inputs = {"scene": loaded.stamp.digest, "map": Path(map_path), "details": Path(details)}
    inputs["poses"] = sha256_file(poses)[:16]
    if training is not None:
        inputs["training"] = sha256_file(training)[:16]
    stamp = Stamp.make("metrics", config, code_of("evaluate_poses", config), **inputs)
    metrics["provenance"] = gather(stamp, Path(map_path), Path(details), training)

    title = f"{metrics['scene']} · {metrics['method']}"
    draw_errors(errors_png, loaded, estimates, table, config, title)
    _draw_overlay(overlay_png, loaded, said, config, title, details)
    with atomic_path(out_csv) as temporary:
        table.drop(columns="reference").to_csv(temporary, index=False, lineterminator="\n", float_format="%.6g")
    write_json(out_metrics, metrics, stamp)


def query_table(scene: Scene, estimates: Poses, details: dict[str, QueryDetail]) -> pd.DataFrame:
    """One row a query, in the scene's order: COLUMNS, and ``reference`` (whether its true pose is known).

    ``t_err`` (scene unit) and ``r_err`` (degrees) are infinite where the query was not localized, NaN where there is no
    reference. ``ms`` is the wall-clock total.
    """
    rows = []
    for query in scene.queries:
        name, detail = query.name, details[query.name]
        known = name in scene.query_poses
        errors = (math.nan, math.nan)
        if known:
            errors = pose_error(estimates[name], scene.query_poses[name]) if name in estimates else (math.inf, math.inf)
        confidence = math.nan if detail.confidence is None else detail.confidence
        said = (detail.inliers, confidence, detail.hypothesis, detail.ms["total"])
        rows.append((name, query.condition, detail.localized, *errors, *said, known))
    return pd.DataFrame(rows, columns=[*COLUMNS, "reference"])


def summarize(
    table: pd.DataFrame, details: dict[str, QueryDetail], thresholds: tuple[tuple[float, float], ...]
) -> dict[str, Any]:
    """Counts, recall (fraction of the queries with reference, one a threshold), medians and mean ms of these queries.

    Recall and medians are None without reference; a median is None too when it is infinite (half were not localized).
    """
    known = table[table["reference"]]
    recall = None
    if len(known):
        recall = [float(((known["t_err"] < t) & (known["r_err"] < r)).mean()) for t, r in thresholds]
    # a part that some queries never reach (no pose without matches) counts zero for them: parts add up to the total
    ms = pd.DataFrame([details[name].ms for name in table["name"]]).sum() / len(table)
    return {
        "queries": len(table),
        "with_reference": len(known),
        "localized": int(table["localized"].sum()),
        "recall": recall,
        "median_t_err": _median(known["t_err"]),
        "median_r_err": _median(known["r_err"]),
        "median_inliers": _median(table["inliers"]),
        "ms": ms.to_dict(),
    }


@dataclass(frozen=True)
class Reliability:
    """Of N poses: by bin of confidence, how many there are, the mean confidence, and the share that is right."""

    count: np.ndarray  # [bins] int64
    said: np.ndarray  # [bins] NaN where there is none
    right: np.ndarray  # [bins] NaN where there is none
    calibration_error: float  # mean of |said - right| over the poses (ECE)
    brier: float  # mean of (confidence - right)^2: 0 at best, share * (1 - share) for one who knows but the share


def reliability(confidence_N: np.ndarray, right_N: np.ndarray) -> Reliability:
    """Confidences [N], N > 0, held against whether the poses were right [N] (bool)."""
    p, right = np.asarray(confidence_N, float), np.asarray(right_N, float)
    bins = len(CONFIDENCE_EDGES) - 1
    index = np.clip(np.digitize(p, CONFIDENCE_EDGES) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        said, share = (np.bincount(index, values, bins) / count for values in (p, right))
    gap = np.abs(np.bincount(index, p - right, bins)).sum() / len(p)
    return Reliability(count, said, share, float(gap), float(((p - right) ** 2).mean()))


def _confidence(table: pd.DataFrame, within: tuple[float, float]) -> dict[str, float] | None:
    """How well the confidences foretell which poses are right at the finest threshold; None without any to compare."""
    known = table[table["reference"] & table["confidence"].notna()]
    if known.empty:
        return None
    right = ((known["t_err"] < within[0]) & (known["r_err"] < within[1])).to_numpy()
    curve = reliability(known["confidence"].to_numpy(), right)
    said = float(known["confidence"].mean())
    scores = {"calibration_error": curve.calibration_error, "brier": curve.brier}
    return {"queries": len(known), "mean": said, "right": float(right.mean()), **scores}


def _median(values: pd.Series) -> float | None:
    middle = float(np.median(values)) if len(values) else math.nan
    return middle if math.isfinite(middle) else None


def _reference_note(scene: Scene) -> str:
    known, total = len(scene.query_poses), len(scene.queries)
    if known == total:
        return "all queries have reference poses"
    if known == 0:
        return "no reference poses known here: no errors and no recall (hand in poses.txt where they are kept)"
    return f"{known} of {total} queries have reference poses; recall and medians are over these"


def read_details(path: Path) -> LocalizationDetails:
    """A localization.json; ScrflowError naming the key that is damaged."""
    try:
        return LocalizationDetails.model_validate(read_json(path, "localization"))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(p) for p in first["loc"])
        raise ScrflowError(f"{path}: key {key}: {first['msg']}; delete the file and localize again") from None


def _check_names(scene: Scene, estimates: Poses, poses: Path, said: LocalizationDetails, details: Path) -> None:
    """Poses, details and the scene's query list must speak of the same queries."""
    names = {query.name for query in scene.queries}
    localized = {name for name, query in said.queries.items() if query.localized}
    shown = set() if said.overlay is None else {said.overlay.name}
    for path, odd, what in (
        (details, (said.queries.keys() ^ names) | (shown - names), f"in it or a query of {scene.folder}, not both"),
        (poses, estimates.keys() ^ localized, f"in it or localized in {details}, not both"),
    ):
        if odd:
            raise ScrflowError(f"{path}: {min(odd)} is {what}; localize again on this scene")


def _training(path: Path) -> dict[str, float | None]:
    """What the log's last line says; None for an error or share that is no number (the training came to nothing)."""
    last = last_of_history(require(path, "training log"))
    try:
        values = {key: math.nan if last[key] is None else float(last[key]) for key in TRAINING}
        if not (math.isfinite(values["seconds"]) and math.isfinite(values["step"])):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        what = f"{', '.join(TRAINING)} are not all numbers in the last line of the training log"
        raise ScrflowError(f"{path}: {what}; train again") from None
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def _draw_overlay(
    out: Path, scene: Scene, said: LocalizationDetails, config: EvaluateStage, title: str, details: Path
) -> None:
    """The overlay's query, or the first query's photo with a note when none was localized."""
    overlay = said.overlay
    name = overlay.name if overlay else scene.queries[0].name
    photo = scene.photo(name)
    points = None
    if overlay is not None and overlay.pixels:
        reprojected = np.array([p or (math.nan, math.nan) for p in overlay.reprojected], np.float64)
        points = Reprojection(np.array(overlay.pixels, np.float64), reprojected, np.array(overlay.inlier, bool))
        if not ((points.pixels >= 0) & (points.pixels <= photo.size)).all():
            size = f"{photo.width} x {photo.height}"
            raise ScrflowError(f"{details}: overlay of {name} has pixels outside the photo ({size}); localize again")
    draw_overlay(out, photo, points, f"{title} · {name}", config.synthetic)
