"""One result as it is compared."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scrflow.core.errors import ScrflowError
from scrflow.pipeline.provenance import stages_of
from scrflow.report.costs import mapping_seconds
from scrflow.storage.artifact import Stamp, read_json, require

METRICS = "metrics.json"


@dataclass(frozen=True)
class Result:
    """results/SCENE/METHOD."""

    folder: Path
    metrics: dict[str, Any]
    stages: dict[str, Stamp]  # path below results/ -> stamp, inputs before what was made of them
    errors: dict[str, tuple[float, float]]  # query -> translation, rotation; infinite: no pose; NaN: no reference
    mapping_s: float | None

    @classmethod
    def read(cls, folder: Path) -> Result:
        """ScrflowError where metrics.json or queries.csv is missing or damaged."""
        metrics = read_json(folder / METRICS, "metrics")
        stages = {p: s for p, s in stages_of(folder / METRICS, metrics).items() if s is not None}
        return cls(folder, metrics, stages, _errors(folder / "queries.csv"), mapping_seconds(folder))

    @property
    def poses(self) -> str:
        """Digest of poses.txt."""
        return self.stages[METRICS].inputs["poses"]

    def ran(self, what: str) -> dict[str, Any] | None:
        """What training, localization or evaluation ran on; None where it was not noted, or there was none."""
        return (self.metrics.get("provenance") or {}).get(what)


def _errors(path: Path) -> dict[str, tuple[float, float]]:
    try:
        with open(require(path, "table of queries"), encoding="utf-8", newline="") as f:
            return {row["name"]: (_number(row["t_err"]), _number(row["r_err"])) for row in csv.DictReader(f)}
    except (KeyError, TypeError, ValueError):
        raise ScrflowError(f"{path}: expected columns name, t_err, r_err; evaluate again") from None


def _number(text: str) -> float:
    return float(text) if text else math.nan
