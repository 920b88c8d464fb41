"""What to know first, in words, and how precise the poses are: recall, errors by distance, calibrated confidences."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.stats import binomtest

from scrflow.evaluate.metrics import CONFIDENCE_EDGES, OVERALL, reliability
from scrflow.report.formats import angle, length, limit
from scrflow.report.page.run import Run, text

INK, GREY = "#1f2933", "#6b7680"
COLOURS = ("#1b5e9b", "#d1730f", "#2a8c6e", "#8e5ea2", "#b5485d", "#5c6b73")  # of curves side by side
_TICKS = 12  # of a logarithmic axis, about
_DOTTED = {"color": GREY, "width": 1, "dash": "dot"}
_LABEL = {"showarrow": False, "yanchor": "bottom", "font": {"size": 11}}
_GROUP = 6  # queries that a median is of, at least
_GROUPS = 5
_TURNED = 45.0  # degrees: no imprecision of a pose is that large; the map took another place for this one
_FEW = 12  # queries under which thirds say nothing
_FEW_MISSES = 5  # misses under which they do not either
_NAMED = 3  # queries that are named in the text
_TELLING = 0.2  # difference of two shares that is worth a sentence
_MISSES = 0.05  # share of queries beyond a threshold from which that threshold tells where the map fails


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
    missed_by = [int((known["band"] > i).sum()) for i in range(len(run.thresholds))]
    # the coarsest threshold that a telling share of the queries misses; the finest where there is none
    number = max((i for i, missed in enumerate(missed_by) if missed >= _MISSES * len(known)), default=0)
    missed = missed_by[number]
    within = f"within {limit(run.thresholds[number], run.unit, ' and ')}"
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
    right = 100 * (known["band"] <= number).groupby(known["condition"]).mean()
    if len(right) > 1 and right.min() == right.max():
        said.append(f"All conditions are alike: {right.min():.0f} % {within}.")
    elif len(right) > 1:
        low, high = right.idxmin(), right.idxmax()
        said.append(f"Worst condition: {low}, {right[low]:.0f} % {within}; best: {high}, {right[high]:.0f} %.")
    if len(known) >= _FEW and missed >= _FEW_MISSES:
        said.append(_what_matters(known.assign(missed=known["band"] > number), run.unit, within))
    return said


def _what_matters(known: pd.DataFrame, unit: str, within: str) -> str:
    """The distance to the mapping photos or the rotation against them, whichever tells misses better; or neither."""
    size = len(known) // 3
    orders = {column: known.sort_values(column, kind="stable") for column in ("distance", "angle")}
    thirds = {column: (order[:size], order[len(order) - size :]) for column, order in orders.items()}
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


def recall(run: Run) -> tuple[go.Figure, go.Figure] | None:
    """Curves of the position and of the rotation error: which share of the queries is within any error."""
    if run.known.empty:
        return None
    t, r = (sorted({bound[part] for bound in run.thresholds}) for part in (0, 1))
    return (
        _curves(run, "t_err", f"position error ({text(run.unit)})", {x: length(x, run.unit, 6) for x in t}),
        _curves(run, "r_err", "rotation error (degrees)", {x: f"{x:g}°" for x in r}),
    )


def _curves(run: Run, column: str, title: str, limits: dict[float, str]) -> go.Figure:
    """``limits``: thresholds and their labels, the finest first."""
    errors = run.known[column].to_numpy()
    finite = errors[np.isfinite(errors) & (errors > 0)]
    low, high = min(limits) / 3, 3 * max(limits)
    if len(finite):
        low, high = min(low, np.quantile(finite, 0.02)), max(high, np.quantile(finite, 0.98))
    figure = go.Figure()
    several, colours = len(run.symbols) > 1, iter(COLOURS * len(run.symbols))
    for condition, queries in [*[(OVERALL, run.known)] * several, *run.known.groupby("condition")]:
        values = np.sort(queries[column])
        share = 100 * np.arange(1, len(values) + 1) / len(values)
        shown = np.isfinite(values)
        # from the left edge to the right one, whatever the first and the last error are
        x = np.concatenate([[low], np.maximum(values[shown], low), [high]])
        y = np.concatenate([[0.0], share[shown], share[shown][-1:] if shown.any() else [0.0]])
        order = np.argsort(x, kind="stable")
        total = several and condition == OVERALL
        line = {"shape": "hv", "width": 3.5 if total else 2, "color": INK if total else next(colours)}
        name = f"{'all queries' if condition == OVERALL else text(condition)} ({len(queries)})"
        hover = {"hovertemplate": "%{y:.0f} % within %{x:.3g}<extra>%{fullData.name}</extra>"}
        figure.add_scatter(x=x[order], y=y[order], mode="lines", line=line, name=name, showlegend=several, **hover)
    for bound, label in limits.items():
        figure.add_vline(x=bound, line=_DOTTED)
        figure.add_annotation(x=np.log10(bound), y=1.0, yref="paper", text=label, **_LABEL)
    figure.update_xaxes(**log_axis(title, low, high))
    figure.update_yaxes(range=[0, 101], ticksuffix=" %")
    legend = {"x": 0.98, "y": 0.05, "xanchor": "right", "yanchor": "bottom"}
    return figure.update_layout(legend=legend, margin={"l": 56, "r": 16, "t": 24, "b": 48})


def log_axis(title: str, low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis from ``low`` to ``high`` (positive) with some ticks, as plain numbers."""
    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    steps = next(s for s in ((1, 2, 5), (1, 3), (1,)) if len(s) * len(decades) <= _TICKS or len(s) == 1)
    decades = decades[:: -(-len(decades) // _TICKS)]
    values = np.sort(np.outer(10.0**decades, steps).ravel())
    values = values[(values >= low) & (values <= high)]
    ticks = {"tickmode": "array", "tickvals": values.tolist(), "ticktext": [f"{v:g}" for v in values]}
    return {"type": "log", "title": title, "range": [float(np.log10(low)), float(np.log10(high))], **ticks}


def distance(run: Run) -> dict[str, Any] | None:
    """Error by distance to (and rotation against) the nearest mapping photo: it tells where more photos would help."""
    if run.known.empty:
        return None
    return {
        "by_distance": _scatter(run, "distance", f"distance to the nearest mapping photo ({text(run.unit)})"),
        "by_angle": _scatter(run, "angle", "rotation to that photo (degrees)"),
        "medians": len(run.known) >= 2 * _GROUP,
    }


def _scatter(run: Run, column: str, title: str) -> go.Figure:
    coarsest = run.thresholds[-1][0]
    floor = max(run.thresholds[0][0] / 1000, 1e-9)
    # those that were not localized stand on a line of their own, above all others
    top = 3 * max([coarsest, *run.known["t_err"][run.known["localized"]]])
    known = run.known.assign(shown=run.known["t_err"].replace(np.inf, top).clip(lower=floor))
    figure = go.Figure()
    for number, queries in known.groupby("band"):
        band = run.bands[number]
        near = zip(queries["near"], queries["distance"], queries["angle"], strict=True)
        near = [f"nearest mapping photo: {text(n)}, {length(d, run.unit)}, {a:.0f}° away" for n, d, a in near]
        marker = {"size": 9 if len(known) < 300 else 6, "color": band.colour, "line": {"color": "white", "width": 0.7}}
        marker["symbol"] = queries["condition"].map(run.symbols)
        style = {"mode": "markers", "marker": marker, "name": f"{band.label} ({len(queries)})", "hoverinfo": "text"}
        said = queries["hover"] + "<br>" + near
        figure.add_scatter(x=queries[column], y=queries["shown"], text=said, **style)
    _add_medians(figure, known[column].to_numpy(), known["shown"].to_numpy())
    for bound, _ in run.thresholds:
        figure.add_hline(y=bound, line=_DOTTED)
        label = length(bound, run.unit, 6)
        figure.add_annotation(xref="paper", x=1, xanchor="right", y=np.log10(bound), text=label, **_LABEL)
    if not known["localized"].all():
        figure.add_annotation(xref="paper", x=0, xanchor="left", y=np.log10(top), text="not localized", **_LABEL)
    figure.update_xaxes(title=title, rangemode="tozero")
    low = min(run.thresholds[0][0] / 2, known["shown"].min()) / 1.3
    high = max(2 * coarsest, known["shown"].max()) * 1.3
    figure.update_yaxes(**log_axis(f"position error ({text(run.unit)})", low, high))
    return figure.update_layout(showlegend=False)


def _add_medians(figure: go.Figure, x: np.ndarray, y: np.ndarray) -> None:
    """Medians of groups of equally many queries, along x."""
    count = min(_GROUPS, len(x) // _GROUP)
    if count < 2:
        return
    parts = np.array_split(np.argsort(x, kind="stable"), count)
    medians = {key: [float(np.median(values[part])) for part in parts] for key, values in (("x", x), ("y", y))}
    marker = {"symbol": "line-ew-open", "size": 16, "line": {"width": 3}}
    style = {"mode": "lines+markers", "line": {"color": INK, "width": 2}, "marker": marker}
    figure.add_scatter(**medians, **style, hovertemplate="median error %{y:.3g}<extra></extra>")


def calibration(run: Run) -> dict[str, Any] | None:
    """Confidences against the share of poses that are within the finest threshold; None without any to compare."""
    queries = run.known[run.known["confidence"].notna()]
    if queries.empty:
        return None
    t, r = run.thresholds[0]
    p, right = queries["confidence"].to_numpy(), ((queries["t_err"] < t) & (queries["r_err"] < r)).to_numpy()
    sure, curve, within = p >= 0.5, reliability(p, right), f"within {limit((t, r), run.unit, ' and ')}"
    sums = (
        f"Of the {sure.sum()} poses with a confidence of 0.5 or more, {right[sure].sum()} are {within}; of the "
        f"{(~sure).sum()} others, {right[~sure].sum()}. On average a confidence is off by "
        f"{curve.calibration_error:.2f} (ECE; Brier score {curve.brier:.3f})."
    )
    counts = go.Figure()
    labels = [f"{a:g} to {b:g}" for a, b in pairwise(CONFIDENCE_EDGES)]
    hits = np.nan_to_num(curve.count * curve.right).round()
    for name, y, colour in ((within, hits, COLOURS[0]), ("not", curve.count - hits, "#d9a08c")):
        counts.add_bar(x=labels, y=y, name=name, marker={"color": colour}, hovertemplate="%{y}")
    counts.update_layout(barmode="stack", legend={"orientation": "h", "y": 1.1, "x": 0})
    counts.update_xaxes(title="confidence")
    counts.update_yaxes(title="poses")
    some = curve.count > 0
    return {"sums": sums, "curve": _diagram(curve.said[some], hits[some], curve.count[some]), "counts": counts}


def _diagram(said: np.ndarray, hits: np.ndarray, count: np.ndarray) -> go.Figure:
    """By bin: the mean confidence against the share of ``count`` poses that are right, with its interval."""
    share = hits / count
    intervals = [binomtest(int(k), int(n)).proportion_ci(0.9, "wilson") for k, n in zip(hits, count, strict=True)]
    low, high = np.array(intervals).T
    figure = go.Figure()
    diagonal = {"color": GREY, "width": 1, "dash": "dash"}
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=diagonal, hoverinfo="skip")
    bars = {"type": "data", "symmetric": False, "array": high - share, "arrayminus": share - low}
    bars |= {"color": "#6aaed6", "thickness": 1.2}
    style = {"marker": {"size": 9, "color": COLOURS[0]}, "line": {"color": COLOURS[0], "width": 1.5}}
    shown = [f"{k:.0f} of {n} right" for k, n in zip(hits, count, strict=True)]
    hover = {"text": shown, "hovertemplate": "said %{x:.2f}, %{text}<extra></extra>"}
    figure.add_scatter(x=said, y=share, error_y=bars, mode="lines+markers", **style, **hover)
    figure.update_xaxes(title="confidence", range=[-0.02, 1.02])
    figure.update_yaxes(title="share that is right (90 % interval)", range=[-0.03, 1.03])
    return figure.update_layout(showlegend=False)
