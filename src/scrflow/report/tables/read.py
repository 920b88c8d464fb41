"""A table's CSV read again, and shown on a terminal."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scrflow.core.errors import ScrflowError

_NEEDED = ("table", "set", "row", "label", "scene", "condition", "metric", "unit", "mean", "spread", "n")
_WIDTH = 200  # where the output is no terminal

Key = tuple[str, str, str, str]  # row, scene, condition, metric


@dataclass(frozen=True)
class StoredCell:
    """A line of the CSV."""

    row: str
    label: str
    scene: str
    condition: str
    metric: str
    unit: str
    mean: float | None  # None: not measured; infinite: no pose for half of the queries
    spread: float | None  # standard deviation over the seeds; None for one
    n: int
    queries: int | None  # of one seed; None where the file does not say
    published: str

    @property
    def key(self) -> Key:
        return self.row, self.scene, self.condition, self.metric


@dataclass(frozen=True)
class StoredTable:
    """All lines, in their order."""

    path: Path
    title: str  # NAME or NAME@SET
    cells: dict[Key, StoredCell]


def read_table(path: Path) -> StoredTable:
    """ScrflowError naming file and line for what is no table of ``scrflow``."""
    cells: dict[Key, StoredCell] = {}
    titles = set()
    try:
        with open(path, encoding="utf-8", newline="") as f:
            reader = csv.DictReader(f)
            missing = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
            if missing:
                raise ScrflowError(f"{path}: no column {', '.join(missing)}; give a results/tables/NAME.csv")
            for line in reader:
                where = f"{path}, line {reader.line_num}"
                if None in line.values() or None in line:
                    raise ScrflowError(f"{where}: {len(reader.fieldnames)} values expected; write the table anew")
                cell = _cell(line, where)
                if cell.key in cells:
                    raise ScrflowError(f"{where}: a second cell {' / '.join(cell.key)}; write the table anew")
                cells[cell.key] = cell
                titles.add(f"{line['table']}@{line['set']}" if line["set"] else line["table"])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ScrflowError(f"{path}: cannot be read ({error}); give a results/tables/NAME.csv") from None
    if not cells:
        raise ScrflowError(f"{path}: no cells; write the table anew")
    return StoredTable(Path(path), ", ".join(sorted(titles)), cells)


def _cell(line: dict[str, str], where: str) -> StoredCell:
    def number(name: str, kind: type = float) -> float | int | None:
        text = line.get(name) or ""
        try:
            value = kind(text) if text else None
        except ValueError:
            value = math.nan
        if value is not None and math.isnan(value):
            raise ScrflowError(f"{where}: {name} is {text!r}, expected a number; write the table anew")
        return value

    names = {name: line[name] for name in ("row", "label", "scene", "condition", "metric", "unit")}
    n = number("n", int) or 0
    if line["mean"] and n < 1:
        raise ScrflowError(f"{where}: a mean over n = {n} runs; write the table anew")
    published = " ".join(part for part in (line.get("published"), line.get("published_unit")) if part)
    return StoredCell(
        **names,
        mean=number("mean"),
        spread=number("spread"),
        n=n,
        queries=number("queries", int),
        published=published,
    )


def print_table(table: StoredTable) -> None:
    """Print it to standard output: a block a scene, a line a row, the published number in brackets."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH, color_system=None, emoji=False)
    for scene in dict.fromkeys(cell.scene for cell in table.cells.values()):
        console.print(_block(scene, table))
    console.print("mean ± standard deviation over n seeds; [published number]", markup=False)


def _block(scene: str, table: StoredTable) -> Table:
    cells = [cell for cell in table.cells.values() if cell.scene == scene]
    columns = list(dict.fromkeys((cell.condition, cell.metric, cell.unit) for cell in cells))
    title = escape(f"{table.title}: {scene}")
    shown = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("")
    for condition, metric, unit in columns:
        of = "" if condition == "all" else f"{condition} "
        shown.add_column(escape(f"{of}{metric}" + (f" {unit}" if unit else "")), justify="right")
    by_row: dict[str, dict[tuple[str, str, str], StoredCell]] = {}
    for cell in cells:
        by_row.setdefault(cell.row, {})[cell.condition, cell.metric, cell.unit] = cell
    for of_row in by_row.values():
        label = next(iter(of_row.values())).label
        shown.add_row(escape(label), *(escape(told(of_row.get(column))) for column in columns))
    return shown


def told(cell: StoredCell | None) -> str:
    """``63.3 ± 3.1 (n 3) [65.0 %]``."""
    if cell is None:
        return ""
    parts = ["-" if cell.mean is None else f"{cell.mean:.4g}"]
    if cell.spread is not None:
        parts.append(f"± {cell.spread:.2g} (n {cell.n})")
    if cell.published:
        parts.append(f"[{cell.published}]")
    return " ".join(parts)
