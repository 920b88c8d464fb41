"""The scene in 3D: mapping cameras, the points that the map implies, and each query with its error."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from scrflow.core.geometry import camera_centre
from scrflow.evaluate.figures import ground_plane
from scrflow.report.page.atwork import Points
from scrflow.report.page.quality import angle, bands, length, symbols
from scrflow.report.page.rendering import note, plot, section, text
from scrflow.report.page.run import Run

SHOWN_POINTS = 15_000
SHOWN_CAMERAS = 3_000
_SMALL = 60  # queries up to which marks are large


def space(run: Run, points: Points) -> Markup:
    """The section."""
    known = bool(run.table["reference"].any())
    mapping = np.stack([view.cam_from_world for view in run.scene.mapping])
    plane = ground_plane(mapping)
    frame = np.stack([plane.right, plane.forward, np.cross(plane.right, plane.forward)])  # up is the third axis
    placed = {q.name: run.scene.query_poses.get(q.name, run.estimates.get(q.name)) for q in run.scene.queries}
    placed = {name: frame @ camera_centre(pose) for name, pose in placed.items() if pose is not None}
    cameras = camera_centre(mapping) @ frame.T
    cloud = points.xyz @ frame.T
    low, high = _box(cameras, np.array(list(placed.values())).reshape(-1, 3), cloud)

    figure = go.Figure()
    _add_cloud(figure, cloud, points.rgb, low, high)
    _add_cameras(figure, cameras, mapping[:, 2, :3] @ frame.T, 0.02 * float(np.linalg.norm(high - low)))
    _add_queries(figure, run, placed, frame, low, high)
    axes = {
        name: {"range": [low[i], high[i]], "visible": False, "showspikes": False}
        for i, name in enumerate(("xaxis", "yaxis", "zaxis"))
    }
    extent = (high - low) / (high - low).max()
    # the middle between what is seen and those who see it, in units of the plot, whose origin is the box's middle
    aim = (np.median(np.vstack([cloud, cameras]), 0) + np.median(cameras, 0) - low - high) / 2
    aim = 1.5 * aim / (high - low).max()
    oblique, above = _camera(aim, np.array([0.2, -1.05, 0.95])), _camera(aim, np.array([0, -0.01, 1.4]))
    figure.update_layout(
        # the plot is as large as the box's longest side allows
        scene={**axes, "aspectmode": "manual", "aspectratio": dict(zip("xyz", 1.5 * extent, strict=True))},
        scene_camera=oblique,
        legend={"x": 0, "y": 1, "bgcolor": "rgba(255,255,255,0.75)", "itemsizing": "constant"},
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        updatemenus=[
            {
                "type": "buttons",
                "direction": "left",
                "x": 0.99,
                "xanchor": "right",
                "y": 1,
                "yanchor": "top",
                "showactive": False,
                "buttons": [
                    {"label": label, "method": "relayout", "args": [{"scene.camera": camera}]}
                    for label, camera in (("oblique", oblique), ("from above", above))
                ],
            }
        ],
    )
    how = (
        "Each mark is a query photo where it was really taken, coloured by how well it was localized; a line leads "
        "to where the map put it (hidden where the two coincide). Look for places where red marks gather. "
        if known
        else "Each mark is a query photo where the map put it; there are no reference poses to compare with. "
    )
    if len(run.conditions) > 1:
        how += f"Marks by condition: {', '.join(f'{mark} {name}' for name, mark in symbols(run).items())}. "
    how += "Drag to turn, scroll to zoom, click in the legend to hide."
    drawn = plot(figure, "Queries, mapping photos and the points of the map", 520)
    return section("space", "Where it works and where it fails", how, drawn, note(_caption(points)))


def _camera(aim: np.ndarray, offset: np.ndarray) -> dict[str, dict[str, float]]:
    """Plotly's camera that looks at ``aim`` from an offset."""
    return {key: dict(zip("xyz", at.tolist(), strict=True)) for key, at in (("center", aim), ("eye", aim + offset))}


def _caption(points: Points) -> str:
    few = f" {SHOWN_POINTS} of them are drawn." if len(points.xyz) > SHOWN_POINTS else ""
    return f"The point cloud: {points.note}.{few}"


def _box(cameras: np.ndarray, queries: np.ndarray, cloud: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of what is shown: all cameras and references, and the cloud but for its stray points."""
    low, high = cameras.min(0), cameras.max(0)
    if len(queries):
        low, high = np.minimum(low, queries.min(0)), np.maximum(high, queries.max(0))
    extent = max(float((high - low).max()), 1e-6)
    if len(cloud):
        # no farther than the cameras' own extent around them: a far tower would make the cameras a dot
        near, far = np.quantile(cloud, [0.03, 0.97], axis=0)
        low, high = np.minimum(low, np.maximum(near, low - extent)), np.maximum(high, np.minimum(far, high + extent))
    margin = np.maximum(0.04 * (high - low), 0.03 * extent)
    return low - margin, high + margin


def _add_cloud(figure: go.Figure, cloud: np.ndarray, rgb: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    inside = np.flatnonzero(((cloud > low) & (cloud < high)).all(1))
    if len(inside) == 0:
        return
    if len(inside) > SHOWN_POINTS:  # points are ordered by voxel: every n-th would be a pattern
        inside = np.sort(np.random.default_rng(0).permutation(inside)[:SHOWN_POINTS])
    x, y, z = cloud[inside].astype(np.float32).T
    colours = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in rgb[inside].tolist()]
    marker = {"size": 1.3, "color": colours, "line": {"width": 0}}
    figure.add_scatter3d(x=x, y=y, z=z, mode="markers", name="points of the map", marker=marker, hoverinfo="skip")


def _add_cameras(figure: go.Figure, centres: np.ndarray, forward: np.ndarray, size: float) -> None:
    step = -(-len(centres) // SHOWN_CAMERAS)
    begin = centres[::step]
    lines = np.stack([begin, begin + size * forward[::step], np.full_like(begin, np.nan)], 1).reshape(-1, 3)
    x, y, z = lines.astype(np.float32).T
    figure.add_scatter3d(
        x=x,
        y=y,
        z=z,
        mode="lines",
        name=f"{len(centres)} mapping photos, and where they look",
        line={"color": "#7b8794", "width": 2},
        hoverinfo="skip",
    )


def _add_queries(
    figure: go.Figure,
    run: Run,
    placed: dict[str, np.ndarray],
    frame: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> None:
    rows, marks = run.table.set_index("name"), symbols(run)
    every = bands(run)
    # the worse, the larger: failures are what one looks for
    sizes = np.linspace(3.5, 7.0, len(every)) * (1.0 if len(rows) <= _SMALL else 0.7)
    for band, size in zip(every, sizes, strict=True):
        names = [name for name in band.names if name in placed]
        if not names:
            continue
        true = np.stack([placed[name] for name in names])
        found = [name for name in names if name in run.estimates and name in run.scene.query_poses]
        if found:
            begin = np.stack([placed[name] for name in found])
            end = camera_centre(np.stack([run.estimates[name] for name in found])) @ frame.T
            end = _until(begin, end, low, high)
            lines = np.stack([begin, end, np.full_like(begin, np.nan)], 1).reshape(-1, 3).astype(np.float32)
            style = {"color": band.colour, "width": 4}
            figure.add_scatter3d(
                **dict(zip("xyz", lines.T, strict=True)),
                mode="lines",
                line=style,
                legendgroup=band.label,
                showlegend=False,
                hoverinfo="skip",
            )
        figure.add_scatter3d(
            **dict(zip("xyz", true.astype(np.float32).T, strict=True)),
            mode="markers",
            name=f"{band.label} ({len(band.names)})",
            legendgroup=band.label,
            marker={
                "size": size,
                "color": band.colour,
                "symbol": [marks[rows.loc[name, "condition"]] for name in names],
                "line": {"color": "white", "width": 1},
            },
            text=[hover(run, name) for name in names],
            hoverinfo="text",
        )


def _until(begin: np.ndarray, end: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Ends [N, 3] of lines from ``begin`` (in the box) to ``end``, cut where they leave the box."""
    way = end - begin
    with np.errstate(divide="ignore", invalid="ignore"):
        leaves = np.where(way > 0, (high - begin) / way, np.where(way < 0, (low - begin) / way, np.inf)).min(1)
    return begin + np.clip(leaves, 0, 1)[:, None] * way


def hover(run: Run, name: str) -> str:
    """What a query's mark says when it is pointed at."""
    row = run.table.loc[run.table["name"] == name].iloc[0]
    lines = [f"<b>{text(name)}</b>"]
    if not row["localized"]:
        lines.append(f"not localized: {text(run.details[name].reason or 'no reason given')}")
    elif row["reference"]:
        lines.append(f"off by {length(row['t_err'], run.unit)}, {angle(row['r_err'])}")
    lines.append(f"{row['inliers']} of {run.details[name].keypoints} keypoints agree")
    if row["confidence"] == row["confidence"]:
        lines.append(f"confidence {row['confidence']:.2f}")
    return "<br>".join(lines)
