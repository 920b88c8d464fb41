"""Training curves: did the map learn its photos, and would more steps help?"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from scrflow.report.page.rendering import log_axis, note, plot, plots, section
from scrflow.report.page.run import Run

# column, heading, logarithmic, factor, suffix of the ticks
_CURVES = (
    ("median_error_px", "Median reprojection error, px", True, 1.0, ""),
    ("inlier_share", "Training samples within 10 px", False, 100.0, " %"),
    ("loss", "Loss", True, 1.0, ""),
    ("lr", "Learning rate", False, 1.0, ""),
)
_HELD_OUT = "holdout_"  # beginning of the columns on mapping images that are not trained on


def training(run: Run) -> Markup:
    """The section."""
    title = "Training"
    if run.history is None:
        return section("training", title, "This method is not trained.")
    how = (
        "How well the map knows the keypoints of its own mapping photos while it learns. Curves that are still falling "
        "(or rising, of the share within 10 px) at the right edge say that more steps would help; a map that knows its "
        "photos well and yet fails on queries needs other photos, not more steps."
    )
    drawn = [
        plot(_curve(run, column, logarithmic, factor, suffix), heading, 240)
        for column, heading, logarithmic, factor, suffix in _CURVES
        if column in run.history and run.history[column].notna().any()
    ]
    return section("training", title, how, plots(*drawn), _end(run))


def _curve(run: Run, column: str, logarithmic: bool, factor: float, suffix: str) -> go.Figure:
    history = run.history
    figure = go.Figure()
    columns = {"training photos": column, "held-out photos": _HELD_OUT + column}
    several = columns["held-out photos"] in history
    for colour, (name, key) in zip(("#1b5e9b", "#d1730f"), columns.items(), strict=True):
        if key not in history:
            continue
        line = history[history[key].notna()]
        figure.add_scatter(
            x=line["step"].to_numpy(),
            y=factor * line[key].to_numpy(float),
            mode="lines",
            name=name,
            line={"color": colour, "width": 2},
            showlegend=several,
            hovertemplate="step %{x}: %{y:.4g}<extra></extra>",
        )
    drawn = np.concatenate([np.asarray(trace.y, float) for trace in figure.data])
    drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
    if logarithmic and len(drawn):
        figure.update_yaxes(**log_axis("", drawn.min() / 1.2, drawn.max() * 1.2))
    else:
        figure.update_yaxes(ticksuffix=suffix, rangemode="tozero")
    figure.update_xaxes(title="step", rangemode="tozero")
    figure.update_layout(margin={"l": 56, "r": 12, "t": 8, "b": 44})
    return figure


def _end(run: Run) -> Markup:
    last = run.metrics["training"]
    said = f"{last['step']:.0f} steps in {last['seconds'] / 60:.1f} minutes"
    if last["median_error_px"] is not None and last["inlier_share"] is not None:
        said += f"; at the end the median error was {last['median_error_px']:.2g} px, with "
        said += f"{100 * last['inlier_share']:.0f} % of the samples within 10 px"
    owner = run.metrics.get("trained_as")
    shared = f" The head is that of {owner}." if owner and owner != run.metrics["method"] else ""
    return note(f"{said}.{shared}")
