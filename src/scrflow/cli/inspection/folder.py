"""Folders: scenes, COLMAP models, results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import RenderableType
from rich.markup import escape

from scrflow.cli.inspection.layout import ROWS, grid_of_pairs, names_of, page, size_of, stamp_view
from scrflow.cli.inspection.places import box, cameras_of
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_centre
from scrflow.scene.model import load_scene, read_model


def show_folder(path: Path) -> RenderableType:
    """A scene, a COLMAP model, or a list of what is in a folder."""
    size = _bytes_in(path)
    if (path / "scene.json").exists():
        return _scene(path, size)
    if any((path / f"cameras{suffix}").exists() for suffix in (".bin", ".txt")):
        return _model(path, size)
    entries = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    if not entries:
        raise ScrflowError(f"{path}: empty folder")
    grid = grid_of_pairs()
    for entry in entries[:ROWS]:
        grid.add_row(escape(entry.name + ("/" if entry.is_dir() else "")), size_of(_bytes_in(entry)))
    if len(entries) > ROWS:
        grid.add_row("...", f"{len(entries) - ROWS} more")
    return page(path, "folder; inspect what is in it", size, grid)


def _bytes_in(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def _scene(path: Path, size: int) -> RenderableType:
    scene = load_scene(path)
    stamp = stamp_view(scene.stamp.to_json(), path / "scene.json")
    grid = grid_of_pairs()
    grid.add_row("images", escape(str(scene.image_root)))
    grid.add_row(f"{len(scene.mapping)} mapping", escape(names_of(v.name for v in scene.mapping)))
    grid.add_row("cameras", escape(cameras_of(v.camera for v in scene.mapping)))
    if scene.mapping:
        centres = camera_centre(np.stack([v.cam_from_world for v in scene.mapping]))
        grid.add_row(f"centres, {scene.unit}", box(centres))
    conditions: dict[str, int] = {}
    for query in scene.queries:
        conditions[query.condition] = conditions.get(query.condition, 0) + 1
    grid.add_row(f"{len(scene.queries)} queries", escape(names_of(q.name for q in scene.queries)))
    grid.add_row("conditions", escape(", ".join(f"{n} {c}" for c, n in sorted(conditions.items()))))
    grid.add_row("with pose", f"{len(scene.query_poses)} of {len(scene.queries)} queries")
    return page(path, "scene", size, stamp, grid)


def _model(path: Path, size: int) -> RenderableType:
    model = read_model(path)
    grid = grid_of_pairs()
    images = [model.image(i) for i in model.reg_image_ids()]
    grid.add_row(f"{len(images)} images", escape(names_of(sorted(im.name for im in images))))
    grid.add_row("cameras", escape(cameras_of(model.cameras.values())))
    if images:
        grid.add_row("centres", box(np.array([im.projection_center() for im in images])))
    if len(model.points3D):
        grid.add_row(
            "points",
            f"{len(model.points3D)}, mean track {model.compute_mean_track_length():.2f}, "
            f"mean reprojection error {model.compute_mean_reprojection_error():.3f} px",
        )
    else:
        grid.add_row("points", "none")
    return page(path, "COLMAP model", size, grid)
