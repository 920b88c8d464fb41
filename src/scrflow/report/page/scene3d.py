"""Where the queries are: the scene in 3D with each query's error, and the covisibility graph from above."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import scipy.sparse

from scrflow.core.geometry import camera_centre
from scrflow.evaluate.figures import ground_plane
from scrflow.graph.covisibility import connected_components
from scrflow.report.page.relocalize import Points
from scrflow.report.page.run import Run, text

_SHOWN_POINTS = 15_000
_SHOWN_CAMERAS = 3_000
_SHOWN_EDGES = 1_500
_FEW_QUERIES = 60  # up to which marks are large
_SHADES = ("#cfd9e2", "#8fb3d1", "#1b5e9b")  # of the weakest third of the edges shown, and so on


def coordinates(points: np.ndarray) -> dict[str, np.ndarray]:
    """Points [N, 2 or 3] as the arguments x, y and z of a trace."""
    return dict(zip("xyz", points.astype(np.float32).T, strict=False))


def segments(begin: np.ndarray, end: np.ndarray) -> dict[str, np.ndarray]:
    """Lines between points [N, 2 or 3], as the arguments of one trace with gaps."""
    lines = np.stack([begin, end, np.full_like(begin, np.nan)], 1)
    return coordinates(lines.reshape(-1, begin.shape[1]))


def scene3d(run: Run, points: Points) -> dict[str, Any]:
    """The figure of the mapping cameras, the map's points and each query with its error; and what the points are."""
    mapping = np.stack([view.cam_from_world for view in run.scene.mapping])
    plane = ground_plane(mapping)
    frame = np.stack([plane.right, plane.forward, np.cross(plane.right, plane.forward)])  # up is the third axis
    placed = {q.name: run.scene.query_poses.get(q.name, run.estimates.get(q.name)) for q in run.scene.queries}
    placed = {name: frame @ camera_centre(pose) for name, pose in placed.items() if pose is not None}
    cameras, cloud = camera_centre(mapping) @ frame.T, points.xyz @ frame.T
    low, high = _box(np.vstack([cameras, *placed.values()]), cloud)

    figure = go.Figure()
    _add_cloud(figure, cloud, points.rgb, low, high)
    step, size = -(-len(cameras) // _SHOWN_CAMERAS), 0.02 * float(np.linalg.norm(high - low))
    lines = segments(cameras[::step], cameras[::step] + size * (mapping[:, 2, :3] @ frame.T)[::step])
    name, line = f"{len(cameras)} mapping photos, and where they look", {"color": "#7b8794", "width": 2}
    figure.add_scatter3d(**lines, mode="lines", name=name, line=line, hoverinfo="skip")
    _add_queries(figure, run, placed, frame, low, high)
    _set_view(figure, cameras, cloud, low, high)
    shown = f" {_SHOWN_POINTS} of them are drawn." if len(points.xyz) > _SHOWN_POINTS else ""
    return {"figure": figure, "points": f"{points.note}.{shown}"}


def _box(fixed: np.ndarray, cloud: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of what is shown: all cameras and queries, and the cloud without its stray points."""
    low, high = fixed.min(0), fixed.max(0)
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
    if len(inside) > _SHOWN_POINTS:  # points are ordered by voxel: every n-th would be a pattern
        inside = np.sort(np.random.default_rng(0).permutation(inside)[:_SHOWN_POINTS])
    colours = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in rgb[inside].tolist()]
    marker = {"size": 1.3, "color": colours, "line": {"width": 0}}
    style = {"mode": "markers", "name": "points of the map", "marker": marker, "hoverinfo": "skip"}
    figure.add_scatter3d(**coordinates(cloud[inside]), **style)


def _add_queries(
    figure: go.Figure, run: Run, placed: dict[str, np.ndarray], frame: np.ndarray, low: np.ndarray, high: np.ndarray
) -> None:
    # the worse, the larger: failures are what one looks for
    sizes = np.linspace(3.5, 7.0, len(run.bands)) * (1.0 if len(run.queries) <= _FEW_QUERIES else 0.7)
    for band, size in zip(run.bands, sizes, strict=True):
        names = [name for name in band.queries["name"] if name in placed]
        if not names:
            continue
        found = [name for name in names if name in run.estimates and name in run.scene.query_poses]
        if found:
            begin = np.stack([placed[name] for name in found])
            end = camera_centre(np.stack([run.estimates[name] for name in found])) @ frame.T
            style = {"mode": "lines", "line": {"color": band.colour, "width": 4}, "hoverinfo": "skip"}
            lines = segments(begin, _clip_lines(begin, end, low, high))
            figure.add_scatter3d(**lines, **style, legendgroup=band.label, showlegend=False)
        symbols = [run.symbols[condition] for condition in band.queries.loc[names, "condition"]]
        marker = {"size": size, "color": band.colour, "symbol": symbols, "line": {"color": "white", "width": 1}}
        style = {"mode": "markers", "marker": marker, "legendgroup": band.label}
        title, hover = f"{band.label} ({len(band.queries)})", band.queries.loc[names, "hover"]
        at = coordinates(np.stack([placed[name] for name in names]))
        figure.add_scatter3d(**at, **style, name=title, text=hover, hoverinfo="text")


def _clip_lines(begin: np.ndarray, end: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Ends [N, 3] of lines from ``begin`` (in the box) to ``end``, cut where they leave the box."""
    way = end - begin
    with np.errstate(divide="ignore", invalid="ignore"):
        leaves = np.where(way > 0, (high - begin) / way, np.where(way < 0, (low - begin) / way, np.inf)).min(1)
    return begin + np.clip(leaves, 0, 1)[:, None] * way


def _set_view(figure: go.Figure, cameras: np.ndarray, cloud: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Axes, the two views from which buttons choose, and the legend."""
    largest = (high - low).max()
    # the middle between what is seen and those who see it, in units of the plot, whose origin is the box's middle
    aim = 0.75 * (np.median(np.vstack([cloud, cameras]), 0) + np.median(cameras, 0) - low - high) / largest
    views = {
        label: {key: dict(zip("xyz", at.tolist(), strict=True)) for key, at in (("center", aim), ("eye", aim + offset))}
        for label, offset in (("oblique", [0.2, -1.05, 0.95]), ("from above", [0, -0.01, 1.4]))
    }
    buttons = [{"label": label, "method": "relayout", "args": [{"scene.camera": v}]} for label, v in views.items()]
    menu = {"type": "buttons", "direction": "left", "x": 0.99, "xanchor": "right", "y": 1, "yanchor": "top"}
    hidden = {"visible": False, "showspikes": False}
    axes = {f"{axis}axis": {"range": [low[i], high[i]], **hidden} for i, axis in enumerate("xyz")}
    # the plot is as large as the box's longest side allows
    ratio = dict(zip("xyz", 1.5 * (high - low) / largest, strict=True))
    figure.update_layout(
        scene={**axes, "aspectmode": "manual", "aspectratio": ratio, "camera": views["oblique"]},
        legend={"x": 0, "y": 1, "itemsizing": "constant"},
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        updatemenus=[{**menu, "showactive": False, "buttons": buttons}],
    )


def covisibility(run: Run) -> dict[str, Any] | None:
    """The graph's figure and its size in words; None for a method without a graph."""
    if run.graph is None:
        return None
    photos, pieces, edges = len(run.graph.names), connected_components(run.graph), run.graph.csr.nnz // 2
    size = f"{photos} photos, {edges} edges, on average {2 * edges / photos:.1f} a photo; "
    alone = sum(len(piece) == 1 for piece in pieces)
    size += "in one piece" if len(pieces) == 1 else f"in {len(pieces)} pieces, {alone} of them single photos"
    if edges > _SHOWN_EDGES:
        size += f". Drawn are the strongest edge of each photo and the strongest others, about {_SHOWN_EDGES} in all"
    return {"figure": _graph_from_above(run), "size": size}


def strongest_edges(graph: scipy.sparse.csr_array, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows i < j [E] and weights [E] of every node's strongest edge and the strongest others, the weakest first."""
    upper = scipy.sparse.triu(graph, k=1).tocoo()
    order = np.argsort(-upper.data, kind="stable")
    i, j, weight = upper.row[order], upper.col[order], upper.data[order]
    ends = np.stack([i, j], 1).reshape(-1)
    _, first = np.unique(ends, return_index=True)  # of each node, its first (strongest) edge
    keep = np.zeros(len(i), bool)
    keep[first // 2] = True
    keep[np.flatnonzero(~keep)[: max(count - int(keep.sum()), 0)]] = True
    return i[keep][::-1], j[keep][::-1], weight[keep][::-1]


def _graph_from_above(run: Run) -> go.Figure:
    poses = {view.name: view.cam_from_world for view in run.scene.mapping}
    mapping = np.stack([poses[name] for name in run.graph.names])
    at = ground_plane(mapping).project(camera_centre(mapping))
    i, j, weight = strongest_edges(run.graph.csr, _SHOWN_EDGES)
    figure = go.Figure()
    for part, shade in zip(np.array_split(np.arange(len(i)), len(_SHADES)), _SHADES, strict=True):
        if len(part):
            name, line = f"weight {weight[part].min():.2f} to {weight[part].max():.2f}", {"color": shade, "width": 1}
            lines = segments(at[i[part]], at[j[part]])
            figure.add_scatter(**lines, mode="lines", line=line, name=name, hoverinfo="skip")
    degree = np.diff(run.graph.csr.indptr).tolist()
    marker = {"size": 5, "color": ["#c0392b" if d == 0 else "#1f2933" for d in degree]}
    hover = [f"{text(name)}: {d} edges" for name, d in zip(run.graph.names, degree, strict=True)]
    style = {"mode": "markers", "marker": marker, "hoverinfo": "text"}
    figure.add_scatter(**coordinates(at), **style, name="mapping photo", text=hover)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, scaleanchor="x")
    return figure.update_layout(margin={"l": 0, "r": 0, "t": 0, "b": 0}, legend={"x": 0, "y": 1})
