"""A COLMAP model from arrays of 3D points and measurements.

Millions of measurements cannot go through pycolmap's objects one by one. The model is written in COLMAP's binary form
(colmap.github.io/format.html) and read back.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycolmap

from scrflow.core.geometry import pose_numbers
from scrflow.scene.colmap_file import write_binary_model
from scrflow.scene.model import View, model_of_views, read_model

_POINT2D = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<i8")])
_POINT3D = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("length", "<u8")])
_ELEMENT = np.dtype([("image", "<u4"), ("point2D", "<u4")])
_POINTS_AT_ONCE = 1 << 17


def model_with_points(
    views: Sequence[View], xyz: np.ndarray, rgb: np.ndarray, point: np.ndarray, view: np.ndarray, px: np.ndarray
) -> pycolmap.Reconstruction:
    """The posed ``views`` with the points [P, 3] that at least two of them see.

    Measurement m is of point ``point[m]`` in ``views[view[m]]`` at ``px[m]`` (COLMAP's pixels). A second measurement of
    a point in the same view is left out. Point p has the id p + 1, whatever was left out before it.
    """
    point, view, px = _usable(point, view, px, len(views))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = model_of_views(views)
        write_binary_model(model, folder)
        rank = _write_images(folder / "images.bin", model, views, point, view, px)
        _write_points(folder / "points3D.bin", xyz, rgb, point, view, rank)
        out = read_model(folder)
    out.update_point_3d_errors()
    return out


def _usable(
    point: np.ndarray, view: np.ndarray, px: np.ndarray, views: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measurements sorted by point, one a point and view, of points with at least two."""
    _, first = np.unique(point * views + view, return_index=True)
    point, view, px = point[first], view[first], px[first]
    kept = np.bincount(point)[point] >= 2 if len(point) else np.zeros(0, bool)
    return point[kept], view[kept], px[kept]


def _write_images(
    path: Path,
    model: pycolmap.Reconstruction,
    views: Sequence[View],
    point: np.ndarray,
    view: np.ndarray,
    px: np.ndarray,
) -> np.ndarray:
    """Write images.bin; rank [M] of each measurement among those of its view."""
    order = np.argsort(view, kind="stable")
    ends = np.cumsum(np.bincount(view, minlength=len(views)))
    starts = ends - np.bincount(view, minlength=len(views))
    rank = np.empty(len(view), np.int64)
    rank[order] = np.arange(len(view)) - starts[view[order]]
    rows = np.empty(len(view), _POINT2D)
    rows["x"], rows["y"], rows["point"] = px[order, 0], px[order, 1], point[order] + 1
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(views)))
        for i, v in enumerate(views):  # model_of_views numbers images from 1 in this order
            f.write(struct.pack("<I7dI", i + 1, *pose_numbers(v.cam_from_world), model.image(i + 1).camera_id))
            f.write(v.name.encode() + b"\0" + struct.pack("<Q", ends[i] - starts[i]))
            f.write(rows[starts[i] : ends[i]].tobytes())
    return rank


def _write_points(
    path: Path, xyz: np.ndarray, rgb: np.ndarray, point: np.ndarray, view: np.ndarray, rank: np.ndarray
) -> None:
    ids, starts, lengths = np.unique(point, return_index=True, return_counts=True)
    head = np.zeros(len(ids), _POINT3D)
    head["id"], head["xyz"], head["rgb"], head["error"], head["length"] = ids + 1, xyz[ids], rgb[ids], -1.0, lengths
    elements = np.empty(len(point), _ELEMENT)
    elements["image"], elements["point2D"] = view + 1, rank
    size, step = _POINT3D.itemsize, _ELEMENT.itemsize
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(ids)))
        for at in range(0, len(ids), _POINTS_AT_ONCE):
            part = slice(at, at + _POINTS_AT_ONCE)
            n = lengths[part]
            begin = np.cumsum(size + step * n) - (size + step * n)  # byte of each record in this part
            buffer = np.empty(int((size + step * n).sum()), np.uint8)
            buffer[begin[:, None] + np.arange(size)] = head[part].view(np.uint8).reshape(-1, size)
            tracks = elements[starts[at] : starts[at] + int(n.sum())]
            of = np.repeat(np.arange(len(n)), n)
            where = begin[of] + size + step * (np.arange(len(of)) - (np.cumsum(n) - n)[of])
            buffer[where[:, None] + np.arange(step)] = tracks.view(np.uint8).reshape(-1, step)
            f.write(buffer.tobytes())
