"""Recall curves: which share of the queries is right within any error, by condition."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from scrflow.evaluate.metrics import OVERALL
from scrflow.report.page.quality import CONDITION_COLOURS, condition_name, length
from scrflow.report.page.rendering import GREY, log_axis, note, plot, plots, section, text
from scrflow.report.page.run import Run


def recall(run: Run) -> Markup:
    """The section."""
    title = "How precise the poses are"
    if run.known.empty:
        return section("recall", title, "There are no reference poses, so there is no recall.")
    how = (
        "Read upwards from an error to the curve: that share of the queries has a smaller one. The further left and "
        "up, the better; a curve that stays below 100 % leaves queries far off or not localized. Dotted: the scene's "
        "thresholds."
    )
    drawn = plots(
        plot(_curves(run, "t_err", f"position error ({text(run.unit)})", 0), "Position error"),
        plot(_curves(run, "r_err", "rotation error (degrees)", 1), "Rotation error"),
    )
    return section("recall", title, how, drawn, _reference(run))


def _reference(run: Run) -> Markup:
    missing = len(run.table) - len(run.known)
    return note(f"{missing} queries without a reference pose are not counted.") if missing else Markup("")


def groups(run: Run) -> list[tuple[str, np.ndarray]]:
    """(condition, rows [N] bool of the run's table with a reference pose): all together first, where there are
    several."""
    rows = [(c, (run.table["condition"] == c).to_numpy()) for c in run.conditions]
    if len(rows) > 1:
        rows.insert(0, (OVERALL, np.ones(len(run.table), bool)))
    known = run.table["reference"].to_numpy()
    return [(c, of & known) for c, of in rows if (of & known).any()]


def _curves(run: Run, column: str, title: str, part: int) -> go.Figure:
    limits = sorted({limit[part] for limit in run.thresholds})
    errors = run.table[column].to_numpy()
    finite = errors[np.isfinite(errors) & (errors > 0)]
    low = min([limits[0] / 3, *np.quantile(finite, [0.02])]) if len(finite) else limits[0] / 3
    high = max([3 * limits[-1], *np.quantile(finite, [0.98])]) if len(finite) else 3 * limits[-1]
    figure = go.Figure()
    several = len(run.conditions) > 1
    for number, (condition, of) in enumerate(groups(run)):
        values = np.sort(errors[of])
        share = 100 * np.arange(1, len(values) + 1) / len(values)
        shown = np.isfinite(values)
        # from the left edge to the right one, whatever the first and the last error are
        x = np.concatenate([[low], np.maximum(values[shown], low), [high]])
        reached = share[shown][-1] if shown.any() else 0.0
        y = np.concatenate([[0.0], share[shown], [reached]])
        order = np.argsort(x, kind="stable")
        bold = several and condition == OVERALL
        figure.add_scatter(
            x=x[order],
            y=y[order],
            mode="lines",
            line={
                "shape": "hv",
                "width": 3.5 if bold or not several else 2,
                "color": "#1f2933" if bold else CONDITION_COLOURS[max(number - several, 0) % len(CONDITION_COLOURS)],
            },
            name=f"{text(condition_name(condition))} ({of.sum()})",
            showlegend=several,
            hovertemplate="%{y:.0f} % within %{x:.3g}<extra>%{fullData.name}</extra>",
        )
    for limit in limits:
        label = length(limit, run.unit, 6) if part == 0 else f"{limit:g}°"
        figure.add_vline(x=limit, line={"color": GREY, "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=np.log10(limit), y=1.0, yref="paper", text=label, showarrow=False, yanchor="bottom", font={"size": 11}
        )
    figure.update_xaxes(**log_axis(title, low, high))
    figure.update_yaxes(range=[0, 101], ticksuffix=" %")
    figure.update_layout(
        legend={"x": 0.98, "y": 0.05, "xanchor": "right", "yanchor": "bottom", "bgcolor": "rgba(255,255,255,0.8)"},
        margin={"l": 56, "r": 16, "t": 24, "b": 48},
    )
    return figure
