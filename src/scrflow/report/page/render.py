"""What the page is made of: the template with its filters, plots, pictures, and numbers in words."""

from __future__ import annotations

import base64
import io
import math
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

INK, GREY, FAINT = "#1f2933", "#6b7680", "#e4e9ee"
COLOURS = ("#1b5e9b", "#d1730f", "#2a8c6e", "#8e5ea2", "#b5485d", "#5c6b73")  # of curves side by side
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_AXIS = {"gridcolor": FAINT, "zeroline": False, "showline": True, "linecolor": GREY, "title": {"standoff": 8}}
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
_JPEG_QUALITY = 80
_TICKS = 12  # of a logarithmic axis, about


def render(**values: Any) -> Markup:
    """page.html; values are escaped, unless they are Markup."""
    options = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), **options)
    environment.filters |= {"angle": angle, "jpeg": jpeg, "limit": limit, "plotly": _plotly, "say": length}
    environment.filters["yaml"] = lambda config: yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return Markup(environment.get_template("page.html").render(**values))


def _plotly(figure: go.Figure, height: int) -> Markup:
    """A figure in the page's style, as JSON. Names in its texts must have gone through ``text``: plotly reads tags."""
    figure.update_layout(template=_STYLE, height=height)
    # data in a script element ends at the first "</script", whatever quotes it stands in
    return Markup(figure.to_json().replace("<", "\\u003c"))


def text(value: str) -> str:
    """A name for the texts of a figure."""
    return escape(value)


def jpeg(image: Image.Image) -> str:
    """The picture as the address of an img."""
    memory = io.BytesIO()
    image.convert("RGB").save(memory, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(memory.getvalue()).decode("ascii")


def coordinates(points: np.ndarray) -> dict[str, np.ndarray]:
    """Points [N, 2 or 3] as the arguments x, y and z of a trace."""
    return dict(zip("xyz", points.astype(np.float32).T, strict=False))


def segments(begin: np.ndarray, end: np.ndarray) -> dict[str, np.ndarray]:
    """Lines between points [N, 2 or 3], as the arguments of one trace with gaps."""
    lines = np.stack([begin, end, np.full_like(begin, np.nan)], 1)
    return coordinates(lines.reshape(-1, begin.shape[1]))


def log_axis(title: str, low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis from ``low`` to ``high`` (positive) with some ticks, as plain numbers."""
    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    steps = next(s for s in ((1, 2, 5), (1, 3), (1,)) if len(s) * len(decades) <= _TICKS or len(s) == 1)
    decades = decades[:: -(-len(decades) // _TICKS)]
    values = np.sort(np.outer(10.0**decades, steps).ravel())
    values = values[(values >= low) & (values <= high)]
    ticks = {"tickmode": "array", "tickvals": values.tolist(), "ticktext": [f"{v:g}" for v in values]}
    return {"type": "log", "title": title, "range": [float(np.log10(low)), float(np.log10(high))], **ticks}


def length(value: float, unit: str, digits: int = 2) -> str:
    """A length in the form that is read most easily, 3.2 cm or 1.4 m, with so many significant digits."""
    if not math.isfinite(value):
        return "infinite"
    scale, name = 1.0, unit
    if unit == "m":
        scale, name = (1.0, "m") if value >= 1 else (100.0, "cm") if value >= 0.001 else (1000.0, "mm")
    number = f"{scale * value:.0f}" if scale * value >= 10**digits else f"{scale * value:.{digits}g}"
    return f"{number} {name}"


def limit(bound: tuple[float, float], unit: str, joined: str = ", ") -> str:
    """A threshold: 25 cm, 2°."""
    return f"{length(bound[0], unit, 6)}{joined}{bound[1]:g}°"


def angle(value: float) -> str:
    """An angle in degrees."""
    return f"{value:.2g}°" if value < 10 else f"{value:.0f}°"
