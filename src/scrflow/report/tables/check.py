"""Whether a table says what a stored one says: each mean within the spread of the two.

Two means agree when |a - b| <= 2 sqrt(sd_a^2 / n_a + sd_b^2 / n_b), twice the standard error of their difference. A
side with one seed has no spread of its own and borrows the other's; with one on both sides there is none. A recall
moves in steps of one query, and two that are no more than a step apart cannot be told apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scrflow.core.errors import ScrflowError
from scrflow.report.tables.read import Key, StoredCell, StoredTable

TIMES = ("mapping_min", "training_min", "query_ms")  # of a machine and of what else it did: compared where asked for
_DIGITS = 1e-5  # the CSV has six of each number
_MEAN = "mean"  # in place of a scene: over all of them


@dataclass(frozen=True)
class Outside:
    """A cell that does not agree."""

    key: Key
    text: str


@dataclass(frozen=True)
class Check:
    compared: int
    left_out: tuple[str, ...]  # metrics that were not compared
    outside: tuple[Outside, ...]
    added: tuple[Key, ...]  # measured cells that the stored table does not have


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


def check_table(new: StoredTable, stored: StoredTable, tolerances: Mapping[str, float]) -> Check:
    """Compare every measured cell of ``stored`` with that of ``new``; times only where ``tolerances`` name them.

    A tolerance is the least difference that counts. ScrflowError where it names a metric that neither table has.
    """
    known = {cell.metric for table in (new, stored) for cell in table.cells.values()}
    for name in tolerances:
        if name not in known and name not in {metric.partition("@")[0] for metric in known}:
            raise ScrflowError(f"--tolerance {name}: no such metric; there are {', '.join(sorted(known))}")
    outside, left_out, compared = [], set(), 0
    for key, old in stored.cells.items():
        if old.mean is None:
            continue
        if old.metric in TIMES and _tolerance(old.metric, tolerances) is None:
            left_out.add(old.metric)
            continue
        compared += 1
        text = _compare(new, key, old, stored, tolerances)
        if text is not None:
            outside.append(Outside(key, text))
    added = tuple(
        key
        for key, cell in new.cells.items()
        if cell.mean is not None and (key not in stored.cells or stored.cells[key].mean is None)
    )
    return Check(compared, tuple(sorted(left_out)), tuple(outside), added)


def _tolerance(metric: str, tolerances: Mapping[str, float]) -> float | None:
    return tolerances.get(metric, tolerances.get(metric.partition("@")[0]))


def _compare(
    new: StoredTable, key: Key, old: StoredCell, stored: StoredTable, tolerances: Mapping[str, float]
) -> str | None:
    """What is wrong with the new cell; None where it agrees with ``old``."""
    cell = new.cells.get(key)
    if cell is None or cell.mean is None:
        return f"missing; stored {_told(old)}"
    if cell.unit != old.unit:
        return f"in {cell.unit}; stored in {old.unit}"
    if not (math.isfinite(cell.mean) and math.isfinite(old.mean)):
        return None if cell.mean == old.mean else f"{_told(cell)}; stored {_told(old)}"
    asked = _tolerance(cell.metric, tolerances)
    floor = max(one_query(new, cell), one_query(stored, old)) if asked is None else asked
    rounding = _DIGITS * max(abs(cell.mean), abs(old.mean))
    allowed = max(_band(cell, old), floor)
    difference = abs(cell.mean - old.mean)
    if difference <= allowed + rounding:
        return None
    return f"{_told(cell)}; stored {_told(old)}; apart by {difference:.3g}, allowed {allowed:.3g}"


def _band(a: StoredCell, b: StoredCell) -> float:
    """Twice the standard error of the difference; 0 without any spread."""
    of_a = b.spread if a.spread is None else a.spread
    of_b = a.spread if b.spread is None else b.spread
    if of_a is None or of_b is None:
        return 0.0
    return 2 * math.sqrt(of_a**2 / a.n + of_b**2 / b.n)


def one_query(table: StoredTable, cell: StoredCell) -> float:
    """By how much one query moves a recall; 0 for other metrics, and where the file does not say how many queries there
    are. In a mean over scenes a query of the smallest scene moves most."""
    if not cell.metric.startswith("recall"):
        return 0.0
    whole = 100.0 if cell.unit == "%" else 1.0
    if cell.scene != _MEAN:
        return whole / cell.queries if cell.queries else 0.0
    scenes = [
        other.queries
        for other in table.cells.values()
        if (other.row, other.condition, other.metric) == (cell.row, cell.condition, cell.metric) and other is not cell
    ]
    return whole / (len(scenes) * min(scenes)) if scenes and all(scenes) else 0.0


def _told(cell: StoredCell) -> str:
    spread = "" if cell.spread is None else f" ± {cell.spread:.3g}"
    return f"{cell.mean:.6g}{spread} {cell.unit} (n {cell.n})"


def print_check(check: Check, new: Path, stored: Path) -> bool:
    """Print what was found; whether all cells agree."""
    for item in check.outside:
        print(f"{' / '.join(item.key)}: {item.text}")
    for key in check.added:
        print(f"{' / '.join(key)}: measured, not in {stored}")
    if check.left_out:
        print(f"not compared: {', '.join(check.left_out)} (--tolerance METRIC=VALUE compares them)")
    agree = check.compared - len(check.outside)
    print(f"{new}: {agree} of {check.compared} cells as in {stored}")
    return not check.outside
