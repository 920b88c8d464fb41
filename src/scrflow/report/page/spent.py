"""Time and memory of every stage that the map needed, and of localization."""

from __future__ import annotations

import plotly.graph_objects as go
from markupsafe import Markup

from scrflow.report.costs import PHASES, StageCost
from scrflow.report.page.rendering import plot, render, section, text
from scrflow.report.page.run import Run

_COLOURS = {"scene": "#9aa5ad", "mapping": "#1b5e9b", "localization": "#d1730f"}


def spent(run: Run) -> Markup:
    """The section."""
    title = "Time and memory"
    stages = run.costs.stages
    if not stages:
        how = "Not known: the benchmark files of the workflow, which hold it, are not here."
        return section("costs", title, how, _table(run))
    how = (
        "Wall-clock time of each job, in the order in which they can run; those that others do not wait for run side "
        "by side, so the whole took less than the sum. The longest bar is where time is to be saved."
    )
    return section("costs", title, how, plot(_bars(run), "Seconds", 60 + 26 * len(stages)), _table(run))


def _table(run: Run) -> Markup:
    rows = [_row(run, stage) for stage in run.costs.stages]
    return render("spent.html", stages=rows, sums=_sums(run), unknown=run.costs.unknown)


def _bars(run: Run) -> go.Figure:
    figure = go.Figure()
    stages = run.costs.stages
    labels = [_label(run, stage) for stage in stages]
    for phase, name in PHASES.items():
        of = [i for i, stage in enumerate(stages) if stage.phase == phase]
        if of:
            figure.add_bar(
                y=[text(labels[i]) for i in of],
                x=[stages[i].wall_s for i in of],
                orientation="h",
                name=f"{name}: {sum(stages[i].wall_s for i in of):.0f} s",
                marker={"color": _COLOURS[phase]},
                hovertemplate="%{x:.1f} s<extra></extra>",
            )
    figure.update_yaxes(
        autorange="reversed", categoryorder="array", categoryarray=[text(label) for label in labels], automargin=True
    )
    figure.update_xaxes(title="seconds")
    figure.update_layout(
        legend={"x": 1, "y": 0.02, "xanchor": "right", "yanchor": "bottom", "bgcolor": "rgba(255,255,255,0.8)"},
        margin={"l": 8, "r": 16, "t": 4, "b": 44},
        barmode="overlay",
    )
    return figure


def _label(run: Run, stage: StageCost) -> str:
    own = run.folder.absolute().parent.name
    return " ".join(
        part for part in ("" if stage.scene == own else f"{stage.scene}:", stage.rule, stage.wildcards) if part
    )


def _row(run: Run, stage: StageCost) -> dict[str, str]:
    bound = "at least " if stage.cpu_is_bound and stage.cpu_s is not None else ""
    return {
        "name": _label(run, stage),
        "phase": PHASES[stage.phase],
        "wall": f"{stage.wall_s:.1f}",
        "cpu": "" if stage.cpu_s is None else f"{bound}{stage.cpu_s:.1f}",
        "memory": "" if stage.max_rss_mb is None else f"{stage.max_rss_mb:.0f}",
        "gpu": "" if stage.gpu_mb is None else f"{stage.gpu_mb:.0f}",
    }


def _sums(run: Run) -> str:
    """What the phases took together."""
    mapping, localization = run.costs.seconds("scene", "mapping"), run.costs.seconds("localization")
    peak = max((s.max_rss_mb for s in run.costs.stages if s.max_rss_mb is not None), default=None)
    said = []
    if mapping is not None and localization is not None:
        said.append(f"{mapping / 60:.1f} min from the photos to the map, {localization:.0f} s for all queries")
    if peak is not None:
        said.append(f"at most {peak:.0f} MB of memory at once in one job")
    return "; ".join(said)
