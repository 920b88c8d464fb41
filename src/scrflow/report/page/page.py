"""The page of all sections."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from scrflow.core.progress import log
from scrflow.report.page.atwork import open_map
from scrflow.report.page.belief import belief
from scrflow.report.page.covisible import covisible
from scrflow.report.page.distance import distance
from scrflow.report.page.gallery import gallery
from scrflow.report.page.headline import headline
from scrflow.report.page.origin import origin
from scrflow.report.page.recall import recall
from scrflow.report.page.rendering import render
from scrflow.report.page.run import Run, load_run
from scrflow.report.page.space import space
from scrflow.report.page.spent import spent
from scrflow.report.page.training import training
from scrflow.storage.artifact import write_text

_HERE = Path(__file__).with_suffix("")
# anchor -> name in the menu
_MENU = {
    "headline": "Summary",
    "space": "Scene",
    "queries": "Queries",
    "recall": "Precision",
    "distance": "Distance",
    "confidence": "Confidence",
    "training": "Training",
    "graph": "Covisibility",
    "costs": "Time",
    "origin": "Config",
}


def write_report(folder: Path, out: Path, threads: int = 1) -> None:
    """Write ``out``, the page of results/SCENE/METHOD, from what the workflow left there and in results/SCENE.

    ScrflowError where a file of the run is missing or damaged.
    """
    run = load_run(folder)
    write_text(out, str(page(run, threads)))
    log.info("report: %.1f MB", Path(out).stat().st_size / 1e6)


def page(run: Run, threads: int = 1) -> Markup:
    """The page of a run. The map localizes the queries shown once more, and implies the points, on ``threads``."""
    localizer, points = open_map(run, threads)
    sections = [
        headline(run),
        space(run, points),
        gallery(run, localizer, points),
        recall(run),
        distance(run),
        belief(run),
        training(run),
        covisible(run),
        spent(run),
        origin(run),
    ]
    library, script = get_plotlyjs(), _HERE.with_suffix(".js").read_text(encoding="utf-8")
    return render(
        "page.html",
        title=f"{run.metrics['scene']} · {run.metrics['method']}",
        synthetic=run.metrics["synthetic"],
        menu=_MENU,
        sections=sections,
        style=Markup(_HERE.with_suffix(".css").read_text(encoding="utf-8")),
        library=Markup(library),
        script=Markup(script),
        # nothing but these two scripts may run, and nothing may be fetched, whatever the page holds
        scripts=" ".join(_hash(text) for text in (library, script)),
    )


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
