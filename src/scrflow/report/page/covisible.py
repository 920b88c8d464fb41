"""The covisibility graph from above: which mapping photos the method takes to see the same."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import scipy.sparse
from markupsafe import Markup

from scrflow.core.geometry import camera_centre
from scrflow.evaluate.figures import ground_plane
from scrflow.graph.covisibility import connected_components
from scrflow.report.page.rendering import note, plot, section, text
from scrflow.report.page.run import Run

SHOWN_EDGES = 1500
_SHADES = ("#cfd9e2", "#8fb3d1", "#1b5e9b")  # of the weakest third of the edges shown, and so on


def covisible(run: Run) -> Markup:
    """The section."""
    title = "Covisibility graph"
    if run.graph is None:
        return section("graph", title, "This method uses no covisibility graph.")
    how = (
        "Mapping photos from above; a line joins two that see the same part of the scene, the darker the more of it. "
        "Photos without lines, or groups without a line between them, are learned apart from the others."
    )
    pieces = connected_components(run.graph)
    edges = run.graph.csr.nnz // 2
    alone = sum(len(piece) == 1 for piece in pieces)
    said = f"{len(run.graph.names)} photos, {edges} edges, on average {2 * edges / len(run.graph.names):.1f} of a photo"
    said += "; in one piece" if len(pieces) == 1 else f"; in {len(pieces)} pieces, {alone} of them single photos"
    if edges > SHOWN_EDGES:
        said += f". Drawn are the strongest edge of each photo and the strongest others, {SHOWN_EDGES} or so in all"
    return section("graph", title, how, plot(_figure(run), "Seen from above", 460), note(f"{said}."))


def strongest_edges(graph: scipy.sparse.csr_array, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows i < j [E] and weights [E] of the strongest edge of every node, and of the strongest others up to ``count``;
    the weakest first."""
    upper = scipy.sparse.triu(graph, k=1).tocoo()
    i, j, weight = upper.row, upper.col, upper.data
    order = np.argsort(-weight, kind="stable")
    i, j, weight = i[order], j[order], weight[order]
    ends = np.stack([i, j], 1).reshape(-1)
    _, first = np.unique(ends, return_index=True)  # of each node, its first (strongest) edge
    keep = np.zeros(len(i), bool)
    keep[first // 2] = True
    keep[np.flatnonzero(~keep)[: max(count - int(keep.sum()), 0)]] = True
    return i[keep][::-1], j[keep][::-1], weight[keep][::-1]


def _figure(run: Run) -> go.Figure:
    poses = {view.name: view.cam_from_world for view in run.scene.mapping}
    mapping = np.stack([poses[name] for name in run.graph.names])
    at = ground_plane(mapping).project(camera_centre(mapping))
    i, j, weight = strongest_edges(run.graph.csr, SHOWN_EDGES)
    figure = go.Figure()
    for part, shade in zip(np.array_split(np.arange(len(i)), len(_SHADES)), _SHADES, strict=True):
        if len(part) == 0:
            continue
        gap = np.full((len(part), 2), np.nan)
        x, y = np.stack([at[i[part]], at[j[part]], gap], 1).reshape(-1, 2).astype(np.float32).T
        name = f"weight {weight[part].min():.2f} to {weight[part].max():.2f}"
        figure.add_scatter(x=x, y=y, mode="lines", line={"color": shade, "width": 1}, name=name, hoverinfo="skip")
    degree = np.diff(run.graph.csr.indptr)
    figure.add_scatter(
        x=at[:, 0].astype(np.float32),
        y=at[:, 1].astype(np.float32),
        mode="markers",
        name="mapping photo",
        marker={"size": 5, "color": ["#c0392b" if d == 0 else "#1f2933" for d in degree.tolist()]},
        text=[f"{text(n)}: {d} edges" for n, d in zip(run.graph.names, degree.tolist(), strict=True)],
        hoverinfo="text",
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, scaleanchor="x")
    figure.update_layout(
        margin={"l": 0, "r": 0, "t": 0, "b": 0}, legend={"x": 0, "y": 1, "bgcolor": "rgba(255,255,255,0.8)"}
    )
    return figure
