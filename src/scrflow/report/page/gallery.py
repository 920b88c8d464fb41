"""The best and the worst queries, looked at: the photo, what the map made of it, and what it took it for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from scrflow.evaluate.figures import ERROR_COLOURS, Reprojection
from scrflow.report.page.atwork import AnyLocalizer, Points, localize_again, render_points
from scrflow.report.page.quality import angle, badness, band_index, bands, length
from scrflow.report.page.rendering import render, section
from scrflow.report.page.run import Run

SHOWN = 3  # of the best, and of the worst
LISTED = 500
_WIDTH = 380  # px of a picture
# of the encoded image this is the inlier threshold of the papers; on photos of other sizes it is a round number to
# measure colours by
_SCALE_PX = 10.0


def gallery(run: Run, localizer: AnyLocalizer, points: Points) -> Markup:
    """The section; the queries shown are localized once more."""
    order = badness(run).sort_values(kind="stable")
    shown = min(SHOWN, len(order) // 2) if len(order) > 1 else 1
    worst, best = list(order.index[::-1][:shown]), list(order.index[: min(shown, len(order) - shown)])
    groups = [
        ("The worst", [_shown(run, localizer, points, name) for name in worst]),
        ("The best", [_shown(run, localizer, points, name) for name in best]),
    ]
    how = (
        "From left to right: the query photo; its keypoints, those that agree with the pose from dark (exact) to "
        "yellow (10 px off), the others as grey crosses; the map's points seen from the pose that was found, which "
        "should look like the photo; the mapping photo that the map took it to be near."
    )
    rows = [_row(run, name) for name in order.index[::-1][:LISTED]]
    body = render("gallery.html", groups=groups, rows=rows, total=len(order))
    return section("queries", "The worst and the best queries", how, body)


def _shown(run: Run, localizer: AnyLocalizer, points: Points, name: str) -> dict[str, Any]:
    """What the template shows of a query."""
    query = next(q for q in run.scene.queries if q.name == name)
    photo = run.scene.photo(name)
    again = localize_again(run, localizer, name)
    found = again.found
    pictures = [("the photo", _fitted(photo))]
    marked = "no pose: too few keypoints agree"
    if again.points is not None:
        marked = f"{int(again.points.inlier.sum())} of {len(again.points.inlier)} keypoints agree with the pose"
    pictures.append((marked, marked_photo(photo, again.points, _WIDTH)))
    if found.cam_from_world is not None and len(points.xyz):
        view = render_points(points, query.camera, found.cam_from_world, _WIDTH)
        pictures.append(("the map from the pose found", Image.fromarray(view)))
    if found.hypothesis is not None:
        pictures.append((f"taken to be near {found.hypothesis}", _fitted(run.scene.photo(found.hypothesis))))
    return {"pictures": pictures, **_row(run, name)}


def _fitted(photo: Image.Image) -> Image.Image:
    height = max(1, round(photo.height * _WIDTH / photo.width))
    return photo.resize((_WIDTH, height), Image.Resampling.LANCZOS)


def marked_photo(photo: Image.Image, points: Reprojection | None, width: int) -> Image.Image:
    """The photo, greyed and ``width`` px wide, with its keypoints: inliers coloured by reprojection error with a line
    to where their scene coordinates fall, others as crosses."""
    height = max(1, round(photo.height * width / photo.width))
    dpi = 100
    fig = Figure(figsize=(2 * width / dpi, 2 * height / dpi), dpi=dpi)  # twice as large, as screens may be
    canvas = FigureCanvasAgg(fig)
    ax = fig.add_axes((0, 0, 1, 1))
    grey = 0.55 * np.asarray(photo.convert("L"), np.float32) + 0.45 * 255
    ax.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=(0, photo.width, photo.height, 0), aspect="auto")
    ax.set(xlim=(0, photo.width), ylim=(photo.height, 0))
    ax.set_axis_off()
    if points is not None:
        inlier = points.inlier & np.isfinite(points.reprojected).all(1)
        ax.scatter(*points.pixels[~inlier].T, s=14, marker="x", c="#303030", alpha=0.45, linewidths=0.8)
        error = np.linalg.norm(points.reprojected - points.pixels, axis=1)
        colours = ERROR_COLOURS(Normalize(0, _SCALE_PX, clip=True)(error[inlier]))
        lines = np.stack([points.pixels[inlier], points.reprojected[inlier]], 1)
        ax.add_collection(LineCollection(lines, colors=colours, linewidths=1.6))
        ax.scatter(*points.pixels[inlier].T, s=20, c=colours, linewidths=0)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _row(run: Run, name: str) -> dict[str, Any]:
    """A query in the list of all."""
    row = run.table.loc[run.table["name"] == name]
    band = bands(run)[int(band_index(run, row)[0])]
    values, detail = row.iloc[0], run.details[name]
    near = run.nearest.loc[name] if name in run.nearest.index else None
    measured = bool(values["reference"]) and math.isfinite(values["t_err"])
    return {
        "name": name,
        "condition": values["condition"],
        "band": band.label,
        "colour": band.colour,
        "error": f"{length(values['t_err'], run.unit)}, {angle(values['r_err'])}" if measured else "",
        "inliers": f"{detail.inliers} of {detail.keypoints}",
        "confidence": "" if pd.isna(values["confidence"]) else f"{values['confidence']:.2f}",
        "near": "" if near is None else f"{length(near['distance'], run.unit)}, {near['angle']:.0f}°",
        "hypothesis": detail.hypothesis or "",
        "reason": "" if detail.localized else (detail.reason or "no reason given"),
    }
