"""A VisualSFM model (NVM_V3) with an image folder; published intrinsics may stand in for its cameras.

**The file.** A camera is ``name focal qw qx qy qz cx cy cz radial 0``: rotation world to camera, camera centre. A point
is ``x y z r g b n`` and n times ``image feature x y``. The first model of the file counts.

**Distortion.** VisualSFM keeps a *measurement* distortion: of a measurement m (px from the principal point), m (1 + r
|m|^2 / f^2) is the undistorted one (C. Wu, Multicore bundle adjustment: SetNormalizedMeasurementDistortion). COLMAP's
polynomials run the other way, so ``radial_camera`` fits RADIAL, or else FULL_OPENCV, to 0.1 px.

**Measurements.** VisualSFM writes them from the principal point, COLMAP's export from the top-left corner
(github.com/colmap/colmap/issues/946). The reading with the smaller median residual of the projected points is taken.
VisualSFM's image centre (w/2, h/2) is COLMAP's: no half pixel between them.
"""

import logging
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
import pycolmap
from pydantic import Field

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_points, pixels_from_points, rotation_from_quaternion
from scrflow.core.images import image_size
from scrflow.scene.checks import QUATERNION_TOLERANCE, check_unique, some
from scrflow.scene.colmap_model import View, model_with_points
from scrflow.scene.lists import PhotoNames, centred_camera, finite_numbers, read_photo_list
from scrflow.scene.readers import MODEL, Collection, Found, Reader, missing
from scrflow.scene.readers.shared import files_like, first_lines, model_and_images
from scrflow.storage.listfile import open_text

log = logging.getLogger("scrflow")


class NvmSource(Reader):
    """A VisualSFM model (NVM_V3) with an image folder."""

    file_keys = ("model", "intrinsics")
    reader: Literal["nvm"]
    model: str = Field(description="the .nvm file, relative to root")
    images: str = Field("images", description="folder that the model's image names are relative to")
    intrinsics: str | None = Field(
        None, description="list of lines 'name MODEL width height params' that stands in for the model's cameras"
    )
    points: bool = Field(True, description="keep the model's 3D points")

    def has_points(self, root: Path) -> bool:
        return self.points

    @classmethod
    def detect(cls, path: Path) -> Found | None:
        files = files_like(path, "*.nvm")
        if not files:
            return None
        model = max(files, key=lambda p: p.stat().st_size)
        rows = [line.rsplit(None, 10) for line in first_lines(model)]
        names = [row[0].replace('"', " ") for row in rows[1:] if len(row) == 11]
        root, keys = model_and_images(path if path.is_dir() else path.parent, model, names)
        return Found("NVM", root, {"reader": "nvm", **keys}, model.name, "unit", MODEL)

    def read(self, root: Path) -> Collection:
        """All cameras of the model, with its 3D points where ``points`` says so."""
        path = root / self.model
        nvm, photos = read_nvm(path, self.points), PhotoNames(root / self.images)
        nvm = replace(nvm, names=tuple(photos.find(name, path) or name for name in nvm.names))
        check_unique(nvm.names, str(path))
        poses = poses_of(nvm, path)
        gone = missing(self, root / self.images, nvm.names, path)
        there = [i for i, name in enumerate(nvm.names) if name not in gone]
        if self.intrinsics is not None:
            listed = read_photo_list(root / self.intrinsics, photos)
            unlisted = [name for name in nvm.names if listed.get(name) is None]
            if unlisted:
                raise ScrflowError(
                    f"{root / self.intrinsics}: no intrinsics of {some(unlisted)}, which {path} has; add 'name MODEL w "
                    "h params'"
                )
            cameras = [listed[nvm.names[i]] for i in there]
        else:
            sizes = [image_size(root / self.images / nvm.names[i]) for i in there]
            cameras = [
                radial_camera(*size, nvm.focal[i], nvm.radial[i], f"{path}: {nvm.names[i]}")
                for i, size in zip(there, sizes, strict=True)
            ]
        views = tuple(View(nvm.names[i], camera, poses[i]) for i, camera in zip(there, cameras, strict=True))
        row = np.full(len(nvm.names), -1)
        row[there] = np.arange(len(there))
        model = model_of_nvm(nvm, views, row, path) if self.points and views else None
        return Collection(path, root / self.images, views, model=model, absent=len(gone))


MAX_FIT_PX = 0.1
_MAX_MEDIAN_PX = 4.0  # a bundle-adjusted model has about one; poses, cameras and points of different models hundreds
_SAMPLED = 20_000
_FIT_SAMPLES = 400


@dataclass(frozen=True, eq=False)
class NvmModel:
    """N cameras; P points with M measurements, those of a point one after the other."""

    names: tuple[str, ...]  # [N]
    focal: np.ndarray  # [N] px
    quaternion: np.ndarray  # [N, 4] w x y z, world to camera, as written (not normalised)
    centre: np.ndarray  # [N, 3] in the world
    radial: np.ndarray  # [N]
    xyz: np.ndarray  # [P, 3]
    rgb: np.ndarray  # [P, 3] uint8
    point: np.ndarray  # [M] int64, index into xyz
    image: np.ndarray  # [M] int64, index into names
    xy: np.ndarray  # [M, 2] float64, as written


def poses_of(nvm: NvmModel, path: Path) -> np.ndarray:
    """cam_from_world [N, 3, 4]; ScrflowError for a quaternion that is none."""
    length = np.linalg.norm(nvm.quaternion, axis=1)
    wrong = np.flatnonzero(~(np.abs(length - 1) <= QUATERNION_TOLERANCE))
    if len(wrong):
        i = int(wrong[0])
        raise ScrflowError(f"{path}: {nvm.names[i]}: quaternion has length {length[i]:.4g}, expected 1; correct it")
    R = rotation_from_quaternion(nvm.quaternion)
    return np.concatenate([R, -R @ nvm.centre[:, :, None]], 2)


def radial_camera(width: int, height: int, focal: float, r: float, where: str) -> pycolmap.Camera:
    """The COLMAP camera of VisualSFM's focal length (px) and radial distortion; see the module's note."""
    camera = centred_camera(focal, (width, height))
    if not focal > 0:
        raise ScrflowError(f"{where}: focal length {focal:g} px, expected a positive number; correct the model")
    if r == 0:
        return camera
    centre = camera.params[1:]
    measured = np.linspace(0, np.hypot(*centre) / focal, _FIT_SAMPLES + 1)[1:]
    ideal = measured * (1 + r * measured**2)
    residual = np.inf
    if (np.diff(ideal) > 0).all():  # otherwise two pixels would show one direction
        for model in ("RADIAL", "FULL_OPENCV"):
            params, residual = _fit(model, ideal, measured)
            if residual * focal <= MAX_FIT_PX:
                focals = [focal] if model == "RADIAL" else [focal, focal]
                return pycolmap.Camera(model=model, width=width, height=height, params=[*focals, *centre, *params])
    raise ScrflowError(
        f"{where}: radial distortion {r:g} at focal length {focal:g} px has no COLMAP camera within {MAX_FIT_PX} px "
        f"over {width}x{height} px (residual {residual * focal:.3g}); give intrinsics, or take the image out"
    )


def _fit(model: str, ideal: np.ndarray, measured: np.ndarray) -> tuple[list[float], float]:
    """(distortion parameters, largest residual on the plane z = 1) by linear least squares.

    RADIAL: measured = ideal (1 + k1 s + k2 s^2) with s = ideal^2; FULL_OPENCV has a denominator 1 + k4 s + k5 s^2 too.
    """
    powers = ideal[:, None] ** np.array([2, 4])
    columns = [ideal[:, None] * powers]
    if model == "FULL_OPENCV":
        columns.append(-measured[:, None] * powers)
    k = np.linalg.lstsq(np.concatenate(columns, 1), measured - ideal, rcond=None)[0]
    below = 1 + powers @ k[2:] if model == "FULL_OPENCV" else 1.0
    residual = float(np.abs(ideal * (1 + powers @ k[:2]) / below - measured).max())
    if model == "RADIAL":
        return [float(v) for v in k], residual
    k1, k2, k4, k5 = (float(v) for v in k)
    return [k1, k2, 0.0, 0.0, 0.0, k4, k5, 0.0], residual


def model_of_nvm(nvm: NvmModel, views: Sequence[View], row: np.ndarray, path: Path) -> pycolmap.Reconstruction:
    """COLMAP model of the views with the file's points; ScrflowError where they do not fit cameras and poses.

    ``row`` [N]: index into ``views`` of each camera, or -1.
    """
    used = row[nvm.image] >= 0
    point, view, xy = nvm.point[used], row[nvm.image[used]], nvm.xy[used]
    if len(point):
        xy = xy + _origin(nvm, views, point, view, xy, path)[view]
    model = model_with_points(views, nvm.xyz, nvm.rgb, point, view, xy)
    log.info("%s: %d images, %d points, %d measurements", path, len(views), model.num_points3D(), len(point))
    return model


def _origin(
    nvm: NvmModel, views: Sequence[View], point: np.ndarray, view: np.ndarray, xy: np.ndarray, path: Path
) -> np.ndarray:
    """What is to be added [V, 2] to the measurements of each view to make them COLMAP's pixels."""
    centre = np.array([[v.camera.principal_point_x, v.camera.principal_point_y] for v in views])
    some_of = np.linspace(0, len(point) - 1, min(len(point), _SAMPLED)).astype(np.int64)
    some_of = some_of[np.argsort(view[some_of], kind="stable")]
    offset = np.full((len(some_of), 2), np.inf)  # measurement - projection; infinite where it cannot be projected
    for part in np.split(np.arange(len(some_of)), np.flatnonzero(np.diff(view[some_of])) + 1):
        m = some_of[part]
        pose = views[view[m[0]]].cam_from_world
        local = camera_points(nvm.xyz[point[m]], pose)
        offset[part] = xy[m] - pixels_from_points(views[view[m[0]]].camera, local)
    offset[~np.isfinite(offset).all(1)] = np.inf
    readings = {"from the principal point": offset + centre[view[some_of]], "from the top-left corner": offset}
    medians = {name: float(np.median(np.linalg.norm(values, axis=1))) for name, values in readings.items()}
    best = min(medians, key=medians.__getitem__)
    if not medians[best] <= _MAX_MEDIAN_PX:
        raise ScrflowError(
            f"{path}: its points are {medians[best]:.3g} px (median) from their measurements, expected under "
            f"{_MAX_MEDIAN_PX:g}: cameras, poses and points do not fit; correct them, or set source.points: false"
        )
    x, y = np.median(readings[best], axis=0)
    log.info("%s: measurements %s; median residual %.2f px, offset %.2f %.2f px", path, best, medians[best], x, y)
    return centre if best == "from the principal point" else np.zeros_like(centre)


_LONGEST_COUNT = 18  # digits
_HEAD = 7  # numbers of a point before its measurements


def read_nvm(path: Path, points: bool = True) -> NvmModel:
    """The first model of the file, without its points where ``points`` is False. ScrflowError names a damaged line."""
    path = Path(path)
    try:
        with open_text(path) as f:
            lines = _Lines(f, path)
            header = lines.next("the header NVM_V3").split()
            if header != ["NVM_V3"]:
                raise ScrflowError(
                    f"{path}: begins with {header[0][:30]!r} and {len(header) - 1} more fields, expected 'NVM_V3' "
                    "alone (no fixed calibration); save the model again"
                )
            count = lines.count("cameras")
            rows = [_camera(lines.next(f"camera {i + 1} of {count}"), lines.where()) for i in range(count)]
            names = tuple(name for name, _ in rows)
            check_unique(names, str(path))
            values = np.array([row for _, row in rows], np.float64).reshape(count, 10)
            of_points = _points(lines, lines.count("points") if points else 0, count)
            more = ((points and lines.read()) or "0").strip()
            if more.isdecimal() and int(more):
                log.warning("%s: a further model of %s cameras follows; the first is taken", path, more)
    except OSError as error:
        raise ScrflowError(f"{path}: NVM model cannot be read ({error.strerror}); correct the path in source") from None
    return NvmModel(names, values[:, 0], values[:, 1:5], values[:, 5:8], values[:, 8], *of_points)


class _Lines:
    """Lines that are not empty, with their numbers."""

    def __init__(self, file: TextIO, path: Path):
        self.file, self.path, self.number = file, path, 0

    def where(self) -> str:
        return f"{self.path}: line {self.number}"

    def read(self) -> str | None:
        for line in self.file:
            self.number += 1
            if line.strip():
                return line
        return None

    def next(self, what: str) -> str:
        line = self.read()
        if line is None:
            raise ScrflowError(f"{self.path}: ends before {what}; copy the file again")
        return line

    def count(self, what: str) -> int:
        line = self.next(f"the number of {what}").strip()
        if not line.isdecimal() or len(line) > _LONGEST_COUNT:
            raise ScrflowError(f"{self.where()}: {line[:40]!r}, expected the number of {what}; copy the file again")
        return int(line)


def _camera(line: str, where: str) -> tuple[str, list[float]]:
    # VisualSFM separates the name by a tab and writes blanks of a name as quotation marks
    fields = line.rsplit(None, 10)
    values = finite_numbers(fields[1:])
    if values is None or len(values) != 10:
        raise ScrflowError(f"{where}: expected a camera 'name focal qw qx qy qz cx cy cz radial 0'; correct it")
    return fields[0].strip().replace('"', " ").replace("\\", "/"), values.tolist()


def _points(lines: _Lines, count: int, cameras: int) -> tuple[np.ndarray, ...]:
    """(xyz, rgb, point, image, xy) of ``count`` points."""
    numbers, lengths = array("d"), array("q")
    for i in range(count):
        fields = lines.next(f"point {i + 1} of {count}").split()
        try:
            row = list(map(float, fields))
            length = int(row[_HEAD - 1])
        except (ValueError, IndexError, OverflowError):
            row, length = [], 0
        if length < 1 or len(row) != _HEAD + 4 * length or not math.isfinite(sum(row)):
            raise ScrflowError(
                f"{lines.where()}: expected a point 'x y z r g b n' and n times 'image feature x y'; correct it"
            )
        numbers.extend(row)
        lengths.append(length)
    values, n = np.array(numbers, np.float64), np.array(lengths, np.int64)
    starts = np.cumsum(_HEAD + 4 * n) - (_HEAD + 4 * n)
    point = np.repeat(np.arange(count), n)
    first = starts[point] + _HEAD + 4 * (np.arange(len(point)) - (np.cumsum(n) - n)[point])
    image = values[first].astype(np.int64)
    wrong = np.flatnonzero((image < 0) | (image >= cameras))
    if len(wrong):
        raise ScrflowError(
            f"{lines.path}: point {point[wrong[0]] + 1} names image {image[wrong[0]]} of {cameras}; copy it again"
        )
    rgb = np.clip(values[starts[:, None] + (3, 4, 5)], 0, 255).astype(np.uint8)
    return values[starts[:, None] + (0, 1, 2)], rgb, point, image, values[first[:, None] + (2, 3)]
