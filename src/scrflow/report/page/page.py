"""The page: its sections put together, and the words at its top."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pandas as pd
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from scrflow.core.progress import log
from scrflow.report.page.precision import calibration, distance, recall
from scrflow.report.page.provenance import provenance, timing, training
from scrflow.report.page.relocalize import open_map, queries
from scrflow.report.page.render import angle, length, limit, render
from scrflow.report.page.run import Run, load_run
from scrflow.report.page.scene3d import covisibility, scene3d
from scrflow.storage.artifact import write_text

_HERE = Path(__file__).with_suffix("")
_TURNED = 45.0  # degrees: no imprecision of a pose is that large; the map took another place for this one
_FEW = 12  # queries under which thirds say nothing
_FEW_MISSES = 5  # misses under which they do not either
_NAMED = 3  # queries that are named in the text
_TELLING = 0.2  # difference of two shares that is worth a sentence
_MISSES = 0.05  # share of queries beyond a threshold from which that threshold tells where the map fails


def write_report(folder: Path, out: Path, threads: int = 1) -> None:
    """Write ``out``, the page of results/SCENE/METHOD, from what the workflow left there and in results/SCENE.

    ScrflowError where a file of the run is missing or damaged.
    """
    write_text(out, str(page(load_run(folder), threads)))
    log.info("report: %.1f MB", Path(out).stat().st_size / 1e6)


def page(run: Run, threads: int = 1) -> Markup:
    """The page of a run. The map localizes the queries shown once more, and implies the points, on ``threads``."""
    localizer, points = open_map(run, threads)
    library, script = get_plotlyjs(), _HERE.with_suffix(".js").read_text(encoding="utf-8")
    return render(
        run=run,
        verdict=verdict(run),
        failures=failures(run),
        scene3d=scene3d(run, points),
        queries=queries(run, localizer, points),
        recall=recall(run),
        distance=distance(run),
        calibration=calibration(run),
        training=training(run),
        covisibility=covisibility(run),
        timing=timing(run),
        provenance=provenance(run),
        style=Markup(_HERE.with_suffix(".css").read_text(encoding="utf-8")),
        library=Markup(library),
        script=Markup(script),
        # nothing but these two scripts may run, and nothing may be fetched, whatever the page holds
        scripts=Markup(" ".join(_hash(text) for text in (library, script))),
    )


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def verdict(run: Run) -> str:
    """How good the map is, in a sentence or two."""
    total, localized, known = len(run.queries), int(run.queries["localized"].sum()), len(run.known)
    overall = run.metrics["overall"]
    if localized == 0:
        return f"None of the {total} query photos could be localized: this map does not work."
    if known == 0:
        return (
            f"{localized} of the {total} query photos were localized. There are no reference poses here, so nobody "
            "knows how precise these poses are; the number of keypoints that agree is all there is to see."
        )
    said = f"Fewer than half of the {known} query photos with a known pose were localized."
    if overall["median_t_err"] is not None and overall["median_r_err"] is not None:
        said = (
            f"Half of the {known} query photos are placed within {length(overall['median_t_err'], run.unit)} of where "
            f"they were taken, and turned by less than {angle(overall['median_r_err'])}."
        )
    parts = []
    for bound, right in zip(run.thresholds, overall["recall"], strict=True):
        parts.append(f"within {limit(bound, run.unit, ' and ')}: {'all' if right == 1 else f'{100 * right:.0f} %'}")
        if right == 1:
            break
    return f"{said} {'; '.join(parts).capitalize()}."


def failures(run: Run) -> list[str]:
    """Where it fails, under which condition worst, and what the failures have in common: a sentence each."""
    lost, known = len(run.queries) - int(run.queries["localized"].sum()), run.known
    said = [f"{lost} of {len(run.queries)} queries were not localized at all."] if lost else []
    if known.empty:
        return said
    number = _failing_threshold(run)
    within = f"within {limit(run.thresholds[number], run.unit, ' and ')}"
    missed = int((known["band"] > number).sum())
    if missed == 0:
        return [*said, f"Nowhere here: all queries are {within}, the finest threshold."]
    worst = known.sort_values("badness", ascending=False, kind="stable").index[: min(missed, _NAMED)]
    more = f" and {missed - _NAMED} more" if missed > _NAMED else ""
    share = f"{100 * missed / len(known):.0f} %"
    said.append(f"{missed} of {len(known)} queries ({share}) are not {within}: {', '.join(worst)}{more}.")
    turned = int((known["localized"] & (known["r_err"] > _TURNED)).sum())
    if turned:
        said.append(
            f"{turned} {'is' if turned == 1 else 'are'} turned by more than {_TURNED:.0f}°: the map took another "
            "place, or the same one from another side, for what they show."
        )
    by_condition = {name: float((part["band"] <= number).mean()) for name, part in known.groupby("condition")}
    if len(by_condition) > 1:
        low, high = min(by_condition, key=by_condition.get), max(by_condition, key=by_condition.get)
        worst, best = (f"{100 * by_condition[name]:.0f} %" for name in (low, high))
        if by_condition[low] == by_condition[high]:
            said.append(f"All conditions are alike: {worst} {within}.")
        else:
            said.append(f"Worst condition: {low}, {worst} {within}; best: {high}, {best}.")
    if len(known) >= _FEW and missed >= _FEW_MISSES:
        said.append(_what_matters(known.assign(missed=known["band"] > number), run.unit, within))
    return said


def _failing_threshold(run: Run) -> int:
    """Number of the coarsest threshold that a telling share of queries misses; of the finest where all are within."""
    numbers = range(len(run.thresholds))
    return max((i for i in numbers if (run.known["band"] > i).mean() >= _MISSES), default=0)


def _what_matters(known: pd.DataFrame, unit: str, within: str) -> str:
    """The distance to the mapping photos or the rotation against them, whichever tells misses better; or neither."""
    size = len(known) // 3
    thirds = {}
    for column in ("distance", "angle"):
        order = known.sort_values(column, kind="stable")
        thirds[column] = order[:size], order[len(order) - size :]
    gaps = {column: far["missed"].mean() - near["missed"].mean() for column, (near, far) in thirds.items()}
    column = max(gaps, key=gaps.get)
    if gaps[column] < _TELLING:
        return "Misses are about as frequent near the mapping photos as far from them: more photos alone may not help."
    near, far = thirds[column]
    if column == "distance":
        how = f"farthest from any mapping photo (over {length(far[column].min(), unit)})"
        other = f"nearest to one (under {length(near[column].max(), unit)})"
    else:
        how = f"turned most against the nearest mapping photo (over {far[column].min():.0f}°)"
        other = f"turned least (under {near[column].max():.0f}°)"
    return (
        f"Of the third of the queries {how}, {far['missed'].sum()} of {size} are not {within}; of the third {other}, "
        f"{near['missed'].sum()} of {size}."
    )
