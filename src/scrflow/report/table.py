"""Tables: what finished runs measured beside what was published, as Markdown, CSV and LaTeX; and the CSV read again.

The text has a line a row, and a column a scene, condition and metric; the CSV has a line a cell. A claim compares two
rows query by query: a query's score is the share of the scene's thresholds that its pose is within, and the difference
of the mean scores has an interval by bootstrap over queries and seeds, the same draws for both rows.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from scrflow.config.table import Claim, TableConfig, TableRow, TableRun, TableScene, TableStage
from scrflow.core.errors import ScrflowError
from scrflow.core.seeds import derived_seed
from scrflow.evaluate.metrics import OVERALL
from scrflow.report.costs import mapping_seconds
from scrflow.report.published import Papers, Published, load_papers
from scrflow.report.summary import terminal
from scrflow.storage.artifact import read_json, require, write_text

MEAN = "mean"  # in place of a scene: over all of them
TIMES = ("mapping_min", "training_min", "query_ms")  # they depend on the machine's load: compared only on request
_DIGITS = 1e-5  # the CSV has six of each number
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
_SUFFIX = {"median_t": " {unit}", "median_r": "°"}  # of a value; the header has the unit of the others
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {c: "\\" + c for c in "&%$#_{}"}
_LATEX |= {"±": r"$\pm$", "×": r"$\times$", "°": r"$^\circ$", "∞": r"$\infty$", "–": "--"}
DRAWS = 4000
LEVEL = 0.95
NO_DIFFERENCE = 0.02  # an interval within it, either side of zero, shows that there is no difference to speak of
MEASURABLE = (0.05, 0.95)  # nothing follows where both rows score below the first, or both above the second


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
        parts.append(_claims(config.table, list(judge(config, results)), registry))
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


def pipe_table(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""

    def line(values: list[str]) -> str:
        return "| " + " | ".join(value.replace("|", r"\|") for value in values) + " |"

    return "\n".join([line(header), "|" + "---|" * len(header), *map(line, lines)])


def tabular(header: list[str], lines: list[list[str]], comments: list[str]) -> str:
    """A LaTeX tabular (package booktabs) of plain text, after comments."""
    rows = [" & ".join(map(escape_latex, line)) + r" \\" for line in [header, *lines]]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}"
    body = [begin, r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*(f"% {line}" for line in comments if line), *body]) + "\n"


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it."""
    return text.translate(str.maketrans(_LATEX))


def format_value(metric: str, value: float, unit: str, spread: float | None = None) -> str:
    """A number with as many digits as it deserves, lengths under a metre in centimetres."""
    if math.isinf(value):
        return "∞"
    if metric == "median_t" and unit == "m" and value < 1:
        value, unit, spread = 100 * value, "cm", None if spread is None else 100 * spread
    digits = 0 if metric == "query_ms" else 1 if metric.startswith("recall@") or abs(value) >= 10 else 2
    shown = f"{value:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")
    return shown + _SUFFIX.get(metric, "").format(unit=unit)


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
    (t, r), unit = chosen.pop()
    length = f"{100 * t:g} cm" if unit == "m" and t < 1 else f"{t:g} {unit}"
    return f"{length} {r:g}°"


def _text(cell: Cell | None) -> str:
    """Ours, and in brackets what was published."""
    parts = []
    if cell is not None and cell.values:
        parts.append(format_value(cell.metric, cell.mean, cell.unit, cell.spread))
        parts += [f"({len(cell.values)})"] if len(cell.values) > 1 else []
    if cell is not None and (p := cell.published):
        other = f" {p.unit}" if p.unit != cell.unit else ""
        parts.append(f"[{p.printed}{_SUFFIX.get(cell.metric, other).format(unit=p.unit)}]")
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


@dataclass(frozen=True)
class Judgement:
    """A claim on one scene. Scores are shares 0..1, medians in the scene's unit, one a seed."""

    claim: Claim
    scene: TableScene
    better: tuple[float, ...]  # score a seed
    worse: tuple[float, ...]
    median_better: tuple[float, ...]
    median_worse: tuple[float, ...]
    queries: int
    interval: tuple[float, float]  # of the difference of the scores

    @property
    def difference(self) -> float:
        return fmean(self.better) - fmean(self.worse)

    @property
    def verdict(self) -> Literal["holds", "does not hold", "cannot tell"]:
        low, high = self.interval
        means = fmean(self.better), fmean(self.worse)
        if max(means) < MEASURABLE[0] or min(means) > MEASURABLE[1]:
            return "cannot tell"
        if low > 0:
            return "holds"
        if high < 0 or (low > -NO_DIFFERENCE and high < NO_DIFFERENCE):
            return "does not hold"
        return "cannot tell"


def judge(config: TableStage, results: Path) -> Iterator[Judgement]:
    """Every claim on every scene. ScrflowError where the table of a run's queries is missing or names others."""
    for claim in config.table.claims:
        for scene in config.scenes:
            better, worse = (_queries(config, results, row, scene) for row in (claim.better, claim.worse))
            if not better or not worse:
                continue
            a, b = (np.stack([_scores(table, scene) for table in found]) for found in (better, worse))
            medians = [tuple(float(table["t_err"].median()) for table in found) for found in (better, worse)]
            interval = bootstrap(a, b, derived_seed(0, "claims", claim.id, scene.name))
            means = tuple(a.mean(1).tolist()), tuple(b.mean(1).tolist())
            yield Judgement(claim, scene, *means, *medians, a.shape[1], interval)


def bootstrap(a: np.ndarray, b: np.ndarray, seed: int) -> tuple[float, float]:
    """Interval of the difference of the mean scores a [seeds, queries] and b [seeds', queries] of the same queries.

    With as many seeds in a as in b they go in pairs: where a row takes the other's heads, both have the same ones.
    """
    rng = np.random.default_rng(seed)
    queries = rng.integers(0, a.shape[1], (DRAWS, a.shape[1]))
    seeds = rng.random((DRAWS, max(len(a), len(b))))

    def means(scores: np.ndarray) -> np.ndarray:
        drawn = (seeds[:, : len(scores)] * len(scores)).astype(int)
        return np.stack([s[queries].mean(1) for s in scores], 1)[np.arange(DRAWS)[:, None], drawn].mean(1)

    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(means(a) - means(b), [tail, 100 - tail])
    return float(low), float(high)


def _queries(config: TableStage, results: Path, row: str, scene: TableScene) -> list[pd.DataFrame]:
    """The per-query tables of a row's seeds, in one order of the queries."""
    found = []
    for run in config.runs:
        if (run.row, run.scene) != (row, scene.name):
            continue
        path = require(Path(results) / run.path / "queries.csv", "table of queries")
        table = pd.read_csv(path, index_col="name")
        table = table[table["t_err"].notna()].sort_index()
        if found and not table.index.equals(found[0].index):
            raise ScrflowError(f"{path}: other queries than in the runs beside it; evaluate again")
        found.append(table)
    return found


def _scores(table: pd.DataFrame, scene: TableScene) -> np.ndarray:
    within = [(table["t_err"] < t) & (table["r_err"] < r) for t, r in scene.thresholds]
    return np.mean([w.to_numpy(float) for w in within], axis=0)


def _claims(table: TableConfig, judgements: list[Judgement], papers: Papers | None) -> str:
    """A section a claim: what the paper says and measured, what we measured, and the verdict."""
    parts = [
        "## The claims",
        "A query's score is the share of the scene's thresholds that its pose is within (0 to 100 %); the difference "
        f"is that of the mean scores, with its {100 * LEVEL:.0f} % interval by bootstrap over queries and seeds. A "
        "claim *holds* where the interval is above zero, *does not hold* where it is below zero or within "
        f"±{100 * NO_DIFFERENCE:.0f} %, and otherwise we *cannot tell*; nor can we where both scores are below "
        f"{100 * MEASURABLE[0]:.0f} % or both above {100 * MEASURABLE[1]:.0f} %.",
    ]
    labels = {row.id: row.label for row in table.rows}
    for claim in table.claims:
        header = ["scene", labels[claim.better], labels[claim.worse], "difference", "median errors", "verdict"]
        lines = [_judged(j) for j in judgements if j.claim.id == claim.id]
        parts += [f"### {claim.claim}", _cited(claim, papers), pipe_table(header, lines), " ".join(claim.why.split())]
    return "\n\n".join(part for part in parts if part) + "\n"


def _judged(j: Judgement) -> list[str]:
    low, high = (100 * value for value in j.interval)
    better, worse = (
        f"{100 * fmean(scores):.1f}{f' ± {100 * stdev(scores):.1f}' if len(scores) > 1 else ''} % ({len(scores)})"
        for scores in (j.better, j.worse)
    )
    medians = [format_value("median_t", fmean(m), j.scene.unit) for m in (j.median_better, j.median_worse)]
    difference = f"{100 * j.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
    scene = f"{j.scene.name}, {j.queries} queries"
    return [scene, better, worse, difference, ", ".join(medians), f"**{j.verdict}**"]


def _cited(claim: Claim, papers: Papers | None) -> str:
    said = []
    for cell in claim.published:
        found = papers.value(cell.paper, cell.table, cell.row, cell.column)
        value = "no number" if found is None else f"{found.value:g} {found.unit}"
        source = " ".join(of.name for of in papers.table(cell.paper, cell.table))
        said.append(f"{cell.row}, {cell.column}: {value} ({source})")
    return f"The paper's numbers: {'; '.join(said)}." if said else ""


def _as_published(paper_name: str, table_name: str, papers: Papers) -> str:
    """The paper's own table, as the registry has it."""
    paper, table = papers.table(paper_name, table_name)
    arxiv = f", arXiv {paper.arxiv}" if paper.arxiv else ""
    header = ["", *(f"{name}, {column.unit}" for name, column in table.columns.items())]
    lines = [[row, *("" if c is None else c.printed for c in cells)] for row, cells in table.rows.items()]
    about = f"{paper.name} {table.name} ({paper.venue}{arxiv}). {table.about}"
    return f"## As published\n\n{about}\n\n{pipe_table(header, lines)}\n"


@dataclass(frozen=True)
class StoredTable:
    """A table's CSV."""

    path: Path
    title: str  # NAME or NAME@SET
    cells: dict[Key, Line]


def read_table(path: Path) -> StoredTable:
    """ScrflowError naming file and line where it is not a table of ``scrflow``."""
    cells: dict[Key, Line] = {}
    try:
        with open(path, encoding="utf-8", newline="") as f:
            reader = csv.DictReader(f, restkey="more values than columns")
            required = [name for name, field in Line.model_fields.items() if field.is_required()]
            missing = [name for name in required if name not in (reader.fieldnames or ())]
            if missing:
                raise ScrflowError(f"{path}: no column {', '.join(missing)}; give a results/tables/NAME.csv")
            for values in reader:
                cell = Line.model_validate(values)
                if cell.key in cells or (cell.mean is not None and cell.n == 0):
                    what = "a second cell" if cell.key in cells else "a mean over no runs in cell"
                    where = f"{path}, line {reader.line_num}"
                    raise ScrflowError(f"{where}: {what} {' / '.join(cell.key)}; write the table anew")
                cells[cell.key] = cell
    except ValidationError as error:
        first = error.errors()[0]
        what = f"column {first['loc'][0]}: {first['msg']}, found {first['input']!r:.40}"
        raise ScrflowError(f"{path}, line {reader.line_num}: {what}; write the table anew") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ScrflowError(f"{path}: cannot be read ({error}); give a results/tables/NAME.csv") from None
    if not cells:
        raise ScrflowError(f"{path}: no cells; write the table anew")
    titles = {f"{cell.table}@{cell.set}" if cell.set else cell.table for cell in cells.values()}
    return StoredTable(Path(path), ", ".join(sorted(titles)), cells)


def print_table(table: StoredTable) -> None:
    """Print a block a scene, a line a row, the published number in brackets."""
    console = terminal()
    for scene in dict.fromkeys(cell.scene for cell in table.cells.values()):
        cells = [cell for cell in table.cells.values() if cell.scene == scene]
        columns = list(dict.fromkeys((cell.condition, cell.metric, cell.unit) for cell in cells))
        title = escape(f"{table.title}: {scene}")
        shown = Table("", title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
        for condition, metric, unit in columns:
            of = "" if condition == "all" else f"{condition} "
            shown.add_column(escape(f"{of}{metric} {unit}".rstrip()), justify="right")
        for row in dict.fromkeys(cell.row for cell in cells):
            by_column = {(cell.condition, cell.metric, cell.unit): cell for cell in cells if cell.row == row}
            label = next(iter(by_column.values())).label
            shown.add_row(escape(label), *(escape(_shown(by_column.get(column))) for column in columns))
        console.print(shown)
    console.print("mean ± standard deviation over n seeds; [published number]", markup=False)


def _shown(cell: Line | None) -> str:
    """``63.3 ± 3.1 (n 3) [65.0 %]``."""
    if cell is None:
        return ""
    mean = "-" if cell.mean is None else f"{cell.mean:.4g}"
    spread = "" if cell.spread is None else f" ± {cell.spread:.2g} (n {cell.n})"
    return f"{mean}{spread}" + (f" [{f'{cell.published} {cell.published_unit}'.strip()}]" if cell.published else "")


def parse_tolerances(given: list[str]) -> dict[str, float]:
    """``METRIC=VALUE`` each, in the metric's unit; METRIC without ``@I`` stands for all of them."""
    found = {}
    for text in given:
        metric, _, value = text.partition("=")
        try:
            found[metric] = float(value)
        except ValueError:
            found[metric] = math.nan
        if not metric or not found[metric] >= 0:
            raise ScrflowError(f"--tolerance {text}: expected METRIC=VALUE, e.g. median_t=0.005")
    return found


def print_check(new: StoredTable, stored: StoredTable, tolerances: Mapping[str, float]) -> bool:
    """Print how ``new`` differs from ``stored``; whether every cell that ``stored`` measured agrees.

    Two means agree when |a - b| <= 2 sqrt(sd_a^2 / n_a + sd_b^2 / n_b), twice the standard error of their difference.
    A side with one seed borrows the other's spread; with one seed on both sides there is none. A recall moves in steps
    of one query, so two that are no more than a step apart agree. Times are compared only where ``tolerances``, the
    least differences that count, name them. ScrflowError where they name a metric that neither table has.
    """
    known = {cell.metric for table in (new, stored) for cell in table.cells.values()}
    for name in tolerances:
        if name not in known | {metric.partition("@")[0] for metric in known}:
            raise ScrflowError(f"--tolerance {name}: no such metric; there are {', '.join(sorted(known))}")
    measured = {key: cell for key, cell in stored.cells.items() if cell.mean is not None}
    left_out = {c.metric for c in measured.values() if c.metric in TIMES and _tolerance(c.metric, tolerances) is None}
    compared = {key: cell for key, cell in measured.items() if cell.metric not in left_out}
    differences = {key: _difference(new, key, cell, stored, tolerances) for key, cell in compared.items()}
    outside = {key: text for key, text in differences.items() if text}
    for key, text in outside.items():
        print(f"{' / '.join(key)}: {text}")
    for key, cell in new.cells.items():
        if cell.mean is not None and key not in measured:
            print(f"{' / '.join(key)}: measured, not in {stored.path}")
    if left_out:
        print(f"not compared: {', '.join(sorted(left_out))} (--tolerance METRIC=VALUE compares them)")
    print(f"{new.path}: {len(compared) - len(outside)} of {len(compared)} cells as in {stored.path}")
    return not outside


def _tolerance(metric: str, tolerances: Mapping[str, float]) -> float | None:
    return tolerances.get(metric, tolerances.get(metric.partition("@")[0]))


def _difference(new: StoredTable, key: Key, old: Line, stored: StoredTable, tolerances: Mapping[str, float]) -> str:
    """What is wrong with the new cell; empty where it agrees with ``old``."""
    cell = new.cells.get(key)
    if cell is None or cell.mean is None:
        return f"missing; stored {old}"
    if cell.unit != old.unit:
        return f"in {cell.unit}; stored in {old.unit}"
    if not (math.isfinite(cell.mean) and math.isfinite(old.mean)):
        return "" if cell.mean == old.mean else f"{cell}; stored {old}"
    floor = _tolerance(cell.metric, tolerances)
    if floor is None:
        floor = max(_one_query(new, cell), _one_query(stored, old))
    spreads = [s for s in (cell.spread, old.spread) if s is not None]
    band = 0.0  # twice the standard error of the difference
    if spreads:
        band = 2 * math.sqrt(spreads[0] ** 2 / cell.n + spreads[-1] ** 2 / old.n)
    allowed, apart = max(band, floor), abs(cell.mean - old.mean)
    if apart <= allowed + _DIGITS * max(abs(cell.mean), abs(old.mean)):
        return ""
    return f"{cell}; stored {old}; apart by {apart:.3g}, allowed {allowed:.3g}"


def _one_query(table: StoredTable, cell: Line) -> float:
    """By how much one query moves a recall; 0 for other metrics, and where the file does not say how many queries there
    are. In a mean over scenes a query of the smallest scene moves most."""
    if not cell.metric.startswith("recall"):
        return 0.0
    whole = 100.0 if cell.unit == "%" else 1.0
    if cell.scene != MEAN:
        return whole / cell.queries if cell.queries else 0.0
    same = (cell.row, cell.condition, cell.metric)
    scenes = [c.queries for c in table.cells.values() if c is not cell and (c.row, c.condition, c.metric) == same]
    return whole / (len(scenes) * min(scenes)) if scenes and all(scenes) else 0.0
