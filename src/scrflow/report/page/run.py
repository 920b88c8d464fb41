"""The run that a page shows: all that the workflow left of one method on one scene; and its numbers in words."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape as text  # a name for the texts of a figure
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, to_hex
from scipy.spatial import cKDTree

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_centre
from scrflow.evaluate.metrics import QueryDetail, query_table, read_details
from scrflow.graph.covisibility import Graph, load_graph
from scrflow.pipeline.provenance import stages_of
from scrflow.report.costs import Costs, costs_of
from scrflow.report.formats import angle, length, limit
from scrflow.scene.lists import read_poses
from scrflow.scene.model import Scene, load_scene
from scrflow.storage.artifact import Stamp, read_json, read_stamp, require, sha256_file

# blue to amber within the thresholds, red beyond: distinct for those who cannot tell red from green
_WITHIN = LinearSegmentedColormap.from_list("within", ["#1b5e9b", "#6aaed6", "#f2b04a"])
_SYMBOLS = ("circle", "diamond", "square", "cross", "x")  # those that 3D plots have too


@dataclass(frozen=True)
class Band:
    """Queries of one quality: within a threshold and no finer one, beyond all, without a pose or a reference."""

    label: str
    colour: str
    queries: pd.DataFrame  # rows of Run.queries


@dataclass(frozen=True)
class Run:
    """One method on one scene. Errors are in the scene's unit and in degrees."""

    folder: Path  # results/SCENE/METHOD
    scene: Scene
    metrics: Mapping[str, Any]  # metrics.json
    queries: pd.DataFrame  # by name, in the scene's order; see _queries
    estimates: Mapping[str, np.ndarray]  # query name -> cam_from_world [3, 4] of the localized ones
    history: pd.DataFrame | None  # a row a line of the training log; None for a method that is not trained
    graph: Graph | None  # None where the method has no use for one
    # path below results/ -> stamp of what the result came from, inputs first; None: made by another tool
    stages: Mapping[str, Stamp | None]
    costs: Costs

    @property
    def unit(self) -> str:
        return self.metrics["unit"]

    @property
    def thresholds(self) -> list[tuple[float, float]]:
        """Distance (unit) and angle (degrees), finest first."""
        return [(float(t), float(r)) for t, r in self.metrics["thresholds"]]

    @cached_property
    def known(self) -> pd.DataFrame:
        """The queries with a reference pose."""
        return self.queries[self.queries["reference"]]

    @cached_property
    def symbols(self) -> dict[str, str]:
        """Marker of each condition, by name; one condition where the scene has no others."""
        names = sorted(set(self.queries["condition"]))
        return {name: _SYMBOLS[i % len(_SYMBOLS)] for i, name in enumerate(names)}

    @cached_property
    def bands(self) -> list[Band]:
        """All bands, best first: within each threshold, beyond the coarsest, not localized, without reference pose."""
        limits = self.thresholds
        colours = [to_hex(colour) for colour in _WITHIN(np.linspace(0, 1, len(limits)))]
        legend = {f"within {limit(bound, self.unit)}": colour for bound, colour in zip(limits, colours, strict=True)}
        legend |= {f"beyond {limit(limits[-1], self.unit, ' or ')}": "#c0392b"}
        legend |= {"not localized": "#111111", "no reference pose": "#8a8f94"}
        return [Band(*entry, self.queries[self.queries["band"] == i]) for i, entry in enumerate(legend.items())]


def load_run(folder: Path) -> Run:
    """The run in results/SCENE/METHOD; ScrflowError where a file is missing, damaged, or of another run."""
    folder = Path(folder)
    path = require(folder / "metrics.json", "metrics")
    metrics = read_json(path, "metrics")
    root = folder.absolute().parent
    scene = load_scene(root / "scene")
    poses, details = require(folder / "poses.txt", "poses"), folder / "localization.json"
    digests = {"scene": scene.stamp.digest, "details": read_stamp(details, "localization").digest}
    for name, digest in {**digests, "poses": sha256_file(poses)[:16]}.items():
        if read_stamp(path).inputs.get(name) != digest:
            raise ScrflowError(f"{path}: made from another {name} than the one that is here; evaluate again")
    estimates = read_poses(poses)
    stages = stages_of(path, metrics)
    queries = _queries(scene, estimates, read_details(details).queries, metrics)
    history, graph = _history(root, folder, metrics), _graph(root.parent, stages)
    return Run(folder, scene, metrics, queries, estimates, history, graph, stages, costs_of(folder))


def _queries(
    scene: Scene, estimates: Mapping[str, np.ndarray], details: Mapping[str, QueryDetail], metrics: Mapping[str, Any]
) -> pd.DataFrame:
    """scrflow.evaluate.metrics.query_table by name, with these columns more:

    ``keypoints``; ``reason`` why it was not localized; ``band``, its place in Run.bands; ``badness``, the larger of
    both errors over the finest threshold, or without a reference pose the lack of confidence (or of inliers);
    ``hover``, what a mark in a figure says. Of queries with a reference pose, ``near``, the mapping image whose camera
    stood nearest, ``distance`` (unit) to it and ``angle`` (degrees) between the two cameras' rotations.
    """
    thresholds = metrics["thresholds"]
    table = query_table(scene, estimates, details).set_index("name", drop=False)
    table["keypoints"] = [details[name].keypoints for name in table.index]
    table["reason"] = [details[name].reason or "no reason given" for name in table.index]
    within = [(table["t_err"] < t) & (table["r_err"] < r) for t, r in thresholds]
    beyond = len(thresholds)
    special = [~table["localized"], ~table["reference"]]
    table["band"] = np.select([*special, *within], [beyond + 1, beyond + 2, *range(beyond)], beyond)
    doubt = (1 - table["confidence"]).fillna(-table["inliers"].astype(float)).where(table["localized"], math.inf)
    t, r = thresholds[0]
    table["badness"] = np.maximum(table["t_err"] / t, table["r_err"] / r).where(table["reference"], doubt)
    table["hover"] = [_hover(row, metrics["unit"]) for row in table.to_dict("records")]
    return table.join(_nearest(scene, list(table.index[table["reference"]])))


def _hover(row: Mapping[str, Any], unit: str) -> str:
    lines = [f"<b>{text(row['name'])}</b>"]
    if not row["localized"]:
        lines.append(f"not localized: {text(row['reason'])}")
    elif row["reference"]:
        lines.append(f"off by {length(row['t_err'], unit)}, {angle(row['r_err'])}")
    lines.append(f"{row['inliers']} of {row['keypoints']} keypoints agree")
    if not math.isnan(row["confidence"]):
        lines.append(f"confidence {row['confidence']:.2f}")
    return "<br>".join(lines)


def _nearest(scene: Scene, names: list[str]) -> pd.DataFrame:
    mapping = np.stack([view.cam_from_world for view in scene.mapping])
    queries = np.stack([scene.query_poses[name] for name in names]) if names else np.empty((0, 3, 4))
    distance, row = cKDTree(camera_centre(mapping)).query(camera_centre(queries))
    trace = np.einsum("nij,nij->n", queries[:, :, :3], mapping[row][:, :, :3])
    turned = np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
    near = [scene.mapping[i].name for i in row]
    return pd.DataFrame({"near": near, "distance": distance, "angle": turned}, index=names)


def _graph(results: Path, stages: Mapping[str, Stamp | None]) -> Graph | None:
    for path, stamp in stages.items():
        if stamp is not None and stamp.kind == "covisibility":
            file = require(results / path, "covisibility graph")
            if read_stamp(file).digest != stamp.digest:
                raise ScrflowError(f"{file}: newer than the result; run the workflow again")
            return load_graph(file)
    return None


def _history(root: Path, folder: Path, metrics: Mapping[str, Any]) -> pd.DataFrame | None:
    """The training log of the method, or of the one whose head it shares (metrics key ``trained_as``)."""
    if metrics["training"] is None:
        return None
    path = require(root / (metrics.get("trained_as") or folder.absolute().name) / "train.jsonl", "training log")
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        history = pd.DataFrame(lines).sort_values("step", kind="stable", ignore_index=True)
    except (ValueError, TypeError, KeyError) as error:
        raise ScrflowError(f"{path}: training log cannot be read ({error}); train again") from None
    return history.replace([math.inf, -math.inf], math.nan)
