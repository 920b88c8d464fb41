"""Whether the map knows when it is wrong: confidences said against the share of poses that are right."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from scipy.stats import binomtest

from scrflow.evaluate.calibration import EDGES, reliability
from scrflow.report.page.quality import limit
from scrflow.report.page.rendering import GREY, note, plot, plots, section
from scrflow.report.page.run import Run

_INTERVAL = 0.9


def belief(run: Run) -> Markup:
    """The section."""
    title = "Does it know when it is wrong?"
    of = run.known[run.known["confidence"].notna()]
    t, r = run.thresholds[0]
    within = limit((t, r), run.unit, " and ")
    if run.table["confidence"].isna().all():
        return section("confidence", title, "This method gives no confidences.")
    if of.empty:
        how = f"Every pose comes with a confidence, the probability that it is within {within}; without reference poses"
        return section("confidence", title, f"{how} it cannot be checked here.")
    how = (
        f"Every pose comes with a confidence: the probability that it is within {within}. Left: marks on the diagonal "
        "are confidences that can be believed, below it the map is too sure, above it too careful. Right: how often "
        "each confidence was given."
    )
    p = of["confidence"].to_numpy()
    right = ((of["t_err"] < t) & (of["r_err"] < r)).to_numpy()
    sure = p >= 0.5
    said = f"Of the {sure.sum()} poses with a confidence of 0.5 or more, {right[sure].sum()} are within {within}; "
    said += f"of the {(~sure).sum()} others, {right[~sure].sum()}."
    curve = reliability(p, right)
    said += f" On average a confidence is off by {curve.calibration_error:.2f} (ECE; Brier score {curve.brier:.3f})."
    labels = (f"within {within}", "not")
    drawn = plots(plot(_diagram(p, right), "Said and observed", 320), plot(_counts(p, right, labels), "How often", 320))
    return section("confidence", title, how, drawn, note(said))


def _diagram(p: np.ndarray, right: np.ndarray) -> go.Figure:
    curve = reliability(p, right)
    some = np.flatnonzero(curve.count > 0)
    hits = np.round(curve.right[some] * curve.count[some]).astype(int)
    bounds = [
        binomtest(int(k), int(n)).proportion_ci(_INTERVAL, "wilson")
        for k, n in zip(hits, curve.count[some], strict=True)
    ]
    figure = go.Figure()
    diagonal = {"color": GREY, "width": 1, "dash": "dash"}
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=diagonal, hoverinfo="skip")
    figure.add_scatter(
        x=curve.said[some],
        y=curve.right[some],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [b.high - y for b, y in zip(bounds, curve.right[some], strict=True)],
            "arrayminus": [y - b.low for b, y in zip(bounds, curve.right[some], strict=True)],
            "color": "#6aaed6",
            "thickness": 1.2,
        },
        mode="lines+markers",
        marker={"size": 9, "color": "#1b5e9b"},
        line={"color": "#1b5e9b", "width": 1.5},
        text=[f"{k} of {n} right" for k, n in zip(hits, curve.count[some], strict=True)],
        hovertemplate="said %{x:.2f}, %{text}<extra></extra>",
    )
    figure.update_xaxes(title="confidence", range=[-0.02, 1.02])
    figure.update_yaxes(title="share that is right (90 % interval)", range=[-0.03, 1.03])
    figure.update_layout(showlegend=False)
    return figure


def _counts(p: np.ndarray, right: np.ndarray, names: tuple[str, str]) -> go.Figure:
    figure = go.Figure()
    labels = [f"{a:g} to {b:g}" for a, b in pairwise(EDGES)]
    for name, of, colour in zip(names, (right, ~right), ("#1b5e9b", "#d9a08c"), strict=True):
        index = np.clip(np.digitize(p[of], EDGES) - 1, 0, len(EDGES) - 2)
        counts = np.bincount(index, minlength=len(labels))
        figure.add_bar(x=labels, y=counts, name=name, marker={"color": colour}, hovertemplate="%{y}")
    figure.update_layout(barmode="stack", legend={"orientation": "h", "y": 1.1, "x": 0})
    figure.update_xaxes(title="confidence")
    figure.update_yaxes(title="poses")
    return figure
