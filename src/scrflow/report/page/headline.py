"""The top of the page: how good the map is, where it fails and under which condition worst, in words and one bar."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from scrflow.evaluate.metrics import OVERALL
from scrflow.report.page.distance import thirds
from scrflow.report.page.quality import Band, angle, badness, band_index, bands, condition_name, length, limit, share
from scrflow.report.page.recall import groups
from scrflow.report.page.rendering import legend, render
from scrflow.report.page.run import Run

_TURNED = 45.0  # degrees: no imprecision of a pose is that large; the map took another place for this one
_FEW = 12  # queries under which thirds say nothing
_FEW_MISSES = 5  # misses under which they do not either
_NAMED = 3  # queries that are named in the text
_TELLING = 0.2  # difference of two shares that is worth a sentence
_MISSES = 0.05  # share of queries beyond a threshold from which that threshold tells where the map fails


@dataclass(frozen=True)
class Bar:
    """One condition's queries by quality."""

    title: str
    total: int
    parts: tuple[Band, ...]


def headline(run: Run) -> Markup:
    """The fragment."""
    summary = run.metrics["overall"]
    facts = [("size of the map", f"{run.metrics['map_mb']:.2f} MB"), ("a query", f"{summary['ms']['total']:.0f} ms")]
    seconds = run.costs.seconds("scene", "mapping")
    if seconds is not None:
        facts.append(("from photos to the map", f"{seconds / 60:.1f} min"))
    if run.metrics["training"] is not None:
        facts.append(("of that, training", f"{run.metrics['training']['seconds'] / 60:.1f} min"))
    facts.append(("mapping photos", str(len(run.scene.mapping))))
    return render(
        "headline.html",
        verdict=verdict(run),
        fails=failures(run),
        bars=_bars(run),
        facts=facts,
        numbers=_numbers(run),
        legend=legend([(band.colour, band.label) for band in bands(run) if band.names]),
        limits=[limit(bound, run.unit) for bound in run.thresholds],
        reference=run.metrics["reference"] if run.known.empty or len(run.known) < len(run.table) else "",
    )


def verdict(run: Run) -> str:
    """How good the map is, in a sentence or two."""
    total, localized = len(run.table), int(run.table["localized"].sum())
    summary = run.metrics["overall"]
    if localized == 0:
        return f"None of the {total} query photos could be localized: this map does not work."
    if run.known.empty:
        said = f"{localized} of the {total} query photos were localized. There are no reference poses here, so nobody "
        return said + "knows how precise these poses are; the number of keypoints that agree is all there is to see."
    known = len(run.known)
    if summary["median_t_err"] is None or summary["median_r_err"] is None:
        said = f"Fewer than half of the {known} query photos with a known pose were localized."
    else:
        said = (
            f"Half of the {known} query photos are placed within {length(summary['median_t_err'], run.unit)} of where "
        )
        said += f"they were taken, and turned by less than {angle(summary['median_r_err'])}."
    parts = []
    for bound, right in zip(run.thresholds, summary["recall"], strict=True):
        parts.append(f"{'all' if right == 1 else f'{100 * right:.0f} %'} within {limit(bound, run.unit, ' and ')}")
        if right == 1:
            break
    return f"{said} Right are {', '.join(parts)}."


def failures(run: Run) -> list[str]:
    """Where it fails, under which condition worst, and what the failures have in common: a sentence each."""
    lost = len(run.table) - int(run.table["localized"].sum())
    said = []
    if lost:
        said.append(f"{lost} of {len(run.table)} queries were not localized at all.")
    if run.known.empty:
        return said
    number = failing_threshold(run)
    index = band_index(run, run.known)
    missed, known = int((index > number).sum()), len(run.known)
    within = f"within {limit(run.thresholds[number], run.unit, ' and ')}"
    if missed == 0:
        return [*said, f"Nowhere here: all queries are {within}, the finest threshold."]
    order = badness(run)[list(run.known["name"])].sort_values(ascending=False, kind="stable").index
    named = ", ".join(order[: min(missed, _NAMED)]) + (f" and {missed - _NAMED} more" if missed > _NAMED else "")
    said.append(f"{missed} of {known} queries ({share(missed, known)}) are not {within}: {named}.")
    turned = int((run.known["localized"] & (run.known["r_err"] > _TURNED)).sum())
    if turned:
        looks = "is" if turned == 1 else "are"
        said.append(
            f"{turned} {looks} turned by more than {_TURNED:.0f}°: the map took another place, or the same one from "
            "another side, for what they show."
        )
    said += _worst_condition(run, number, within)
    if known >= _FEW and missed >= _FEW_MISSES:
        said.append(_what_matters(run, number, within))
    return said


def failing_threshold(run: Run) -> int:
    """Number of the coarsest threshold that a telling share of queries misses; of the finest where all are within."""
    index = band_index(run, run.known)
    for number in reversed(range(len(run.thresholds))):
        if (index > number).mean() >= _MISSES:
            return number
    return 0


def _worst_condition(run: Run, number: int, within: str) -> list[str]:
    by = {
        condition: float((band_index(run, run.table[of]) <= number).mean())
        for condition, of in groups(run)
        if condition != OVERALL
    }
    if len(by) < 2:
        return []
    worst, best = min(by, key=by.get), max(by, key=by.get)
    if by[worst] == by[best]:
        return [f"All conditions are alike: {100 * by[worst]:.0f} % {within}."]
    return [f"Worst condition: {worst}, {100 * by[worst]:.0f} % {within}; best: {best}, {100 * by[best]:.0f} %."]


def _what_matters(run: Run, number: int, within: str) -> str:
    """The distance to the mapping photos or the rotation against them, whichever tells misses better; or neither."""
    found = {}
    for column in ("distance", "angle"):
        (near, size, near_bound), (far, _, far_bound) = thirds(run, column, number)
        found[column] = ((far - near) / size, near, far, size, near_bound, far_bound)
    column = max(found, key=lambda c: found[c][0])
    gap, near, far, size, near_bound, far_bound = found[column]
    if gap < _TELLING:
        return "Misses are about as frequent near the mapping photos as far from them: more photos alone may not help."
    if column == "distance":
        how = f"farthest from any mapping photo (over {length(far_bound, run.unit)})"
        other = f"nearest to one (under {length(near_bound, run.unit)})"
    else:
        how = f"turned most against the nearest mapping photo (over {far_bound:.0f}°)"
        other = f"turned least (under {near_bound:.0f}°)"
    return (
        f"Of the third of the queries {how}, {far} of {size} are not {within}; of the third {other}, {near} of {size}."
    )


def _bars(run: Run) -> list[Bar]:
    several = len(run.conditions) > 1
    bars = [Bar("all queries", len(run.table), bands(run))] if several else []
    for condition in run.conditions:
        of = run.table["name"][run.table["condition"] == condition]
        bars.append(Bar(condition_name(condition), len(of), bands(run, of)))
    return bars


def _numbers(run: Run) -> list[dict[str, object]]:
    """The table of recall and medians by condition."""
    metrics = run.metrics
    by = {OVERALL: metrics["overall"], **metrics["conditions"]}
    if len(by) == 2:  # one condition is all there is
        del by[OVERALL]
    rows = []
    for condition, summary in by.items():
        t, r = summary["median_t_err"], summary["median_r_err"]
        median = "infinite" if summary["with_reference"] else "unknown"
        rows.append(
            {
                "condition": condition_name(condition),
                "queries": summary["queries"],
                "localized": summary["localized"],
                "recall": ["" if summary["recall"] is None else f"{100 * x:.1f} %" for x in summary["recall"] or ()],
                "median": median if t is None or r is None else f"{length(t, run.unit)}, {angle(r)}",
                "inliers": "" if summary["median_inliers"] is None else f"{summary['median_inliers']:.0f}",
            }
        )
    return rows
