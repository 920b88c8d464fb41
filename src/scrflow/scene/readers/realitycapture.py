"""RealityCapture (RealityScan): a CSV file of internal and external camera parameters.

``#name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2``: camera centre, angles in degrees, focal length in mm of
a 36 mm wide film, principal point from the image's centre as a share of its longer side, Brown's distortion.
world_from_cam with OpenGL axes is Rz(-heading) Rx(pitch) Ry(roll).
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap
from pydantic import Field
from scipy.spatial.transform import Rotation

from scrflow.config import Source
from scrflow.core.errors import ScrflowError
from scrflow.scene.lists import finite_numbers
from scrflow.scene.readers import MODEL, Collection, Found
from scrflow.scene.readers.detection import files_like, root_of
from scrflow.scene.readers.posed import OPENCV_FROM_OPENGL, Posed, collect, rigid
from scrflow.storage.listfile import read_text


class RealityCaptureSource(Source):
    """RealityCapture: CSV of internal and external camera parameters."""

    reader: Literal["realitycapture"]
    csv: str = Field(description="the file, relative to root")

    def files(self, root: Path) -> list[Path]:
        return [root / self.csv]


SOURCE = RealityCaptureSource
_NEEDED = ("x", "y", "alt", "heading", "pitch", "roll", "f")
_FILM_MM = 36.0


def detect(path: Path) -> Found | None:
    for file in files_like(path, "*.csv"):
        try:
            rows = _rows(file)
        except ScrflowError:
            continue
        root = root_of(path, file, [row["name"] for _, row in rows])
        source = {"reader": "realitycapture", "csv": file.relative_to(root).as_posix()}
        return Found("RealityCapture", root, source, f"{file.name} with {len(rows)} cameras", "unit", MODEL)
    return None


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line number, field by column) of the file's lines."""
    lines = read_text(path).split("\n")
    columns = [c.strip().lower() for c in lines[0].lstrip("#").split(",")]
    if columns[0] != "name" or not set(_NEEDED) <= set(columns):
        raise ScrflowError(
            f"{path}: line 1: expected '#name,x,y,alt,heading,pitch,roll,f,px,py,k1,...' (internal/external camera "
            "parameters); export it again"
        )
    rows = []
    for number, fields in enumerate(csv.reader(lines[1:]), start=2):
        if any(field.strip() for field in fields):
            if len(fields) != len(columns):
                raise ScrflowError(f"{path}: line {number}: {len(fields)} fields, expected {len(columns)}; correct it")
            rows.append((number, dict(zip(columns, (f.strip() for f in fields), strict=True))))
    return rows


def read(source: RealityCaptureSource, root: Path, sfm_model: Path | None = None) -> Collection:
    """All cameras of the file; names are relative to root."""
    path = root / source.csv
    photos = []
    for number, row in _rows(path):
        where = f"{path}: line {number}: {row['name']}"
        keys = [key for key in row if key != "name"]
        values = finite_numbers([row[key] or "0" for key in keys])
        if values is None:
            raise ScrflowError(f"{where}: expected finite numbers after the name; correct the line")
        n = dict(zip(keys, values, strict=True))
        turn = Rotation.from_euler("ZXY", [-n["heading"], n["pitch"], n["roll"]], degrees=True).as_matrix()
        pose = rigid((turn * OPENCV_FROM_OPENGL).T, np.array([n["x"], n["y"], n["alt"]]))
        photos.append(Posed(row["name"], pose, _camera_of(n, where), where))
    return collect(path, root, photos, source.skip_missing)


def _camera_of(n: dict[str, float], where: str):
    def camera(size: tuple[int, int]) -> pycolmap.Camera:
        longer = max(size)
        principal = [n.get("px", 0) * longer + size[0] / 2, n.get("py", 0) * longer + size[1] / 2]
        if n.get("k4", 0):
            raise ScrflowError(f"{where}: k4 has no COLMAP model; align again with Brown's model of three coefficients")
        k1, k2, k3, t1, t2 = (n.get(key, 0) for key in ("k1", "k2", "k3", "t1", "t2"))
        params = [n["f"] * longer / _FILM_MM] * 2 + principal
        if not any((k1, k2, k3, t1, t2)):
            return pycolmap.Camera(model="PINHOLE", width=size[0], height=size[1], params=params)
        params += [k1, k2, t1, t2, k3, 0, 0, 0]
        return pycolmap.Camera(model="FULL_OPENCV", width=size[0], height=size[1], params=params)

    return camera
