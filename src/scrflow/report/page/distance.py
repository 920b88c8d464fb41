"""Error against how far a query was taken from the nearest mapping photo: does the map fail where photos are scarce?"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from scrflow.report.page.quality import band_index, bands, length, symbols
from scrflow.report.page.rendering import GREY, legend, log_axis, note, plot, plots, section, text
from scrflow.report.page.run import Run
from scrflow.report.page.space import hover

_GROUP = 6  # queries that a median is of, at least
_GROUPS = 5


def distance(run: Run) -> Markup:
    """The section."""
    title = "Error against the distance to the mapping photos"
    if run.known.empty:
        how = "There are no reference poses: neither the errors nor the places of the queries are known."
        return section("distance", title, how)
    how = (
        "Each mark is a query: to the right, those taken farther from (or turned more against) the nearest mapping "
        "photo; up, the larger error. Dotted: the scene's thresholds. If marks rise to the right, more mapping photos "
        "there would help."
    )
    unit = text(run.unit)
    drawn = plots(
        plot(_scatter(run, "distance", f"distance to the nearest mapping photo ({unit})"), "By distance"),
        plot(_scatter(run, "angle", "rotation to that photo (degrees)"), "By rotation"),
    )
    entries = [(b.colour, f"{b.label} ({len(b.names)})") for b in bands(run, run.known["name"]) if b.names]
    return section("distance", title, how, legend(entries), drawn, _line_note(run))


def _line_note(run: Run) -> Markup:
    if len(run.known) < 2 * _GROUP:
        return Markup("")
    several = len(run.conditions) > 1
    by = f" Marks by condition: {', '.join(f'{s} {c}' for c, s in symbols(run).items())}." if several else ""
    return note(f"Black: medians of groups of equally many queries.{by}")


def _scatter(run: Run, column: str, title: str) -> go.Figure:
    known = run.known.set_index("name")
    x = run.nearest[column]
    errors = known["t_err"].to_numpy()
    finite = errors[np.isfinite(errors)]
    finest = run.thresholds[0][0]
    floor = max(finest / 1000, 1e-9)
    # those that were not localized stand on a line of their own, above all others
    top = 3 * max([*finite, run.thresholds[-1][0]])
    y = np.clip(np.where(np.isfinite(errors), errors, top), floor, None)
    y = dict(zip(known.index, y, strict=True))
    figure, marks = go.Figure(), symbols(run)
    for band in bands(run, run.known["name"]):
        if not band.names:
            continue
        names = list(band.names)
        figure.add_scatter(
            x=x[names].to_numpy(),
            y=[y[name] for name in names],
            mode="markers",
            name=f"{band.label} ({len(names)})",
            marker={
                "size": 9 if len(known) < 300 else 6,
                "color": band.colour,
                "symbol": [marks[known.loc[name, "condition"]] for name in names],
                "line": {"color": "white", "width": 0.7},
            },
            text=[f"{hover(run, name)}<br>{_near(run, name)}" for name in names],
            hoverinfo="text",
        )
    _add_medians(figure, x.to_numpy(), np.array([y[name] for name in x.index]))
    for bound, _ in run.thresholds:
        figure.add_hline(y=bound, line={"color": GREY, "width": 1, "dash": "dot"})
        label = {"text": length(bound, run.unit, 6), "font": {"size": 11}, "showarrow": False}
        figure.add_annotation(xref="paper", x=1, xanchor="right", y=np.log10(bound), yanchor="bottom", **label)
    if not np.isfinite(errors).all():
        figure.add_annotation(
            xref="paper", x=0, y=np.log10(top), text="not localized", showarrow=False, xanchor="left", yanchor="bottom"
        )
    figure.update_xaxes(title=title, rangemode="tozero")
    low, high = min([finest / 2, *y.values()]) / 1.3, max([2 * run.thresholds[-1][0], *y.values()]) * 1.3
    figure.update_yaxes(**log_axis(f"position error ({text(run.unit)})", low, high))
    figure.update_layout(showlegend=False)
    return figure


def _add_medians(figure: go.Figure, x: np.ndarray, y: np.ndarray) -> None:
    groups = min(_GROUPS, len(x) // _GROUP)
    if groups < 2:
        return
    parts = np.array_split(np.argsort(x, kind="stable"), groups)
    figure.add_scatter(
        x=[float(np.median(x[part])) for part in parts],
        y=[float(np.median(y[part])) for part in parts],
        mode="lines+markers",
        line={"color": "#1f2933", "width": 2},
        marker={"symbol": "line-ew-open", "size": 16, "line": {"width": 3}},
        showlegend=False,
        hovertemplate="median error %{y:.3g}<extra></extra>",
    )


def _near(run: Run, name: str) -> str:
    near = run.nearest.loc[name]
    where = f"{length(near['distance'], run.unit)}, {near['angle']:.0f}°"
    return f"nearest mapping photo: {text(near['image'])}, {where} away"


def thirds(run: Run, column: str, number: int) -> tuple[tuple[int, int, float], tuple[int, int, float]]:
    """(misses, queries, bound) of the third of the queries nearest to a mapping photo and of the farthest third.

    A miss is beyond threshold ``number``; ``bound`` is the largest distance (or angle) of the one and the
    smallest of the other.
    """
    missed = dict(zip(run.known["name"], band_index(run, run.known) > number, strict=True))
    values = run.nearest[column].sort_values(kind="stable")
    size = len(values) // 3
    near, far = values.iloc[:size], values.iloc[len(values) - size :]
    return (
        (sum(missed[name] for name in near.index), size, float(near.iloc[-1])),
        (sum(missed[name] for name in far.index), size, float(far.iloc[0])),
    )
