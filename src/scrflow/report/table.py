"""Tables: what finished runs measured beside what was published, as Markdown, CSV and LaTeX.

The text has a line a row, and a column a scene, condition and metric; the CSV has a line a cell.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from scrflow.config.table import Papers, Published, TableRow, TableRun, TableScene, TableStage, load_papers
from scrflow.evaluate.metrics import OVERALL
from scrflow.report.claims import claims_text, judge
from scrflow.report.costs import mapping_seconds
from scrflow.report.formats import SUFFIX, format_value, limit, pipe_table, tabular
from scrflow.storage.artifact import read_json, write_text

MEAN = "mean"  # in place of a scene: over all of them
_OF_QUERIES = ("recall", "median")  # metrics that conditions have
_HEADERS = {
    "median_t": "median position",
    "median_r": "median rotation",
    "map_mb": "map, MB",
    "mapping_min": "mapping, min",
    "training_min": "training, min",
    "query_ms": "ms a query",
}
_UNITS = {"recall": "%", "median_r": "deg", "map_mb": "MB", "query_ms": "ms"}  # of the others minutes


@dataclass(frozen=True)
class Cell:
    """One metric of one row on one scene and condition: a value a seed, infinite where no pose was found for half of
    the queries; no value where nothing was measured."""

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

    @property
    def column(self) -> tuple[str, str, str]:
        return self.scene, self.condition, self.metric


def write_table(
    config: TableStage, results: Path, papers: Path, out_markdown: Path, out_csv: Path, out_latex: Path
) -> None:
    """Write one table from the runs under ``results`` and the published numbers in ``papers`` (config/papers).

    ScrflowError where a run's metrics are missing or damaged, or a published row or column is unknown.
    """
    where = config.table.published
    cites = where is not None or any(claim.published for claim in config.table.claims)
    registry = load_papers(papers) if cites else None
    cells = collect(config, results, registry)
    parts = [markdown(config, cells)]
    if config.table.claims:
        parts.append(claims_text(config.table, list(judge(config, results)), registry))
    if where is not None:
        parts.append(_as_published(where.paper, where.table, registry))
    write_text(out_csv, to_csv(config.name, config.set, cells))
    write_text(out_latex, latex(config, cells))
    write_text(out_markdown, "\n".join(parts))


def collect(config: TableStage, results: Path, papers: Papers | None) -> list[Cell]:
    """All cells, row by row; ``papers`` may be None for a table without published numbers."""
    read = {run: read_json(Path(results) / run.path / "metrics.json", "metrics") for run in config.runs}
    cells = []
    for row in config.table.rows:
        of_row = []
        for scene in config.scenes:
            runs = {run: found for run, found in read.items() if (run.row, run.scene) == (row.id, scene.name)}
            of_row += _of_scene(config, results, row, scene, runs)
        if config.table.mean and len(config.scenes) > 1:
            of_row += _means(config, of_row)
        cells += [replace(cell, published=_published(cell, config, row, papers)) for cell in of_row]
    return cells


def _of_scene(
    config: TableStage, results: Path, row: TableRow, scene: TableScene, runs: dict[TableRun, dict[str, Any]]
) -> Iterator[Cell]:
    conditions = [OVERALL]
    if config.table.conditions:
        conditions += [*scene.conditions, *sorted({c for metrics in runs.values() for c in metrics["conditions"]})]
    for condition in dict.fromkeys(conditions):
        for metric in config.table.metrics:
            name, _, index = metric.partition("@")
            of_queries = name.startswith(_OF_QUERIES)
            if (condition != OVERALL and not of_queries) or (index and int(index) >= len(scene.thresholds)):
                continue
            values, queries = {}, None
            for run, metrics in runs.items():
                group = metrics["conditions"].get(condition)
                if condition == OVERALL or (group is None and len(scene.conditions) < 2):
                    group = metrics["overall"]
                value = None if group is None else _value(metric, metrics, group, Path(results) / run.path)
                if value is not None:
                    values[run] = value
                    queries = group["with_reference"] if of_queries else None
            unit = scene.unit if name == "median_t" else _UNITS.get(name, "min")
            seeds = tuple(run.seed for run in values)
            yield Cell(row.id, row.label, scene.name, condition, metric, unit, tuple(values.values()), seeds, queries)


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
    seconds = mapping_seconds(folder) if name == "mapping_min" else (metrics["training"] or {}).get("seconds")
    return None if seconds is None else seconds / 60


def _means(config: TableStage, cells: list[Cell]) -> Iterator[Cell]:
    """Over the scenes, seed by seed, of the metrics that every scene has."""
    for metric in config.table.metrics:
        found = [c for c in cells if c.metric == metric and c.condition == OVERALL]
        if not found:
            continue
        mean = replace(found[0], scene=MEAN, values=(), seeds=(), queries=None)
        complete = len({c.unit for c in found}) == 1 and len(found) == len(config.scenes)
        if complete and found[0].seeds and len({c.seeds for c in found}) == 1:
            values = tuple(fmean(at_seed) for at_seed in zip(*(c.values for c in found), strict=True))
            queries = sum(c.queries or 0 for c in found) or None
            mean = replace(mean, values=values, seeds=found[0].seeds, queries=queries)
        yield mean


def _published(cell: Cell, config: TableStage, row: TableRow, papers: Papers | None) -> Published | None:
    where = config.table.published
    # nothing was published on a set's scenes: the paper's own table stands under ours
    if where is None or row.published is None or papers is None or config.set is not None:
        return None
    keys = [f"{cell.scene}/{cell.condition}"]
    if cell.condition == OVERALL:
        keys += [cell.scene, "*"]  # * is a number of the method, not of its queries
    for key in keys:
        column = where.columns.get(key, {}).get(cell.metric)
        if column:
            return papers.value(where.paper, where.table, row.published, column)
    return None


def _number(text: Any) -> Any:
    return None if text == "" else text


Number = Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(_number)]
Key = tuple[str, str, str, str]  # row, scene, condition, metric


class Line(BaseModel):
    """A line of the CSV, which is a cell. Empty: not measured, not published, or only one seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    table: str
    set: str
    row: str
    label: str
    scene: str
    condition: str
    metric: str
    unit: str
    mean: Number  # infinite: no pose for half of the queries
    spread: Number  # standard deviation over the seeds
    min: Number = None
    max: Number = None
    n: int = Field(ge=0)
    seeds: str = ""
    queries: Annotated[int | None, BeforeValidator(_number)] = None  # of one seed
    published: str = ""
    published_unit: str = ""
    source: str = ""

    @property
    def key(self) -> Key:
        return self.row, self.scene, self.condition, self.metric

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.3g}"
        return f"{self.mean:.6g}{spread} {self.unit} (n {self.n})"


FIELDS = tuple(Line.model_fields)


def to_csv(name: str, set_name: str | None, cells: list[Cell]) -> str:
    """Tidy CSV: a Line a cell."""
    lines = [
        {
            "table": name,
            "set": set_name or "",
            **{key: getattr(c, key) for key in ("row", "label", "scene", "condition", "metric", "unit")},
            "mean": c.mean,
            "spread": c.spread,
            "min": min(c.values, default=None),
            "max": max(c.values, default=None),
            "n": len(c.values),
            "seeds": " ".join(str(s) for s in c.seeds if s is not None),
            "queries": c.queries,
            **({"published": p.value, "published_unit": p.unit, "source": p.source} if (p := c.published) else {}),
        }
        for c in cells
    ]
    frame = pd.DataFrame(lines, columns=FIELDS).astype({"queries": "Int64"})
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def markdown(config: TableStage, cells: list[Cell]) -> str:
    about = " ".join(config.table.about.split())
    synthetic = ", ".join(scene.name for scene in config.scenes if scene.synthetic)
    if synthetic:
        about = f"{about} **{synthetic}: a synthetic scene.**".strip()
    title = f"# {config.table.title}" + (f", on {config.set}" if config.set else "")
    parts = [title, about, pipe_table(*_grid(config, cells)), _legend(config, cells)]
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(config: TableStage, cells: list[Cell]) -> str:
    return tabular(*_grid(config, cells), [config.table.title, *_legend(config, cells).splitlines()])


def _grid(config: TableStage, cells: list[Cell]) -> tuple[list[str], list[list[str]]]:
    """Header and lines; rows and columns without any number are left out."""
    at = {(c.row, c.column): c for c in cells if c.values or c.published is not None}
    columns = [column for column in dict.fromkeys(c.column for c in cells) if any(column == key[1] for key in at)]
    rows = [row for row in config.table.rows if any(row.id == key[0] for key in at)]
    header = ["", *(_header(config, *column) for column in columns)]
    return header, [[row.label, *(_text(at.get((row.id, column))) for column in columns)] for row in rows]


def _header(config: TableStage, scene: str, condition: str, metric: str) -> str:
    name, _, index = metric.partition("@")
    what = _threshold(config, scene, int(index)) if name == "recall" else _HEADERS[metric]
    return " ".join([scene] * (len(config.scenes) > 1) + [condition] * (condition != OVERALL) + [what])


def _threshold(config: TableStage, scene: str, index: int) -> str:
    """``25 cm 2°``; of the mean over scenes with different thresholds the place alone."""
    of = {s.name: (s.thresholds[index], s.unit) for s in config.scenes if index < len(s.thresholds)}
    chosen = set(of.values()) if scene == MEAN else {of[scene]}
    if len(chosen) > 1:
        return f"threshold {index + 1}"
    return limit(*chosen.pop(), " ")


def _text(cell: Cell | None) -> str:
    """Ours, and in brackets what was published."""
    parts = []
    if cell is not None and cell.values:
        parts.append(format_value(cell.metric, cell.mean, cell.unit, cell.spread))
        parts += [f"({len(cell.values)})"] if len(cell.values) > 1 else []
    if cell is not None and (p := cell.published):
        other = f" {p.unit}" if p.unit != cell.unit else ""
        parts.append(f"[{p.printed}{SUFFIX.get(cell.metric, other).format(unit=p.unit)}]")
    return " ".join(parts)


def _legend(config: TableStage, cells: list[Cell]) -> str:
    said = []
    measured = [c for c in cells if c.values]
    if len(config.scenes) == 1 and measured:
        said.append(f"Scene: {config.scenes[0].name}.")
    if any(len(c.values) > 1 for c in measured):
        seeds = ", ".join(map(str, config.table.seeds))
        said.append(f"Mean ± standard deviation over (n) seeds of training and localization: {seeds}.")
    elif measured:
        said.append(f"One seed: {config.table.seeds[0]}.")
    sources = sorted({c.published.source for c in cells if c.published})
    if sources:
        said.append(f"In brackets the published number ({', '.join(sources)}).")
    if any(math.isinf(v) for c in measured for v in c.values):
        said.append("∞: half of the queries or more were not localized.")
    return " ".join(said)


def _as_published(paper_name: str, table_name: str, papers: Papers) -> str:
    """The paper's own table, as the registry has it."""
    paper, table = papers.table(paper_name, table_name)
    arxiv = f", arXiv {paper.arxiv}" if paper.arxiv else ""
    header = ["", *(f"{name}, {column.unit}" for name, column in table.columns.items())]
    lines = [[row, *("" if c is None else c.printed for c in cells)] for row, cells in table.rows.items()]
    about = f"{paper.name} {table.name} ({paper.venue}{arxiv}). {table.about}"
    return f"## As published\n\n{about}\n\n{pipe_table(header, lines)}\n"
