"""The two pictures of a run: the map from above with the queries' errors, and one query with its reprojection.

"Up" is the mean of the mapping cameras' -y axes: people hold cameras upright, and a straight path defines no plane. The
picture's right is a world axis where a world axis is upright, else the main direction of the centres.
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path as MarkerPath
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator
from PIL import Image

from scrflow.config import EvaluateStage
from scrflow.core.geometry import camera_centre, pinhole_matrix
from scrflow.scene.colmap_model import read_model
from scrflow.scene.model import Scene
from scrflow.storage.artifact import atomic_path

_DPI = 120
_BAR = {"extendfrac": 0.03, "pad": 0.02, "fraction": 0.04, "aspect": 33}
# dark is near, bright is far, without the yellow end, which would be lost on white
ERROR_COLOURS = ListedColormap(matplotlib.colormaps["plasma"](np.linspace(0.05, 0.88, 256)))
_MARKERS = {"all": "o", "day": "o", "night": "D"}
_MORE_MARKERS = "s^vPh"
_OUTLIER = "#303030"
_GREY = "#9aa5ad"
_WEDGE = MarkerPath([(0, -0.5), (-0.4, 0.5), (0.4, 0.5), (0, -0.5)])
Places = dict[str, np.ndarray]  # by query name


@dataclass(frozen=True)
class GroundPlane:
    """``right`` and ``forward`` [3] span the plane, right x forward = up: seen from above, not mirrored."""

    right: np.ndarray
    forward: np.ndarray

    def project(self, xyz_world: np.ndarray) -> np.ndarray:
        """Points [..., 3] -> [..., 2] on the plane."""
        return np.asarray(xyz_world) @ np.stack([self.right, self.forward], -1)


def ground_plane(cam_from_world_V34: np.ndarray) -> GroundPlane:
    """The plane seen from above by the cameras' own idea of up (module docstring); needs one pose at least."""
    up = -cam_from_world_V34[:, 1, :3].mean(0)
    centres = camera_centre(cam_from_world_V34)
    centres = centres - centres.mean(0)
    if np.linalg.norm(up) < 0.2:  # cameras rolled every way, or an orbit over the poles: the flattest direction then
        up = np.linalg.svd(centres, full_matrices=True)[2][2]
    up = up / np.linalg.norm(up)
    axis = int(np.abs(up).argmax())
    if abs(up[axis]) > np.cos(np.radians(10)):
        up = np.sign(up[axis]) * np.eye(3)[axis]
        extent = np.ptp(centres, axis=0)
        extent[axis] = -1
        right = np.eye(3)[extent.argmax()]
    else:
        flat = centres - np.outer(centres @ up, up)
        right = np.linalg.svd(flat, full_matrices=True)[2][0]
        if np.linalg.norm(flat) < 1e-9:  # all photos from one spot
            right = np.cross(up, np.eye(3)[np.abs(up).argmin()])
        right = right - up * (right @ up)
        right = right / np.linalg.norm(right)
    # turned so that the cameras look up the sheet; where they look every way alike, rounding is not to decide
    if cam_from_world_V34[:, 2, :3].mean(0) @ np.cross(up, right) < -1e-6:
        right = -right
    return GroundPlane(right, np.cross(up, right))


def draw_errors(
    out: Path, scene: Scene, estimates: dict[str, np.ndarray], table: pd.DataFrame, config: EvaluateStage, title: str
) -> None:
    """Write the map from above: mapping cameras, and the queries coloured by position error.

    ``estimates`` are cam_from_world [3, 4] by query name; ``table`` is that of scrflow.evaluate.metrics.query_table.
    Without any reference pose, the queries stand where they were localized and are coloured by their inliers.
    """
    mapping = np.stack([v.cam_from_world for v in scene.mapping])
    plane = ground_plane(mapping)
    # truth where known, else the estimate: a query without either (not localized, no reference) has no place on the map
    known = bool(table["reference"].any())
    placed = {q.name: scene.query_poses.get(q.name, None if known else estimates.get(q.name)) for q in scene.queries}
    placed = {name: plane.project(camera_centre(pose)) for name, pose in placed.items() if pose is not None}
    cameras = plane.project(camera_centre(mapping))
    low, high, size = _view_box(np.vstack([cameras, *placed.values()]))

    fig, ax = _sheet(*(high - low))
    _draw_points(ax, scene, plane, low, high)
    handles = [_draw_cameras(ax, scene, cameras, plane.project(mapping[:, 2, :3]), size)]
    table = table.set_index("name", drop=False)
    table["value"] = table["t_err" if known else "inliers"].astype(float)
    norm = _error_norm(config) if known else Normalize(0, max(float(table["value"].max()), 1.0))
    shown = _draw_queries(ax, table, placed, norm, handles, worst_last=known)
    _draw_lost(ax, table[~table["localized"]], placed, handles)
    if known and estimates:
        _draw_offsets(ax, plane, placed, estimates, table["value"], norm)
        handles.append(Line2D([], [], color="#555555", lw=1.4, label="from true to estimated position"))

    if shown is not None and known:
        bar = fig.colorbar(shown, ax=ax, extend="both", label="position error (white: the scene's thresholds)", **_BAR)
        ticks = sorted({t for t, _ in config.thresholds} | {norm.vmin, norm.vmax})
        bar.set_ticks(ticks, labels=[f"{t:.3g} {config.unit}" for t in ticks])
        bar.ax.yaxis.set_minor_locator(NullLocator())
        for t, _ in config.thresholds:
            bar.ax.axhline(t, color="white", lw=1.2)
    elif shown is not None:
        fig.colorbar(shown, ax=ax, label="inliers of a query", **_BAR)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[])
    ax.spines[:].set_color("#cccccc")
    _draw_scale_bar(ax, low, high, config.unit)
    _save(out, ax, f"{title}: queries on the map, from above", _score(table, config), config.synthetic, handles)


def _view_box(points_N2: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Corners [2] of what is shown, and the length of a camera's wedge."""
    low, high = points_N2.min(0), points_N2.max(0)
    extent = max(float((high - low).max()), 1e-6)
    # a straight path is a line: give it some width, or the picture is a strip
    centre, half = (low + high) / 2, np.maximum((high - low) / 2, 0.22 * extent) + 0.07 * extent
    return centre - half, centre + half, 0.03 * extent


def _draw_points(ax: Axes, scene: Scene, plane: GroundPlane, low: np.ndarray, high: np.ndarray) -> None:
    """3D points of the scene's COLMAP model, where it has some: walls and trees show as faint outlines."""
    model = read_model(scene.folder / "mapping")
    if len(model.points3D) < 50:
        return
    xyz = np.array([p.xyz for _, p in sorted(model.points3D.items())])
    xy = plane.project(xyz[:: max(1, len(xyz) // 20_000)])
    xy = xy[((xy > low) & (xy < high)).all(1)]
    ax.scatter(*xy.T, s=1.2, c="#b8c4cc", linewidths=0, alpha=0.6, zorder=0, rasterized=True)


def _draw_cameras(ax: Axes, scene: Scene, centres_V2: np.ndarray, forward_V2: np.ndarray, size: float) -> Line2D:
    """A wedge a camera as wide as its field of view: its point, marked with a dot, is the centre."""
    tangents = [v.camera.width / (2 * pinhole_matrix(v.camera)[0, 0]) for v in scene.mapping]
    half_V = np.clip(tangents, 0.25, 1.0)  # wider or narrower ones no longer look like a wedge
    length = np.linalg.norm(forward_V2, axis=1, keepdims=True)
    f = size * forward_V2 / np.maximum(length, 1e-9)
    side = half_V[:, None] * f[:, ::-1] * [-1, 1]
    wedges = np.stack([centres_V2, centres_V2 + f + side, centres_V2 + f - side], 1)
    ax.add_collection(PolyCollection(wedges, facecolors="#c9d6df", alpha=0.45, linewidths=0, zorder=1))
    ax.add_collection(LineCollection(wedges[:, [1, 0, 2]], colors=_GREY, linewidths=0.5, zorder=1))
    ax.scatter(*centres_V2.T, s=4, c="#6b7680", linewidths=0, zorder=2)
    label = f"{len(centres_V2)} mapping photos, open to where they look"
    return Line2D([], [], marker=_WEDGE, ls="", ms=15, mfc="#dfe5ea", mec=_GREY, mew=0.5, label=label)


def _draw_queries(
    ax: Axes, table: pd.DataFrame, placed: Places, norm: Normalize, handles: list[Line2D], worst_last: bool
) -> PathCollection | None:
    """The localized queries, a marker a condition; the last marks drawn, for the colour bar."""
    shown = None
    dot = float(np.clip(58 * (40 / len(table)) ** 0.7, 10, 58))  # points^2; hundreds of queries are small ones
    more = iter(_MORE_MARKERS * len(table))
    for condition, queries in table.groupby("condition", sort=True):
        marker = _MARKERS.get(condition) or next(more)
        # the worst on top: few misses among many good ones are what one looks for
        drawn = queries[queries["localized"] & queries["name"].isin(placed)].sort_values(
            "value", ascending=worst_last, kind="stable"
        )
        if len(drawn):
            style = {"cmap": ERROR_COLOURS, "norm": norm, "edgecolors": "black", "linewidths": 0.8, "zorder": 4}
            at = np.stack([placed[name] for name in drawn["name"]])
            size = dot if marker == "o" else 0.8 * dot
            shown = ax.scatter(*at.T, c=drawn["value"], marker=marker, s=size, **style)
        kind = "queries" if condition == "all" else f"{condition} queries"
        label = f"{len(drawn)} of {len(queries)} {kind}, localized"
        handles.append(Line2D([], [], marker=marker, ls="", ms=7.5, mfc="white", mec="black", label=label))
    return shown


def _draw_lost(ax: Axes, lost: pd.DataFrame, placed: Places, handles: list[Line2D]) -> None:
    if lost.empty:
        return
    crosses = [placed[name] for name in lost["name"] if name in placed]
    if crosses:
        ax.scatter(*np.stack(crosses).T, marker="x", s=64, linewidths=2, c="black", zorder=5)
    of = lost["condition"].value_counts()
    by = "" if set(of.index) == {"all"} else f" ({', '.join(f'{n} {c}' for c, n in of.items())})"
    label = f"{len(lost)} not localized{by}{'' if crosses else ', not on the map'}"
    handles.append(Line2D([], [], marker="x", ls="", ms=7.5, mew=2, color="black", label=label))


def _draw_offsets(
    ax: Axes, plane: GroundPlane, placed: Places, estimates: Places, values: pd.Series, norm: Normalize
) -> None:
    """A line from where each query is to where it was localized."""
    names = [n for n in estimates if n in placed]
    if not names:
        return
    ends = plane.project(camera_centre(np.stack([estimates[n] for n in names])))
    lines = np.stack([np.stack([placed[n] for n in names]), ends], 1)
    colours = ERROR_COLOURS(norm(values[names].to_numpy()))
    ax.add_collection(LineCollection(lines, colors=colours, linewidths=1.4, zorder=3))
    ax.scatter(*ends.T, s=7, c=colours, linewidths=0, zorder=3)


def _error_norm(config: EvaluateStage) -> LogNorm:
    """The same for every method on a scene, so that their pictures can be laid side by side."""
    lengths = [t for t, _ in config.thresholds]
    return LogNorm(min(lengths) / 5, max(lengths) * 5, clip=True)


def _score(table: pd.DataFrame, config: EvaluateStage) -> str:
    """One line: the share of queries right within each threshold, by condition."""
    known = table[table["reference"]]
    if known.empty:
        return f"{int(table['localized'].sum())} of {len(table)} queries localized; no reference poses, so no errors"
    shares = []
    for condition, of in known.groupby("condition"):
        right = [((of["t_err"] < t) & (of["r_err"] < r)).mean() for t, r in config.thresholds]
        label = "" if condition == "all" else f"{condition} "
        shares.append(label + " / ".join(f"{100 * share:.0f} %" for share in right))
    bounds = " / ".join(f"{t:g} {config.unit} {r:g}°" for t, r in config.thresholds)
    return f"{',  '.join(shares)}  within  {bounds}"


def _draw_scale_bar(ax: Axes, low: np.ndarray, high: np.ndarray, unit: str) -> None:
    extent = high - low
    length = 0.22 * extent[0]
    step = 10 ** np.floor(np.log10(length))
    length = float(step * max(m for m in (1, 2, 5) if m * step <= length * 1.0001))
    x, y = low[0] + 0.03 * extent[0], low[1] + 0.03 * extent[1]
    halo, thin = ([withStroke(linewidth=width, foreground="white")] for width in (4, 3))
    ax.plot([x, x + length], [y, y], color="black", lw=2.5, solid_capstyle="butt", zorder=6, path_effects=halo)
    style = {"ha": "center", "va": "bottom", "fontsize": 10, "zorder": 6, "path_effects": thin}
    ax.text(x + length / 2, y + 0.012 * extent[1], f"{length:g} {unit}", **style)


@dataclass(frozen=True)
class Reprojection:
    """Keypoints of a query and where their scene coordinates fall with the estimated pose, px of the photo."""

    pixels: np.ndarray  # [N, 2]
    reprojected: np.ndarray  # [N, 2], NaN for a point behind the camera
    inlier: np.ndarray  # [N] bool

    @property
    def seen_inlier(self) -> np.ndarray:
        """Inliers [N] with a point in front of the camera."""
        return self.inlier & np.isfinite(self.reprojected).all(1)


def draw_overlay(out: Path, photo: Image.Image, points: Reprojection | None, title: str, synthetic: bool) -> None:
    """Write the photo with its keypoints and their reprojected scene coordinates; a note where ``points`` is None."""
    fig, ax = _sheet(*photo.size)
    show_greyed(ax, photo)
    note = "none of the queries was localized: there is no pose to reproject with"
    error, handles = np.empty(0), []
    if points is not None:
        error = np.linalg.norm(points.reprojected - points.pixels, axis=1)[points.seen_inlier]
        note = f"{len(error)} of {len(points.inlier)} keypoints agree with the pose"
        scale_px = max(float(np.quantile(error, 0.98)), 1e-3) if len(error) else 1.0
        shown = draw_keypoints(ax, points, scale_px)
    if len(error):
        note += f", median error {np.median(error):.2g} px"
        fig.colorbar(shown, ax=ax, extend="max", label="reprojection error, px", **_BAR)
        inlier = "inlier: keypoint, with a line to its reprojected scene coordinate"
        style = {"marker": "o", "ls": "-", "lw": 1.3, "ms": 3.5, "color": ERROR_COLOURS(0.4)}
        outlier = {"marker": "x", "ls": "", "ms": 4, "mew": 0.8, "color": _OUTLIER, "alpha": 0.6}
        handles = [Line2D([], [], label=inlier, **style), Line2D([], [], label="outlier", **outlier)]
    _save(out, ax, title, note, synthetic, handles)


def show_greyed(ax: Axes, photo: Image.Image) -> None:
    """The photo greyed and lightened, axes in its pixels: the marks are to be seen, the photo to be recognised."""
    w, h = photo.size
    grey = 0.55 * np.asarray(photo.convert("L"), np.float32) + 0.45 * 255
    style = {"cmap": "gray", "vmin": 0, "vmax": 255, "aspect": "auto", "interpolation": "antialiased"}
    ax.imshow(grey, extent=(0, w, h, 0), **style)
    ax.set(xlim=(0, w), ylim=(h, 0))
    ax.set_axis_off()


def draw_keypoints(ax: Axes, points: Reprojection, scale_px: float, size: float = 9) -> PathCollection:
    """Inliers coloured by reprojection error up to ``scale_px``, with a line to where their scene coordinates fall;
    others as crosses. ``size`` of a mark is in points^2."""
    inlier = points.seen_inlier
    ax.scatter(*points.pixels[~inlier].T, s=12, marker="x", c=_OUTLIER, alpha=0.5, linewidths=0.8, zorder=2)
    error = np.linalg.norm(points.reprojected - points.pixels, axis=1)
    # worst first, so that the good ones are not hidden
    order = np.flatnonzero(inlier)[np.argsort(-error[inlier], kind="stable")]
    norm = Normalize(0, scale_px, clip=True)
    lines = np.stack([points.pixels[order], points.reprojected[order]], 1)
    ax.add_collection(LineCollection(lines, colors=ERROR_COLOURS(norm(error[order])), linewidths=1.3, zorder=3))
    style = {"cmap": ERROR_COLOURS, "norm": norm, "linewidths": 0, "zorder": 4}
    return ax.scatter(*points.pixels[order].T, s=size, c=error[order], **style)


def _sheet(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with axes of the shape width : height."""
    scale = min(8.4 / width, 6.6 / height)  # inches
    fig = Figure((max(scale * width + 1.6, 8.0), scale * height + 1.4), dpi=_DPI, layout="constrained")
    ax = fig.subplots()
    ax.set_box_aspect(height / width)
    return fig, ax


def _save(out: Path, ax: Axes, title: str, note: str, synthetic: bool, handles: list[Line2D]) -> None:
    """Write the picture, with title and note above it and the legend below."""
    fig = ax.figure
    fig.suptitle(title, x=0.005, ha="left", fontsize=12, fontweight="bold")
    ax.set_title(note, loc="left", fontsize=10)
    if handles:
        columns = 2 if len(handles) <= 6 else 3
        fig.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
    if synthetic:
        box = {"facecolor": "white", "edgecolor": "#b30000", "pad": 3, "alpha": 0.9}
        style = {"fontsize": 11, "fontweight": "bold", "color": "#b30000", "bbox": box, "zorder": 7}
        ax.text(0.99, 0.985, "SYNTHETIC", transform=ax.transAxes, ha="right", va="top", **style)
    with atomic_path(Path(out)) as temporary:
        # no version of matplotlib in the file: equal input is equal bytes
        fig.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})
