"""A table as Markdown and as LaTeX: a line a row, a column a scene, condition and metric."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scrflow.config.table import TableStage
from scrflow.report.published import PaperTableConfig
from scrflow.report.tables.cells import MEAN, OVERALL, Cell

HEADERS = {
    "median_t": "median position",
    "median_r": "median rotation",
    "map_mb": "map, MB",
    "mapping_min": "mapping, min",
    "training_min": "training, min",
    "query_ms": "ms a query",
}
_UNITS = {"median_t": " {unit}", "median_r": "°"}  # of the others the header tells
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {c: "\\" + c for c in "&%$#_{}"}
_LATEX |= {"±": r"$\pm$", "×": r"$\times$", "°": r"$^\circ$", "∞": r"$\infty$", "–": "--"}


@dataclass(frozen=True)
class Column:
    """Which cells are under one another."""

    scene: str
    condition: str
    metric: str


def markdown(config: TableStage, cells: list[Cell]) -> str:
    """The table with its title and what is to be known of it."""
    header, lines = _grid(config, cells)
    parts = [f"# {config.table.title}" + (f", on {config.set}" if config.set else ""), _about(config)]
    parts.append(pipe_table(header, lines))
    parts.append(_legend(config, cells))
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(config: TableStage, cells: list[Cell]) -> str:
    """The table as a tabular with the lines of package booktabs."""
    return tabular(*_grid(config, cells), [config.table.title, *_legend(config, cells).splitlines()])


def tabular(header: list[str], lines: list[list[str]], told: list[str]) -> str:
    """A LaTeX tabular (package booktabs) of plain text, after comments that tell of it."""
    rows = [" & ".join(map(escape_latex, line)) + r" \\" for line in [header, *lines]]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}"
    body = [begin, r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*(f"% {line}" for line in told if line), *body]) + "\n"


def published_markdown(table: PaperTableConfig) -> str:
    """The paper's own table, as the registry has it."""
    header = ["", *(f"{name}, {column.unit}" for name, column in table.columns.items())]
    lines = [[row, *("" if c is None else c.printed for c in cells)]
             for row, cells in table.rows.items()]  # fmt: skip
    return pipe_table(header, lines)


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_LATEX.get(c, c) for c in text)


def format_value(metric: str, value: float, unit: str, spread: float | None = None) -> str:
    """A number with as many digits as it deserves, lengths under a metre in centimetres."""
    if math.isinf(value):
        return "∞"
    if metric == "median_t" and unit == "m" and value < 1:
        value, unit, spread = 100 * value, "cm", None if spread is None else 100 * spread
    digits = _digits(metric, value)
    shown = f"{value:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")
    return shown + _UNITS.get(metric, "").format(unit=unit)


# --------------------------------------------------------------------------------------------------------------- parts


def _grid(config: TableStage, cells: list[Cell]) -> tuple[list[str], list[list[str]]]:
    columns = list(dict.fromkeys(Column(c.scene, c.condition, c.metric) for c in cells))
    at = {(c.row, Column(c.scene, c.condition, c.metric)): c for c in cells}
    columns = [column for column in columns if any(_told(at.get((row.id, column))) for row in config.table.rows)]
    header = ["", *(_header(config, column) for column in columns)]
    shown = [row for row in config.table.rows if any(_told(at.get((row.id, c))) for c in columns)]
    lines = [[row.label, *(_cell(at.get((row.id, c))) for c in columns)] for row in shown]
    return header, lines


def _told(cell: Cell | None) -> bool:
    return cell is not None and (bool(cell.values) or cell.published is not None)


def _header(config: TableStage, column: Column) -> str:
    parts = []
    if len(config.scenes) > 1:
        parts.append(column.scene)
    if column.condition != OVERALL:
        parts.append(column.condition)
    if column.metric.startswith("recall@"):
        index = int(column.metric.removeprefix("recall@"))
        parts.append(_threshold(config, column.scene, index))
    else:
        parts.append(HEADERS[column.metric])
    return " ".join(parts)


def _threshold(config: TableStage, scene: str, index: int) -> str:
    """``25 cm 2°``; of the mean over scenes with different thresholds the place alone."""
    of = {s.name: (s.thresholds[index], s.unit) for s in config.scenes if index < len(s.thresholds)}
    chosen = set(of.values()) if scene == MEAN else {of[scene]}
    if len(chosen) > 1:
        return f"threshold {index + 1}"
    (t, r), unit = chosen.pop()
    length = f"{100 * t:g} cm" if unit == "m" and t < 1 else f"{t:g} {unit}"
    return f"{length} {r:g}°"


def _cell(cell: Cell | None) -> str:
    if not _told(cell):
        return ""
    ours = ""
    if cell.values:
        ours = format_value(cell.metric, cell.mean, cell.unit, cell.spread)
        ours += f" ({len(cell.values)})" if len(cell.values) > 1 else ""
    if cell.published is None:
        return ours
    p = cell.published
    other = f" {p.unit}" if p.unit != cell.unit else ""
    theirs = f"[{p.printed}{_UNITS.get(cell.metric, other).format(unit=p.unit)}]"
    return f"{ours} {theirs}".strip()


def _digits(metric: str, value: float) -> int:
    if metric.startswith("recall@"):
        return 1
    if metric == "query_ms":
        return 0
    return 2 if abs(value) < 10 else 1


def _about(config: TableStage) -> str:
    about = " ".join(config.table.about.split())
    synthetic = [scene.name for scene in config.scenes if scene.synthetic]
    return " ".join(filter(None, [about, f"**{', '.join(synthetic)}: a synthetic scene.**" if synthetic else ""]))


def _legend(config: TableStage, cells: list[Cell]) -> str:
    said = []
    scenes = {c.scene for c in cells if c.values} - {MEAN}
    if len(config.scenes) == 1 and scenes:
        said.append(f"Scene: {config.scenes[0].name}.")
    if any(len(c.values) > 1 for c in cells):
        seeds = ", ".join(map(str, config.table.seeds))
        said.append(f"Mean ± standard deviation over (n) seeds of training and localization: {seeds}.")
    elif any(c.values for c in cells):
        said.append(f"One seed: {config.table.seeds[0]}.")
    sources = sorted({c.published.source for c in cells if c.published})
    if sources:
        said.append(f"In brackets the published number ({', '.join(sources)}).")
    if any(math.isinf(v) for c in cells for v in c.values):
        said.append("∞: half of the queries or more were not localized.")
    return " ".join(said)


def pipe_table(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""

    def line(values: list[str]) -> str:
        return "| " + " | ".join(value.replace("|", r"\|") for value in values) + " |"

    return "\n".join([line(header), "|" + "---|" * len(header), *map(line, lines)])
