"""What the sections are made of: escaped HTML, plots and pictures, all within the one file."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

_FOLDER = Path(__file__).parent
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, GREY, FAINT = "#1f2933", "#6b7680", "#e4e9ee"
JPEG_QUALITY = 80
_TICKS = 12  # of a logarithmic axis, about
SHOWN_WIDTH = 600  # px of a picture, at most


def render(template: str, **values: Any) -> Markup:
    """A template, named like the module beside it that uses it; values are escaped, unless they are Markup."""
    return Markup(_ENVIRONMENT.get_template(template).render(**values))


def _parts() -> Any:
    """The macros of rendering.html, as functions that return Markup."""
    return _ENVIRONMENT.get_template("rendering.html").module


def section(name: str, title: str, how: str, *body: Markup) -> Markup:
    """A part of the page. ``how`` is the sentence that says how to read it."""
    return _parts().section(name, title, how, Markup("").join(body))


def note(text: str) -> Markup:
    """A paragraph."""
    return Markup("<p>{}</p>").format(text)


def legend(entries: list[tuple[str, str]]) -> Markup:
    """(colour, label) of marks that several plots share."""
    return _parts().legend(entries)


def plots(*drawn: Markup) -> Markup:
    """Plots side by side, where the window is wide enough."""
    return Markup('<div class="plots">{}</div>').format(Markup("").join(drawn))


def plot(figure: go.Figure, says: str, height: int = 340) -> Markup:
    """A figure that the page's script draws; ``says`` is its heading, and what a screen reader reads.

    Names in a figure's texts must have gone through ``text``: plotly reads tags in them.
    """
    figure.update_layout(
        template="none",
        height=height,
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hoverlabel={"font": {"family": FONT}, "bgcolor": "white"},
    )
    if figure.layout.margin.l is None:
        figure.update_layout(margin={"l": 64, "r": 16, "t": 12, "b": 48})
    figure.update_xaxes(gridcolor=FAINT, zeroline=False, linecolor=GREY, ticks="outside", title_standoff=8)
    figure.update_yaxes(gridcolor=FAINT, zeroline=False, linecolor=GREY, title_standoff=8)
    # data in a script element ends at the first "</script", whatever quotes it stands in
    data = Markup(figure.to_json().replace("<", "\\u003c"))
    return _parts().plot(data, says, height)


def log_axis(title: str, low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis from ``low`` to ``high`` (positive) with some ticks, as plain numbers."""
    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    steps = next(s for s in ((1, 2, 5), (1, 3), (1,)) if len(s) * len(decades) <= _TICKS or len(s) == 1)
    decades = decades[:: -(-len(decades) // _TICKS)]
    values = np.sort(np.outer(10.0**decades, steps).ravel())
    values = values[(values >= low) & (values <= high)]
    ticks = {"tickmode": "array", "tickvals": values.tolist(), "ticktext": [f"{v:g}" for v in values]}
    return {"type": "log", "title": title, "range": [float(np.log10(low)), float(np.log10(high))], **ticks}


def text(value: str) -> str:
    """A name for the texts of a figure."""
    return escape(value)


def jpeg(image: Image.Image, width: int) -> str:
    """The picture ``width`` px wide, or as it is where it is narrower, as the address of an img."""
    if image.width > width:
        size = (width, max(1, round(image.height * width / image.width)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    memory = io.BytesIO()
    image.convert("RGB").save(memory, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(memory.getvalue()).decode("ascii")


_ENVIRONMENT.filters["jpeg"] = lambda image: jpeg(image, SHOWN_WIDTH)
