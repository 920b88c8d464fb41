"""The page: its sections put together, and how the result was made: training curves, time, memory, provenance."""

import base64
import hashlib
import io
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from plotly.offline import get_plotlyjs

from scrflow.core.progress import log
from scrflow.pipeline.provenance import ran_on
from scrflow.report.costs import PHASES, StageCost
from scrflow.report.formats import angle, length, limit
from scrflow.report.page.plots import (
    COLOURS,
    GREY,
    INK,
    calibration,
    covisibility,
    distance,
    failures,
    log_axis,
    recall,
    scene3d,
)
from scrflow.report.page.relocalize import open_map, queries
from scrflow.report.page.run import Run, load_run, text
from scrflow.storage.artifact import write_text

_HERE = Path(__file__).with_suffix("")
_FAINT = "#e4e9ee"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_AXIS = {"gridcolor": _FAINT, "zeroline": False, "showline": True, "linecolor": GREY, "title": {"standoff": 8}}
_STYLE = go.layout.Template(
    layout={
        "font": {"family": _FONT, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"font": {"family": _FONT}, "bgcolor": "white"},
        "legend": {"bgcolor": "rgba(255,255,255,0.8)"},
        "margin": {"l": 64, "r": 16, "t": 12, "b": 48},
        "xaxis": {**_AXIS, "ticks": "outside"},
        "yaxis": _AXIS,
    }
)
# column, heading, logarithmic, factor, suffix of the ticks
_CURVES = (
    ("median_error_px", "Median reprojection error, px", True, 1.0, ""),
    ("inlier_share", "Training samples within 10 px", False, 100.0, " %"),
    ("loss", "Loss", True, 1.0, ""),
    ("lr", "Learning rate", False, 1.0, ""),
)
_PHASE_COLOURS = {"scene": "#9aa5ad", "mapping": "#1b5e9b", "localization": "#d1730f"}
_RUNS = ("training", "localization", "evaluation")


def write_report(folder: Path, out: Path, threads: int = 1) -> None:
    """Write ``out``, the page of results/SCENE/METHOD; ScrflowError where a file of the run is missing or damaged."""
    write_text(out, page(load_run(folder), threads))
    log.info("report: %.1f MB", Path(out).stat().st_size / 1e6)


def page(run: Run, threads: int = 1) -> str:
    """HTML of a run. The map localizes the queries shown once more, and implies the points, on ``threads``."""
    options = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader(_HERE.parent), **options)
    environment.filters |= {"angle": angle, "jpeg": _jpeg, "limit": limit, "plotly": _plotly, "say": length}
    environment.filters["yaml"] = lambda config: yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    localizer, points = open_map(run, threads)
    sections = (failures, recall, distance, calibration, training, covisibility, timing, provenance)
    library, script = get_plotlyjs(), _HERE.with_suffix(".js").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        {section.__name__: section(run) for section in sections},
        run=run,
        scene3d=scene3d(run, points),
        queries=queries(run, localizer, points),
        style=Markup(_HERE.with_suffix(".css").read_text(encoding="utf-8")),
        library=Markup(library),
        script=Markup(script),
        # nothing but these two scripts may run, and nothing may be fetched, whatever the page holds
        scripts=Markup(" ".join(f"'sha256-{_base64(hashlib.sha256(s.encode()).digest())}'" for s in (library, script))),
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _plotly(figure: go.Figure, height: int) -> Markup:
    """A figure in the page's style, as JSON. Names in its texts must have gone through ``text``: plotly reads tags."""
    figure.update_layout(template=_STYLE, height=height)
    # data in a script element ends at the first "</script", whatever quotes it stands in
    return Markup(figure.to_json().replace("<", "\\u003c"))


def _jpeg(image: Image.Image) -> str:
    """The picture as the address of an img."""
    memory = io.BytesIO()
    image.convert("RGB").save(memory, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{_base64(memory.getvalue())}"


def training(run: Run) -> list[tuple[str, go.Figure]]:
    """Headings and curves of what the training log holds."""
    if run.history is None:
        return []
    history = run.history.dropna(axis="columns", how="all").set_index("step")
    return [(heading, _curve(history, column, *style)) for column, heading, *style in _CURVES if column in history]


def _curve(history: pd.DataFrame, column: str, logarithmic: bool, factor: float, suffix: str) -> go.Figure:
    figure = go.Figure()
    columns = {"training photos": column, "held-out photos": f"holdout_{column}"}
    curves = {name: factor * history[key].dropna() for name, key in columns.items() if key in history}
    for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
        style = {"mode": "lines", "line": {"color": colour, "width": 2}, "showlegend": len(curves) > 1}
        hover = "step %{x}: %{y:.4g}<extra></extra>"
        figure.add_scatter(x=curve.index, y=curve, name=name, hovertemplate=hover, **style)
    values = pd.concat(curves.values())
    values = values[values > 0]
    if logarithmic and len(values):
        figure.update_yaxes(**log_axis("", values.min() / 1.2, values.max() * 1.2))
    else:
        figure.update_yaxes(ticksuffix=suffix, rangemode="tozero")
    figure.update_xaxes(title="step", rangemode="tozero")
    return figure.update_layout(margin={"l": 56, "r": 12, "t": 8, "b": 44})


def timing(run: Run) -> dict[str, Any]:
    """Jobs with their costs, and the seconds of each as bars."""
    stages = run.costs.stages
    jobs = [(_job(run, stage), PHASES[stage.phase], stage) for stage in stages]
    figure = go.Figure()
    for phase, colour in _PHASE_COLOURS.items():
        bars = {text(job): stage.wall_s for job, _, stage in jobs if stage.phase == phase}
        if bars:
            style = {"orientation": "h", "marker": {"color": colour}, "hovertemplate": "%{x:.1f} s<extra></extra>"}
            name = f"{PHASES[phase]}: {sum(bars.values()):.0f} s"
            figure.add_bar(y=list(bars), x=list(bars.values()), name=name, **style)
    order = [text(job) for job, *_ in jobs]
    figure.update_yaxes(autorange="reversed", categoryorder="array", categoryarray=order, automargin=True)
    figure.update_xaxes(title="seconds")
    legend, margin = {"x": 1, "y": 0.02, "xanchor": "right", "yanchor": "bottom"}, {"l": 8, "r": 16, "t": 4, "b": 44}
    figure.update_layout(legend=legend, margin=margin, barmode="overlay")
    return {"jobs": jobs, "figure": figure}


def _job(run: Run, stage: StageCost) -> str:
    scene = "" if stage.scene == run.metrics["scene"] else f"{stage.scene}:"
    return " ".join(part for part in (scene, stage.rule, stage.wildcards) if part)


def provenance(run: Run) -> dict[str, Any]:
    """Digests, what the stages ran on, and what was lost."""
    given = run.metrics["provenance"]
    names = [name for name in _RUNS if name != "training" or run.metrics["training"] is not None]
    runs = [
        {key: str(value) for key, value in ran_on(run.metrics, name).items() if value is not None} for name in names
    ]
    keys = dict.fromkeys(key for values in runs for key in values)
    table = {key: [values.get(key, "") if values else "not known" for values in runs] for key in keys}
    digests = {name: given[name] for name in ("code", "config", "data")}
    return {"digests": digests, "runs": names, "ran_on": table, "lost": given["lost"]}
