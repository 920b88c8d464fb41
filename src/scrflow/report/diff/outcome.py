"""What came out of two results: figures, and the queries that changed sides of a threshold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scrflow.report.diff.result import Result


@dataclass(frozen=True)
class Crossing:
    """Queries within a threshold on one side alone."""

    threshold: str
    gained: tuple[str, ...]  # within it in the second result only
    lost: tuple[str, ...]


def same_outcome(a: Result, b: Result) -> bool:
    """The same poses, to the last digit that is written, judged alike, and a map of the same size."""
    keys = ("thresholds", "unit", "map_mb", "overall", "conditions")
    return a.poses == b.poses and all(_timeless(a.metrics[key]) == _timeless(b.metrics[key]) for key in keys)


def _timeless(value: Any) -> Any:
    """Without milliseconds, in which no two runs agree."""
    return {k: _timeless(v) for k, v in value.items() if k != "ms"} if isinstance(value, dict) else value


def figures(a: Result, b: Result) -> Iterator[tuple[str, str, str]]:
    """Name and value on either side, of every figure that differs; times last."""
    for name, before, after in (*_accuracy(a, b), ("map", *(f"{r.metrics['map_mb']:.3f} MB" for r in (a, b)))):
        if before != after:
            yield name, before, after
    seconds = (_seconds(r.mapping_s) for r in (a, b))
    training = (_seconds((r.metrics["training"] or {}).get("seconds")) for r in (a, b))
    query = (f"{r.metrics['overall']['ms']['total']:.0f} ms" for r in (a, b))
    for name, sides in (("mapping time", seconds), ("training time", training), ("a query", query)):
        before, after = sides
        if before != after:
            yield name, before, after


def _accuracy(a: Result, b: Result) -> Iterator[tuple[str, str, str]]:
    groups = [{"all": r.metrics["overall"], **r.metrics["conditions"]} for r in (a, b)]
    units = [r.metrics["unit"] for r in (a, b)]
    for condition in dict.fromkeys((*groups[0], *groups[1])):
        told = "" if condition == "all" else f" ({condition})"
        one, other = (g.get(condition) for g in groups)
        if one is None or other is None:
            yield (
                f"condition {condition}",
                *("absent" if g is None else f"{g['queries']} queries" for g in (one, other)),
            )
            continue
        for name in ("queries", "localized"):
            yield f"{name}{told}", f"{one[name]}", f"{other[name]}"
        if thresholds(a) == thresholds(b):
            for i, threshold in enumerate(thresholds(a)):
                yield f"recall {threshold}{told}", *(_recall(g, i) for g in (one, other))
        for name, key, digits, sides in (
            ("median error", "median_t_err", 4, units),
            ("median rotation error", "median_r_err", 3, ["degrees"] * 2),
        ):
            yield f"{name}{told}", *(_median(g[key], digits, u) for g, u in zip((one, other), sides, strict=True))


def thresholds(result: Result) -> list[str]:
    """Of the scene, as they are shown."""
    return [f"{t:g} {result.metrics['unit']} {r:g}°" for t, r in result.metrics["thresholds"]]


def crossings(a: Result, b: Result) -> Iterator[Crossing]:
    """By threshold, finest first; nothing where the two have other thresholds."""
    if a.metrics["thresholds"] != b.metrics["thresholds"]:
        return
    both = [name for name in a.errors if name in b.errors]
    for (t, r), title in zip(a.metrics["thresholds"], thresholds(a), strict=True):
        within = [{n for n in both if _within(side.errors[n], t, r)} for side in (a, b)]
        gained = tuple(n for n in both if n in within[1] - within[0])
        lost = tuple(n for n in both if n in within[0] - within[1])
        if gained or lost:
            yield Crossing(title, gained, lost)


def _within(error: tuple[float, float], t: float, r: float) -> bool:
    return error[0] < t and error[1] < r  # NaN (no reference) is in nobody's favour


def told_error(result: Result, query: str) -> str:
    """``0.012 m 0.30°``, or why there is none."""
    t, r = result.errors[query]
    return "no pose" if math.isinf(t) else f"{t:.3g} {result.metrics['unit']} {r:.3g}°"


def _recall(group: dict[str, Any], i: int) -> str:
    return "-" if group["recall"] is None else f"{100 * group['recall'][i]:.1f} %"


def _median(value: float | None, digits: int, unit: str) -> str:
    return "-" if value is None else f"{value:.{digits}g} {unit}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"
