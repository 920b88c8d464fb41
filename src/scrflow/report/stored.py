"""The CSV of a table read again: printed, and compared with a stored one."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from scrflow.core.errors import ScrflowError
from scrflow.report.summary import terminal
from scrflow.report.table import MEAN, Key, Line

TIMES = ("mapping_min", "training_min", "query_ms")  # they depend on the machine's load: compared only on request
_DIGITS = 1e-5  # the CSV has six of each number


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
