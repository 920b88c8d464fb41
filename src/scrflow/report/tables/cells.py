"""The cells of a table: what the runs measured, and the published number beside it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scrflow.config.table import TableRow, TableRun, TableScene, TableStage
from scrflow.report.costs import mapping_seconds
from scrflow.report.published import Papers, Published
from scrflow.storage.artifact import read_json

OVERALL = "all"  # condition of all queries
MEAN = "mean"  # in place of a scene: over all of them
OF_QUERIES = ("recall", "median")  # metrics that conditions have
FIELDS = (
    *("table", "set", "row", "label", "scene", "condition", "metric", "unit", "mean", "spread", "min", "max", "n"),
    *("seeds", "queries", "published", "published_unit", "source"),
)


@dataclass(frozen=True)
class Cell:
    """One metric of one row on one scene and condition: a value a seed, infinite where no pose was found for half of
    the queries; none where nothing was measured."""

    row: str
    label: str
    scene: str
    condition: str
    metric: str
    unit: str
    values: tuple[float, ...] = ()
    seeds: tuple[int | None, ...] = ()
    queries: int | None = None
    published: Published | None = None

    @property
    def mean(self) -> float | None:
        return fmean(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds (n - 1); None for one seed."""
        finite = len(self.values) > 1 and all(map(math.isfinite, self.values))
        return stdev(self.values) if finite else None


def collect(config: TableStage, results: Path, papers: Papers | None) -> list[Cell]:
    """All cells, row by row. ScrflowError where a run's metrics are missing or damaged, or a published row or column is
    unknown; ``papers`` may be None for a table without published numbers."""
    read = {run: read_json(folder_of(results, run) / "metrics.json", "metrics") for run in config.runs}
    cells = []
    for row in config.table.rows:
        of_row = []
        for scene in config.scenes:
            runs = [run for run in config.runs if (run.row, run.scene) == (row.id, scene.name)]
            of_row += _of_scene(config, results, row, scene, [(run, read[run]) for run in runs])
        if config.table.mean and len(config.scenes) > 1:
            of_row += _means(config, of_row)
        cells += [_with_published(cell, config, row, papers) for cell in of_row]
    return cells


def folder_of(results: Path, run: TableRun) -> Path:
    """results/SCENE/METHOD of a run."""
    return Path(results) / run.scene / run.folder


def to_csv(config: TableStage, cells: list[Cell]) -> str:
    """Tidy CSV: a line a cell, FIELDS; empty where nothing was measured, published, or only one seed ran."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    for c in cells:
        p = c.published
        writer.writerow(
            {
                "table": config.name,
                "set": config.set or "",
                **{key: getattr(c, key) for key in ("row", "label", "scene", "condition", "metric", "unit")},
                "mean": _number(c.mean),
                "spread": _number(c.spread),
                "min": _number(min(c.values, default=None)),
                "max": _number(max(c.values, default=None)),
                "n": len(c.values),
                "seeds": " ".join(str(s) for s in c.seeds if s is not None),
                "queries": "" if c.queries is None else c.queries,
                "published": "" if p is None else f"{p.value:g}",
                "published_unit": "" if p is None else p.unit,
                "source": "" if p is None else p.source,
            }
        )
    return out.getvalue()


# --------------------------------------------------------------------------------------------------------------- parts


def _of_scene(
    config: TableStage, results: Path, row: TableRow, scene: TableScene, runs: list[tuple[TableRun, dict[str, Any]]]
) -> Iterator[Cell]:
    conditions = [OVERALL]
    if config.table.conditions:
        told = {condition for _, metrics in runs for condition in metrics["conditions"]}
        conditions += [*scene.conditions, *sorted(told - set(scene.conditions))]
    for condition in conditions:
        for metric in config.table.metrics:
            of_queries = metric.startswith(OF_QUERIES)
            if condition != OVERALL and not of_queries:
                continue
            if metric.startswith("recall@") and int(metric.removeprefix("recall@")) >= len(scene.thresholds):
                continue
            values, seeds, queries = [], [], None
            for run, metrics in runs:
                group = metrics["overall"] if condition == OVERALL else metrics["conditions"].get(condition)
                if group is None and len(scene.conditions) < 2:
                    group = metrics["overall"]
                value = None if group is None else _value(metric, metrics, group, folder_of(results, run))
                if value is not None:
                    values.append(value)
                    seeds.append(run.seed)
                    queries = group["with_reference"] if of_queries else None
            yield Cell(
                row.id,
                row.label,
                scene.name,
                condition,
                metric,
                _unit(metric, scene),
                tuple(values),
                tuple(seeds),
                queries,
            )


def _value(metric: str, metrics: dict[str, Any], group: dict[str, Any], folder: Path) -> float | None:
    name, _, index = metric.partition("@")
    if name == "recall":
        return None if group["recall"] is None else 100 * group["recall"][int(index)]
    if name in ("median_t", "median_r"):
        if not group["with_reference"]:
            return None
        median = group[f"{name}_err"]
        return math.inf if median is None else median
    if name == "map_mb":
        return metrics["map_mb"]
    if name == "query_ms":
        return group["ms"]["total"]
    if name == "training_min":
        return metrics["training"]["seconds"] / 60 if metrics["training"] else None
    seconds = mapping_seconds(folder)
    return None if seconds is None else seconds / 60


def _unit(metric: str, scene: TableScene) -> str:
    name = metric.partition("@")[0]
    fixed = {"recall": "%", "median_r": "deg", "map_mb": "MB", "query_ms": "ms"}
    return scene.unit if name == "median_t" else fixed.get(name, "min")


def _means(config: TableStage, cells: list[Cell]) -> Iterator[Cell]:
    """Over the scenes, seed by seed, of the metrics that every scene has."""
    for metric in config.table.metrics:
        found = [c for c in cells if c.metric == metric and c.condition == OVERALL]
        complete = len({c.unit for c in found}) == 1 and len(found) == len(config.scenes)
        if not complete or not found[0].seeds or len({c.seeds for c in found}) > 1:
            if found:
                yield Cell(found[0].row, found[0].label, MEAN, OVERALL, metric, found[0].unit)
            continue
        values = tuple(fmean(at_seed) for at_seed in zip(*(c.values for c in found), strict=True))
        queries = sum(c.queries or 0 for c in found) or None
        yield Cell(found[0].row, found[0].label, MEAN, OVERALL, metric, found[0].unit, values, found[0].seeds, queries)


def _with_published(cell: Cell, config: TableStage, row: TableRow, papers: Papers | None) -> Cell:
    where = config.table.published
    # on a set's scenes nothing was published: the paper's own table stands under ours
    if where is None or row.published is None or papers is None or config.set is not None:
        return cell
    for key in (f"{cell.scene}/{cell.condition}", cell.scene if cell.condition == OVERALL else None, "*"):
        column = where.columns.get(key, {}).get(cell.metric) if key else None
        # what holds for any scene is a number of the method, not of its queries
        if column and not (key == "*" and cell.condition != OVERALL):
            found = papers.value(where.paper, where.table, row.published, column)
            return Cell(**{**vars(cell), "published": found})
    return cell


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
