"""Text: poses, query lists, lists of names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from scrflow.cli.inspection.layout import HEAD, grid_of_pairs, names_of, page, short
from scrflow.cli.inspection.places import box, cameras_of
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_centre
from scrflow.scene.model import read_poses, read_query_list
from scrflow.storage.listfile import read_lines, split_name


def show_text(path: Path) -> RenderableType:
    """Poses, a query list or a list of names, told apart by the fields of the first line; other text by its head."""
    lines = [(number, [name, *fields]) for number, line in read_lines(path) for name, fields in [split_name(line)]]
    if not lines:
        raise ScrflowError(f"{path}: nothing but empty lines and comments")
    size, fields = path.stat().st_size, lines[0][1]
    if len(fields) == 8 and _floats(fields[1:]):
        return page(path, "poses: name qw qx qy qz tx ty tz (cam_from_world)", size, _poses_view(read_poses(path)))
    if len(fields) == 9 and _floats(fields[1:]):
        poses = [f for _, f in lines]
        if not all(len(f) == 9 and _floats(f[1:]) for f in poses):
            raise ScrflowError(f"{path}: expected 'name qw qx qy qz tx ty tz f' on every line")
        grid = grid_of_pairs()
        grid.add_row(f"{len(poses)} names", escape(names_of(f[0] for f in poses)))
        return page(path, "pose list: name qw qx qy qz tx ty tz f", size, grid)
    if len(fields) >= 5 and fields[1].isupper() and fields[2].isdigit():
        cameras = read_query_list(path)
        grid = grid_of_pairs()
        grid.add_row(f"{len(cameras)} queries", escape(names_of(cameras)))
        grid.add_row("cameras", escape(cameras_of(c for c in cameras.values() if c is not None)))
        return page(path, "query list: name MODEL width height params (hloc)", size, grid)
    if all(len(f) == 1 for _, f in lines):
        grid = grid_of_pairs()
        grid.add_row(f"{len(lines)} names", escape(names_of(f[0] for _, f in lines)))
        return page(path, "list of names", size, grid)
    head = Text("\n".join("  " + short(" ".join(f), 110) for _, f in lines[:HEAD]))
    return page(path, f"text, {len(lines)} lines", size, head)


def _floats(fields: list[str]) -> bool:
    try:
        [float(f) for f in fields]
    except ValueError:
        return False
    return True


def _poses_view(poses: dict[str, np.ndarray]) -> Table:
    grid = grid_of_pairs()
    grid.add_row(f"{len(poses)} names", escape(names_of(poses)))
    grid.add_row("centres", box(camera_centre(np.stack(list(poses.values())))))
    return grid
