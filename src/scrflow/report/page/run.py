"""The run that a report is of: everything that the workflow left of one method on one scene, read once."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError
from scipy.spatial import cKDTree

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_centre
from scrflow.evaluate.metrics import LocalizationDetails, QueryDetail, query_table
from scrflow.graph.covisibility import Graph, load_graph
from scrflow.pipeline.provenance import stages_of
from scrflow.report.costs import Costs, costs_of
from scrflow.scene.model import Scene, load_scene, read_poses
from scrflow.storage.artifact import Stamp, read_json, read_stamp, require, sha256_file


@dataclass(frozen=True)
class Run:
    """One method on one scene. Queries are in the scene's order, errors in its unit and in degrees."""

    folder: Path  # results/SCENE/METHOD
    scene: Scene
    metrics: Mapping[str, Any]  # metrics.json
    table: pd.DataFrame  # scrflow.evaluate.metrics.query_table
    estimates: Mapping[str, np.ndarray]  # query name -> cam_from_world [3, 4] of the localized ones
    details: Mapping[str, QueryDetail]
    history: pd.DataFrame | None  # a row a line of the training log; None for a method that is not trained
    graph: Graph | None  # None where the method has no use for one
    # path below results/ -> stamp of what the result came from, inputs first; None: of another tool's making
    stages: Mapping[str, Stamp | None]
    costs: Costs

    @property
    def results(self) -> Path:
        """The folder that ``stages`` are below."""
        return self.folder.absolute().parents[1]

    @property
    def unit(self) -> str:
        """Unit of length."""
        return self.metrics["unit"]

    @property
    def thresholds(self) -> list[tuple[float, float]]:
        """Distance (unit) and angle (degrees), finest first."""
        return [(float(t), float(r)) for t, r in self.metrics["thresholds"]]

    @property
    def known(self) -> pd.DataFrame:
        """The queries with a reference pose."""
        return self.table[self.table["reference"]]

    @property
    def conditions(self) -> list[str]:
        """Names of the conditions, sorted; a single one where the scene tells none apart."""
        return sorted(set(self.table["condition"]))

    @cached_property
    def nearest(self) -> pd.DataFrame:
        """By name of each query with a reference pose: ``image``, the mapping image whose camera stood nearest,
        ``distance`` (unit) to it and ``angle`` (degrees) between the two cameras' rotations."""
        names = list(self.known["name"])
        if not names:
            return pd.DataFrame({"image": [], "distance": [], "angle": []})
        mapping = np.stack([view.cam_from_world for view in self.scene.mapping])
        queries = np.stack([self.scene.query_poses[name] for name in names])
        distance, row = cKDTree(camera_centre(mapping)).query(camera_centre(queries))
        trace = np.einsum("nij,nij->n", queries[:, :, :3], mapping[row][:, :, :3])
        angle = np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
        images = [self.scene.mapping[i].name for i in row]
        return pd.DataFrame({"image": images, "distance": distance, "angle": angle}, index=names)


def load_run(folder: Path) -> Run:
    """The run in results/SCENE/METHOD; ScrflowError where a file is missing, damaged, or of another run."""
    folder = Path(folder)
    metrics = read_json(require(folder / "metrics.json", "metrics"), "metrics")
    stamp = read_stamp(folder / "metrics.json")
    root = folder.absolute().parent
    scene = load_scene(root / "scene")
    poses, said = folder / "poses.txt", folder / "localization.json"
    _check_inputs(folder, stamp, scene, poses, said)
    details = _details(said)
    estimates = read_poses(poses)
    stages = stages_of(folder / "metrics.json", metrics)
    return Run(
        folder,
        scene,
        metrics,
        query_table(scene, estimates, details),
        estimates,
        details,
        _history(root, folder, metrics),
        _graph(root.parent, stages),
        stages,
        costs_of(folder),
    )


def _graph(results: Path, stages: Mapping[str, Stamp | None]) -> Graph | None:
    for path, stamp in stages.items():
        if stamp is not None and stamp.kind == "covisibility":
            file = require(results / path, "covisibility graph")
            if read_stamp(file).digest != stamp.digest:
                raise ScrflowError(f"{file}: made anew since the result was; run the workflow again")
            return load_graph(file)
    return None


def _check_inputs(folder: Path, stamp: Stamp, scene: Scene, poses: Path, said: Path) -> None:
    """The metrics must be of just these files: a report of two runs at once would be of none."""
    found = {
        "scene": scene.stamp.digest,
        "details": read_stamp(said, "localization").digest,
        "poses": sha256_file(require(poses, "poses"))[:16],
    }
    for name, digest in found.items():
        if stamp.inputs.get(name) != digest:
            raise ScrflowError(
                f"{folder / 'metrics.json'}: made of another {name} than the one that is here; evaluate again"
            )


def _details(path: Path) -> dict[str, QueryDetail]:
    try:
        return LocalizationDetails.model_validate(read_json(path, "localization")).queries
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ScrflowError(f"{path}: key {key} is damaged; delete the file and localize again") from None


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
