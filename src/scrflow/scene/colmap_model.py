"""COLMAP models: read, written, made of posed views, and made of arrays of points and measurements.

pycolmap 4.2 trusts the counts in a binary file: a truncated one gives garbage or exhausts memory. So each file is
walked once by its own counts (colmap.github.io/format.html) and must end where its last record ends.
"""

import copy
import mmap
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from scrflow.core.errors import ScrflowError, full_disk_error
from scrflow.scene.lists import camera_of_fields, check_focal, finite_numbers
from scrflow.storage.artifact import folder_digest, read_json
from scrflow.storage.checksum import what_to_delete
from scrflow.storage.listfile import read_lines, read_text

MODEL_DIGEST = "model"  # the key of folder_digest in what a stage writes beside a COLMAP model
WRITTEN = {"sfm.json": "sfm", "triangulation.json": "triangulation"}  # file -> kind


@dataclass(frozen=True, eq=False)
class View:
    """An image with its camera and its pose."""

    name: str  # relative to the folder of images
    camera: pycolmap.Camera
    cam_from_world: np.ndarray | None  # [3, 4] float64; None only in a reader's Collection: no pose known


def read_model(folder: Path) -> pycolmap.Reconstruction:
    """A COLMAP model (bin or text), with or without points3D; ScrflowError when a file is missing or damaged."""
    folder = Path(folder)
    _check_own_model(folder)  # first: for a stage's own model the error names the folder to delete
    suffix = next((s for s in (".bin", ".txt") if (folder / f"cameras{s}").is_file()), None)
    if suffix is None:
        raise ScrflowError(f"{folder}: no COLMAP model; put cameras and images (.bin or .txt) there")
    if not (folder / f"images{suffix}").is_file():
        raise ScrflowError(f"{folder / f'images{suffix}'}: file of the COLMAP model is missing; copy it there")
    if suffix == ".bin":
        for path, fault in _faults(folder):
            raise ScrflowError(f"{path}: damaged: {fault}; copy the COLMAP model again")
    model, names = pycolmap.Reconstruction(), {}
    with tempfile.TemporaryDirectory(prefix="scrflow-model-") as temporary:
        at = folder
        if suffix == ".txt":
            at, names = Path(temporary), _plain_text(folder, Path(temporary))
        elif not (folder / "points3D.bin").is_file():
            at = Path(temporary)
            _without_points(folder, at)
        try:
            (model.read_binary if suffix == ".bin" else model.read_text)(str(at))
            for image_id, name in names.items():
                model.image(image_id).name = name
        except Exception as error:  # pycolmap raises RuntimeError, ValueError or IndexError
            message = " ".join(str(error).replace(temporary, str(folder)).split()) or type(error).__name__
            raise ScrflowError(f"{folder}: COLMAP model cannot be read ({message}); copy or build it again") from None
    for image_id, image in model.images.items():
        try:
            image.name  # noqa: B018 - pycolmap decodes it now
        except UnicodeDecodeError:
            raise ScrflowError(f"{folder}: name of image {image_id} is not UTF-8; rename it") from None
    for camera_id, camera in model.cameras.items():
        check_focal(camera, f"{folder}: camera {camera_id}")
    return model


def _check_own_model(folder: Path) -> None:
    """ScrflowError where a model that a stage of this package wrote has changed since."""
    for name, kind in WRITTEN.items():
        report = folder / name
        if report.exists() and folder_digest(folder, name) != read_json(report, kind).get(MODEL_DIGEST):
            raise ScrflowError(
                f"{folder}: damaged: its files are not those that were written with {name}; delete "
                f"{what_to_delete(report)} and run again"
            )


_CAMERA_FORM = "CAMERA_ID MODEL WIDTH HEIGHT PARAMS..."
_IMAGE_FORM = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
_POINT_FORM = "POINT3D_ID X Y Z R G B ERROR IMAGE_ID POINT2D_IDX ..."


def _plain_text(folder: Path, out: Path) -> dict[int, str]:
    """Write a text model to ``out`` as pycolmap reads it, and give the images' names by their ids.

    pycolmap wants a second line after each image, no byte-order mark, and names without blanks. ScrflowError naming the
    line that is wrong.
    """
    path, cameras = folder / "cameras.txt", {}
    for number, line in read_lines(path):
        where, fields = f"{path}: line {number}", line.split()
        if len(fields) < 5:
            raise _bad_line(where, _CAMERA_FORM, line)
        camera_id = _whole(fields[0], where, _CAMERA_FORM, line)
        if camera_id in cameras:
            raise ScrflowError(f"{where}: camera {camera_id} is listed twice; remove one line")
        camera = camera_of_fields(fields[1:], where)
        cameras[camera_id] = f"{camera_id} {camera.model.name} {camera.width} {camera.height} {' '.join(fields[4:])}"
    (out / "cameras.txt").write_text("\n".join([*cameras.values(), ""]), encoding="utf-8")

    points = []
    path = folder / "points3D.txt"
    for number, line in read_lines(path) if path.is_file() else ():
        length = len(line.split())
        if length < 8 or length % 2:
            raise _bad_line(f"{path}: line {number}", _POINT_FORM, line)
        points.append(line)
    (out / "points3D.txt").write_text("\n".join([*points, ""]), encoding="utf-8")

    path, names, rows = folder / "images.txt", {}, []
    text = [(n, line.strip()) for n, line in enumerate(read_text(path).split("\n"), start=1)]
    lines = [(n, line) for n, line in text if not line.startswith("#")]
    after_image = False
    for number, line in lines:
        if after_image and (not line or (_is_points(line) and not _is_nameless(line, cameras))):
            rows[-1] = line if points else ""  # without 3D points COLMAP cannot take their ids
            after_image = False
            continue
        if not line:
            continue
        where, fields = f"{path}: line {number}", line.split(None, 9)
        numbers = finite_numbers(fields[1:8]) if len(fields) == 10 else None
        if numbers is None or not numbers[:4].any():
            raise _bad_line(where, _IMAGE_FORM, line)
        image_id, camera_id = (_whole(fields[i], where, _IMAGE_FORM, line) for i in (0, 8))
        if image_id in names:
            raise ScrflowError(f"{where}: image {image_id} is listed twice; remove one")
        if camera_id not in cameras:
            raise ScrflowError(
                f"{where}: camera {camera_id} is not in cameras.txt; correct the line, or add the camera"
            )
        names[image_id] = fields[9]
        rows += [" ".join((str(image_id), *fields[1:8], str(camera_id), fields[9].split()[0])), ""]
        after_image = True
    (out / "images.txt").write_text("\n".join([*rows, ""]), encoding="utf-8")
    for name in ("rigs.txt", "frames.txt"):
        if (folder / name).is_file():
            kept = [line for _, line in read_lines(folder / name)]
            (out / name).write_text("\n".join([*kept, ""]), encoding="utf-8")
    return names


def _is_points(line: str) -> bool:
    """Whether a line is of X Y POINT3D_ID and so on. The line of an image has a name, or ten numbers."""
    fields = line.split()
    return len(fields) % 3 == 0 and finite_numbers(fields[:10]) is not None


def _is_nameless(line: str, cameras: Container[int]) -> bool:
    """Whether a line of nine numbers is that of an image without its name, not of three points."""
    fields = line.split()
    whole = len(fields) == 9 and fields[0].isdecimal() and fields[8].isdecimal() and int(fields[8]) in cameras
    return whole and abs(np.linalg.norm(np.array(fields[1:5], np.float64)) - 1) < 1e-3


def _whole(field: str, where: str, form: str, line: str) -> int:
    if not field.removesuffix(".0").isdecimal() or len(field) > 12:
        raise _bad_line(where, form, line)
    return int(field.removesuffix(".0"))


def _bad_line(where: str, form: str, line: str) -> ScrflowError:
    return ScrflowError(f"{where}: expected {form!r}, found {line[:80]!r}; correct the line")


def _without_points(folder: Path, out: Path) -> None:
    """Write a binary model without points3D to ``out``: its images without measurements, as they name 3D points."""
    for name in ("cameras.bin", "rigs.bin", "frames.bin"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    (out / "points3D.bin").write_bytes(_COUNT.pack(0))
    with open(folder / "images.bin", "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        images, at = data[: _COUNT.size], _COUNT.size
        while at < len(data):
            named = data.find(b"\0", at + _IMAGE.size) + 1
            images += data[at:named] + _COUNT.pack(0)
            at = _after_image(data, at)
    (out / "images.bin").write_bytes(images)


def views_of_model(model: pycolmap.Reconstruction) -> tuple[View, ...]:
    """The registered images of a COLMAP model, sorted by name, with cameras that do not depend on it."""
    cameras = {i: copy_camera(c, i) for i, c in model.cameras.items()}
    images = [model.image(i) for i in model.reg_image_ids()]
    views = [View(im.name, cameras[im.camera_id], np.array(im.cam_from_world().matrix(), np.float64)) for im in images]
    return tuple(sorted(views, key=lambda v: v.name))


def copy_camera(camera: pycolmap.Camera, camera_id: int = 1) -> pycolmap.Camera:
    """The same camera under an id of its own, independent of the model that it came from."""
    copied = copy.deepcopy(camera)
    copied.camera_id = camera_id
    return copied


def write_binary_model(model: pycolmap.Reconstruction, folder: Path) -> None:
    """Write the model to the folder. OSError or ScrflowError for a failed write, which pycolmap 4.2 does not report."""
    model.write_binary(os.fspath(folder))
    for path, fault in _faults(Path(folder)):
        raise full_disk_error(path) or ScrflowError(
            f"{path}: was not written whole ({fault}); check the disk and the quota, and run again"
        )


def figures(model: pycolmap.Reconstruction) -> dict[str, int | float]:
    """What a stage tells of the model that it has made."""
    return {
        "points": model.num_points3D(),
        "observations": model.compute_num_observations(),
        "mean_reprojection_error_px": round(float(model.compute_mean_reprojection_error()), 6),
        "mean_track_length": round(float(model.compute_mean_track_length()), 6),
    }


def model_of_views(views: Sequence[View]) -> pycolmap.Reconstruction:
    """A COLMAP model without points; equal cameras are stored once."""
    model = pycolmap.Reconstruction()
    camera_ids: dict[tuple, int] = {}
    for image_id, view in enumerate(views, start=1):
        c = view.camera
        key = (c.model.name, c.width, c.height, *np.asarray(c.params).tolist())
        if key not in camera_ids:
            camera_ids[key] = len(camera_ids) + 1
            model.add_camera_with_trivial_rig(copy_camera(c, camera_ids[key]))
        image = pycolmap.Image(name=view.name, camera_id=camera_ids[key], image_id=image_id)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(np.asarray(view.cam_from_world, np.float64)))
    return model


def model_with_points(
    views: Sequence[View], xyz: np.ndarray, rgb: np.ndarray, point: np.ndarray, view: np.ndarray, px: np.ndarray
) -> pycolmap.Reconstruction:
    """The posed ``views`` with the points [P, 3] that at least two of them see.

    Measurement m is of point ``point[m]`` in ``views[view[m]]`` at ``px[m]`` (COLMAP's pixels); a second one of a point
    in the same view is left out. Point p has the id p + 1.
    """
    _, first = np.unique(point * len(views) + view, return_index=True)  # sorted by point
    kept = first[np.bincount(point[first])[point[first]] >= 2]
    point, view, px = point[kept], view[kept], px[kept]
    model = model_of_views(views)  # numbers images from 1 in this order
    rank = np.empty(len(view), np.int64)  # of each measurement among those of its view
    ends = np.cumsum(np.bincount(view, minlength=len(views)))
    for i, mine in enumerate(np.split(np.argsort(view, kind="stable"), ends[:-1])):
        rank[mine] = np.arange(len(mine))
        model.image(i + 1).points2D = pycolmap.Point2DList([pycolmap.Point2D(xy) for xy in px[mine]])
    ids, starts = np.unique(point, return_index=True)
    for p, rows in zip(ids.tolist(), np.split(np.arange(len(point)), starts[1:]), strict=False):  # none of no points
        track = pycolmap.Track([pycolmap.TrackElement(view[m] + 1, rank[m]) for m in rows])
        model.add_point3D_with_id(p + 1, pycolmap.Point3D(xyz=xyz[p], color=rgb[p], track=track))
    model.update_point_3d_errors()
    return model


_COUNT = struct.Struct("<Q")
_CAMERA = struct.Struct("<IiQQ")  # id, model, width, height; then the parameters
_IMAGE = struct.Struct("<I7dI")  # id, pose, camera; then the name and its zero
_RIG = struct.Struct("<II")  # id, sensors
_POINT2D, _POINT3D, _ELEMENT = 24, 51, 8  # a point ends with the length of its track
_SENSOR, _POSE = 8, 56
_FRAME = struct.Struct("<II7dI")  # id, rig, pose, data
_DATUM = 16
_LONGEST_NAME = 4096
_PARAMS = {
    int(model): len(pycolmap.Camera.create_from_model_id(0, model, 1.0, 1, 1).params)
    for name, model in pycolmap.CameraModelId.__members__.items()
    if name != "INVALID"
}


def _faults(folder: Path) -> Iterator[tuple[Path, str]]:
    """The files of a binary model that are damaged, and how."""
    for name, (what, end) in _RECORDS.items():
        path = folder / f"{name}.bin"
        if path.is_file() and (fault := _fault(path, what, end)):
            yield path, fault


def _fault(path: Path, what: str, end: Callable[[mmap.mmap, int], int]) -> str | None:
    size = path.stat().st_size
    if size < _COUNT.size:
        return "under 8 bytes"
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        (count,) = _COUNT.unpack_from(data)
        at = _COUNT.size
        for i in range(count):
            try:
                at = end(data, at)
            except struct.error:
                at = size + 1
            except ValueError as error:
                return f"{what} {i + 1} of {count}: {error}"
            if at > size:
                return f"ends within {what} {i + 1} of {count}"
    return f"{size - at} bytes after {what} {count} of {count}" if at < size else None


# Each of these takes the byte that a record begins at and gives the byte after the record.
def _after_camera(data: mmap.mmap, at: int) -> int:
    model = _CAMERA.unpack_from(data, at)[1]
    if model not in _PARAMS:
        raise ValueError(f"no camera model {model}")
    return at + _CAMERA.size + 8 * _PARAMS[model]


def _after_image(data: mmap.mmap, at: int) -> int:
    name = at + _IMAGE.size
    zero = data.find(b"\0", name, name + _LONGEST_NAME)
    if zero < 0:
        if name + _LONGEST_NAME < len(data):
            raise ValueError(f"its name has no end within {_LONGEST_NAME} bytes")
        return len(data) + 1
    (points,) = _COUNT.unpack_from(data, zero + 1)
    return zero + 1 + _COUNT.size + _POINT2D * points


def _after_point(data: mmap.mmap, at: int) -> int:
    (length,) = _COUNT.unpack_from(data, at + _POINT3D - _COUNT.size)
    return at + _POINT3D + _ELEMENT * length


def _after_rig(data: mmap.mmap, at: int) -> int:
    _, sensors = _RIG.unpack_from(data, at)
    at += _RIG.size + (_SENSOR if sensors else 0)
    for _ in range(1, sensors):
        if at + _SENSOR >= len(data):
            return len(data) + 1
        at += _SENSOR + 1 + (_POSE if data[at + _SENSOR] else 0)
    return at


def _after_frame(data: mmap.mmap, at: int) -> int:
    return at + _FRAME.size + _DATUM * _FRAME.unpack_from(data, at)[-1]


_RECORDS: dict[str, tuple[str, Callable[[mmap.mmap, int], int]]] = {
    "cameras": ("camera", _after_camera),
    "images": ("image", _after_image),
    "points3D": ("point", _after_point),
    "rigs": ("rig", _after_rig),
    "frames": ("frame", _after_frame),
}
