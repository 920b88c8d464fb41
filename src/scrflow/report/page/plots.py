"""Where a map fails, and the figures: how precise the poses are (recall, errors by distance, calibrated
confidences), where the queries are in 3D, and the covisibility graph from above."""

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import scipy.sparse
from scipy.stats import binomtest

from scrflow.core.geometry import camera_centre
from scrflow.evaluate.figures import ground_plane
from scrflow.evaluate.metrics import CONFIDENCE_EDGES, OVERALL, reliability
from scrflow.graph.covisibility import connected_components
from scrflow.report.formats import length, limit
from scrflow.report.page.relocalize import Points
from scrflow.report.page.run import Run, text

INK, GREY = "#1f2933", "#6b7680"
COLOURS = ("#1b5e9b", "#d1730f", "#2a8c6e", "#8e5ea2", "#b5485d", "#5c6b73")  # of curves side by side
_TICKS = 12  # of a logarithmic axis, about
_DOTTED = {"color": GREY, "width": 1, "dash": "dot"}
_LABEL = {"showarrow": False, "yanchor": "bottom", "font": {"size": 11}}
_GROUP = 6  # queries that a median is of, at least
_GROUPS = 5
_TURNED = 45.0  # degrees: no imprecision of a pose is that large; the map took another place for this one
_FEW = 12  # queries under which thirds say nothing
_FEW_MISSES = 5  # misses under which they do not either
_NAMED = 3  # queries that are named in the text
_TELLING = 0.2  # difference of two shares that is worth a sentence
_MISSES = 0.05  # share of queries beyond a threshold from which that threshold tells where the map fails
_SHOWN_POINTS = 15_000
_SHOWN_CAMERAS = 3_000
_SHOWN_EDGES = 1_500
_FEW_QUERIES = 60  # up to which marks are large
_SHADES = ("#cfd9e2", "#8fb3d1", "#1b5e9b")  # of the weakest third of the edges shown, and so on


def failures(run: Run) -> dict[str, Any]:
    """Numbers of the page's sentences on where the map fails: at the coarsest threshold that a telling share of the
    queries misses, or the finest where there is none."""
    known = run.known
    shares = [(known["band"] > i).sum() >= _MISSES * len(known) for i in range(len(run.thresholds))]
    number = max(np.flatnonzero(shares), default=0)
    missed = known["band"] > number
    worst = known.sort_values("badness", ascending=False, kind="stable").index[: min(missed.sum(), _NAMED)]
    return {
        "bound": run.thresholds[number],
        "missed": missed.sum(),
        "worst": list(worst),
        "turned": (known["localized"] & (known["r_err"] > _TURNED)).sum(),
        "turned_over": _TURNED,
        "right": (100 * (~missed).groupby(known["condition"]).mean()).sort_values(kind="stable").to_dict(),
        "thirds": _thirds(known.assign(missed=missed)) if len(known) >= _FEW and missed.sum() >= _FEW_MISSES else None,
    }


def _thirds(known: pd.DataFrame) -> dict[str, Any]:
    """Misses of the nearest and of the farthest third of the queries, by the distance to the mapping photos or the
    rotation against them, whichever tells misses better; ``by`` is None where neither does."""
    size = len(known) // 3
    orders = {column: known.sort_values(column, kind="stable") for column in ("distance", "angle")}
    thirds = {column: (order[:size], order[len(order) - size :]) for column, order in orders.items()}
    gaps = {column: far["missed"].mean() - near["missed"].mean() for column, (near, far) in thirds.items()}
    column = max(gaps, key=gaps.get)
    near, far = thirds[column]
    ends = {"over": far[column].min(), "under": near[column].max(), "far": far["missed"].sum()}
    return {"by": column if gaps[column] >= _TELLING else None, "size": size, "near": near["missed"].sum(), **ends}


def recall(run: Run) -> tuple[go.Figure, go.Figure] | None:
    """Curves of the position and of the rotation error: which share of the queries is within any error."""
    if run.known.empty:
        return None
    t, r = (sorted({bound[part] for bound in run.thresholds}) for part in (0, 1))
    return (
        _curves(run, "t_err", f"position error ({text(run.unit)})", {x: length(x, run.unit, 6) for x in t}),
        _curves(run, "r_err", "rotation error (degrees)", {x: f"{x:g}°" for x in r}),
    )


def _curves(run: Run, column: str, title: str, limits: dict[float, str]) -> go.Figure:
    """``limits``: thresholds and their labels, the finest first."""
    errors = run.known[column].to_numpy()
    finite = errors[np.isfinite(errors) & (errors > 0)]
    low, high = min(limits) / 3, 3 * max(limits)
    if len(finite):
        low, high = min(low, np.quantile(finite, 0.02)), max(high, np.quantile(finite, 0.98))
    figure = go.Figure()
    several, colours = len(run.symbols) > 1, iter(COLOURS * len(run.symbols))
    for condition, queries in [*[(OVERALL, run.known)] * several, *run.known.groupby("condition")]:
        values = np.sort(queries[column])
        share = 100 * np.arange(1, len(values) + 1) / len(values)
        shown = np.isfinite(values)
        # from the left edge to the right one, whatever the first and the last error are
        x = np.concatenate([[low], np.maximum(values[shown], low), [high]])
        y = np.concatenate([[0.0], share[shown], share[shown][-1:] if shown.any() else [0.0]])
        order = np.argsort(x, kind="stable")
        total = several and condition == OVERALL
        line = {"shape": "hv", "width": 3.5 if total else 2, "color": INK if total else next(colours)}
        name = f"{'all queries' if condition == OVERALL else text(condition)} ({len(queries)})"
        hover = {"hovertemplate": "%{y:.0f} % within %{x:.3g}<extra>%{fullData.name}</extra>"}
        figure.add_scatter(x=x[order], y=y[order], mode="lines", line=line, name=name, showlegend=several, **hover)
    for bound, label in limits.items():
        figure.add_vline(x=bound, line=_DOTTED)
        figure.add_annotation(x=np.log10(bound), y=1.0, yref="paper", text=label, **_LABEL)
    figure.update_xaxes(**log_axis(title, low, high))
    figure.update_yaxes(range=[0, 101], ticksuffix=" %")
    legend = {"x": 0.98, "y": 0.05, "xanchor": "right", "yanchor": "bottom"}
    return figure.update_layout(legend=legend, margin={"l": 56, "r": 16, "t": 24, "b": 48})


def log_axis(title: str, low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis from ``low`` to ``high`` (positive) with some ticks, as plain numbers."""
    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    steps = next(s for s in ((1, 2, 5), (1, 3), (1,)) if len(s) * len(decades) <= _TICKS or len(s) == 1)
    decades = decades[:: -(-len(decades) // _TICKS)]
    values = np.sort(np.outer(10.0**decades, steps).ravel())
    values = values[(values >= low) & (values <= high)]
    ticks = {"tickmode": "array", "tickvals": values.tolist(), "ticktext": [f"{v:g}" for v in values]}
    return {"type": "log", "title": title, "range": [float(np.log10(low)), float(np.log10(high))], **ticks}


def distance(run: Run) -> dict[str, Any] | None:
    """Error by distance to (and rotation against) the nearest mapping photo: it tells where more photos would help."""
    if run.known.empty:
        return None
    return {
        "by_distance": _scatter(run, "distance", f"distance to the nearest mapping photo ({text(run.unit)})"),
        "by_angle": _scatter(run, "angle", "rotation to that photo (degrees)"),
        "medians": len(run.known) >= 2 * _GROUP,
    }


def _scatter(run: Run, column: str, title: str) -> go.Figure:
    coarsest = run.thresholds[-1][0]
    floor = max(run.thresholds[0][0] / 1000, 1e-9)
    # those that were not localized stand on a line of their own, above all others
    top = 3 * max([coarsest, *run.known["t_err"][run.known["localized"]]])
    known = run.known.assign(shown=run.known["t_err"].replace(np.inf, top).clip(lower=floor))
    figure = go.Figure()
    for number, queries in known.groupby("band"):
        band = run.bands[number]
        near = zip(queries["near"], queries["distance"], queries["angle"], strict=True)
        near = [f"nearest mapping photo: {text(n)}, {length(d, run.unit)}, {a:.0f}° away" for n, d, a in near]
        marker = {"size": 9 if len(known) < 300 else 6, "color": band.colour, "line": {"color": "white", "width": 0.7}}
        marker["symbol"] = queries["condition"].map(run.symbols)
        style = {"mode": "markers", "marker": marker, "name": f"{band.label} ({len(queries)})", "hoverinfo": "text"}
        said = queries["hover"] + "<br>" + near
        figure.add_scatter(x=queries[column], y=queries["shown"], text=said, **style)
    _add_medians(figure, known[column].to_numpy(), known["shown"].to_numpy())
    for bound, _ in run.thresholds:
        figure.add_hline(y=bound, line=_DOTTED)
        label = length(bound, run.unit, 6)
        figure.add_annotation(xref="paper", x=1, xanchor="right", y=np.log10(bound), text=label, **_LABEL)
    if not known["localized"].all():
        figure.add_annotation(xref="paper", x=0, xanchor="left", y=np.log10(top), text="not localized", **_LABEL)
    figure.update_xaxes(title=title, rangemode="tozero")
    low = min(run.thresholds[0][0] / 2, known["shown"].min()) / 1.3
    high = max(2 * coarsest, known["shown"].max()) * 1.3
    figure.update_yaxes(**log_axis(f"position error ({text(run.unit)})", low, high))
    return figure.update_layout(showlegend=False)


def _add_medians(figure: go.Figure, x: np.ndarray, y: np.ndarray) -> None:
    """Medians of groups of equally many queries, along x."""
    count = min(_GROUPS, len(x) // _GROUP)
    if count < 2:
        return
    parts = np.array_split(np.argsort(x, kind="stable"), count)
    medians = {key: [float(np.median(values[part])) for part in parts] for key, values in (("x", x), ("y", y))}
    marker = {"symbol": "line-ew-open", "size": 16, "line": {"width": 3}}
    style = {"mode": "lines+markers", "line": {"color": INK, "width": 2}, "marker": marker}
    figure.add_scatter(**medians, **style, hovertemplate="median error %{y:.3g}<extra></extra>")


def calibration(run: Run) -> dict[str, Any] | None:
    """Confidences against the share of poses that are within the finest threshold; None without any to compare."""
    queries = run.known[run.known["confidence"].notna()]
    if queries.empty:
        return None
    t, r = run.thresholds[0]
    p, right = queries["confidence"].to_numpy(), ((queries["t_err"] < t) & (queries["r_err"] < r)).to_numpy()
    sure, curve, within = p >= 0.5, reliability(p, right), f"within {limit((t, r), run.unit, ' and ')}"
    counts = go.Figure()
    labels = [f"{a:g} to {b:g}" for a, b in pairwise(CONFIDENCE_EDGES)]
    hits = np.nan_to_num(curve.count * curve.right).round()
    for name, y, colour in ((within, hits, COLOURS[0]), ("not", curve.count - hits, "#d9a08c")):
        counts.add_bar(x=labels, y=y, name=name, marker={"color": colour}, hovertemplate="%{y}")
    counts.update_layout(barmode="stack", legend={"orientation": "h", "y": 1.1, "x": 0})
    counts.update_xaxes(title="confidence")
    counts.update_yaxes(title="poses")
    some = curve.count > 0
    told = {
        "sure": (sure.sum(), right[sure].sum()),
        "others": ((~sure).sum(), right[~sure].sum()),
        "reliability": curve,
    }
    return told | {"curve": _diagram(curve.said[some], hits[some], curve.count[some]), "counts": counts}


def _diagram(said: np.ndarray, hits: np.ndarray, count: np.ndarray) -> go.Figure:
    """By bin: the mean confidence against the share of ``count`` poses that are right, with its interval."""
    share = hits / count
    intervals = [binomtest(int(k), int(n)).proportion_ci(0.9, "wilson") for k, n in zip(hits, count, strict=True)]
    low, high = np.array(intervals).T
    figure = go.Figure()
    diagonal = {"color": GREY, "width": 1, "dash": "dash"}
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=diagonal, hoverinfo="skip")
    bars = {"type": "data", "symmetric": False, "array": high - share, "arrayminus": share - low}
    bars |= {"color": "#6aaed6", "thickness": 1.2}
    style = {"marker": {"size": 9, "color": COLOURS[0]}, "line": {"color": COLOURS[0], "width": 1.5}}
    shown = [f"{k:.0f} of {n} right" for k, n in zip(hits, count, strict=True)]
    hover = {"text": shown, "hovertemplate": "said %{x:.2f}, %{text}<extra></extra>"}
    figure.add_scatter(x=said, y=share, error_y=bars, mode="lines+markers", **style, **hover)
    figure.update_xaxes(title="confidence", range=[-0.02, 1.02])
    figure.update_yaxes(title="share that is right (90 % interval)", range=[-0.03, 1.03])
    return figure.update_layout(showlegend=False)


# ---------------------------------------------------------------------------------------------------------------- scene


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
    _add_queries(figure, run, placed, frame)
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


def _add_queries(figure: go.Figure, run: Run, placed: dict[str, np.ndarray], frame: np.ndarray) -> None:
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
            figure.add_scatter3d(**segments(begin, end), **style, legendgroup=band.label, showlegend=False)
        symbols = [run.symbols[condition] for condition in band.queries.loc[names, "condition"]]
        marker = {"size": size, "color": band.colour, "symbol": symbols, "line": {"color": "white", "width": 1}}
        style = {"mode": "markers", "marker": marker, "legendgroup": band.label}
        title, hover = f"{band.label} ({len(band.queries)})", band.queries.loc[names, "hover"]
        at = coordinates(np.stack([placed[name] for name in names]))
        figure.add_scatter3d(**at, **style, name=title, text=hover, hoverinfo="text")


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
    """The graph's figure and its size; None for a method without a graph."""
    if run.graph is None:
        return None
    pieces = connected_components(run.graph)
    size = {"photos": len(run.graph.names), "edges": run.graph.csr.nnz // 2, "pieces": len(pieces)}
    size |= {"alone": sum(len(piece) == 1 for piece in pieces), "drawn": _SHOWN_EDGES}
    return {"figure": _graph_from_above(run), **size}


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
