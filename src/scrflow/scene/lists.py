"""Text of datasets: lines of names, poses, cameras, tables, arrays and JSON; and which photo a name in them means.

``scrflow.storage.listfile`` reads the text itself, and tells a name from the fields after it.
"""

import json
import logging
import os
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pose_numbers, rotation_from_quaternion
from scrflow.scene.checks import checked_quaternion, checked_size
from scrflow.storage.listfile import has_suffix, listed, read_lines, read_text, split_name

log = logging.getLogger("scrflow")
PHOTO_FOLDERS = ("images", "input", "rgb", "color", "photos", "frames")  # usual names of a scene's folder of photos
_MOST = 500_000  # files of a folder that are indexed
_PREFERRED = (".png", ".jpg", ".jpeg")  # of photos that differ by their suffix alone
# infinity and not-a-number as Microsoft's C library prints them
_NOT_FINITE = ("#inf", "#ind", "#qnan", "#snan")


def finite_numbers(fields: Sequence[str]) -> np.ndarray | None:
    """The numbers of text fields; None where one is not a finite number."""
    try:
        values = np.array([float(f) for f in fields])
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def read_numbers(path: Path, form: str, header: int = 0) -> dict[str, tuple[str, np.ndarray]]:
    """name -> (file, line and name for errors; numbers) of lines ``name`` and as many finite numbers as ``form``
    names, after ``header`` lines. ScrflowError for a damaged or a double line."""
    out: dict[str, tuple[str, np.ndarray]] = {}
    for number, line in read_lines(path):
        if number <= header:
            continue
        name, fields = split_name(line)
        where = f"{path}: line {number}: {name}"
        values = finite_numbers(fields)
        if values is None or len(values) != len(form.split()):
            raise ScrflowError(f"{where}: expected 'name {form}' with finite numbers; correct or remove the line")
        if name in out:
            raise ScrflowError(f"{where}: listed twice; remove one line")
        out[name] = where, values
    return out


def read_table(path: Path, form: str, least: int | None = None) -> Iterator[tuple[str, list[str]]]:
    """(file and line, stripped fields) of comma-separated lines: as many as ``form`` names, or ``least`` and more."""
    expected = len(form.split(","))
    for number, line in read_lines(path):
        fields = [field.strip() for field in line.split(",")]
        if len(fields) < least if least else len(fields) != expected:
            raise ScrflowError(f"{path}: line {number}: expected {form!r}; correct the line")
        yield f"{path}: line {number}", fields


def read_array(path: Path, *shapes: tuple[int, ...]) -> np.ndarray:
    """The numbers of a text file, in the first of ``shapes`` that has as many; numbers need not be finite."""
    fields = [field for _, line in read_lines(path) for field in line.split()]
    try:
        values = np.array([np.nan if any(n in f.lower() for n in _NOT_FINITE) else float(f) for f in fields])
    except ValueError as error:
        raise ScrflowError(f"{path}: expected numbers ({str(error)[:200]}); unpack the dataset again") from None
    for shape in shapes:
        if values.size == np.prod(shape):
            return values.reshape(shape)
    expected = " or ".join(str(int(np.prod(s))) for s in shapes)
    raise ScrflowError(f"{path}: {values.size} numbers, expected {expected}; unpack the dataset again")


def read_json_text(path: Path) -> Any:
    """The value of a JSON file; ScrflowError for a file that is missing or no JSON."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ScrflowError(f"{path}: not JSON ({error}); correct it, or write it again") from None


def pose_of_numbers(values: Sequence[float], where: str) -> np.ndarray:
    """The pose [3, 4] of qw qx qy qz tx ty tz; ScrflowError beginning with ``where`` for no unit quaternion."""
    return np.column_stack([rotation_from_quaternion(checked_quaternion(np.array(values[:4]), where)), values[4:7]])


def read_poses(path: Path) -> dict[str, np.ndarray]:
    """name -> cam_from_world [3, 4] of lines ``name qw qx qy qz tx ty tz``; quaternions are normalised."""
    out: dict[str, np.ndarray] = {}
    for name, (where, values) in read_numbers(path, "qw qx qy qz tx ty tz").items():
        if not 1e-6 < np.linalg.norm(values[:4]) < 1e6:
            raise ScrflowError(f"{where}: expected a quaternion, found {values[:4].tolist()}; correct the line")
        out[name] = np.column_stack([rotation_from_quaternion(values[:4]), values[4:]])
    return out


def pose_line(name: str, pose: np.ndarray | Sequence[float], digits: int | None = None) -> str:
    """``name qw qx qy qz tx ty tz`` of a pose [3, 4] or its seven numbers, exact or rounded."""
    numbers = pose_numbers(pose) if isinstance(pose, np.ndarray) else pose
    return " ".join((listed(name), *(repr(v) if digits is None else f"{v:.{digits}g}" for v in numbers)))


def read_query_list(path: Path) -> dict[str, pycolmap.Camera | None]:
    """Names of a list file with their cameras: lines ``name`` (camera None) or ``name MODEL w h params...`` (hloc)."""
    out: dict[str, pycolmap.Camera | None] = {}
    for number, line in read_lines(path):
        name, rest = split_name(line)
        if name in out:
            raise ScrflowError(f"{path}: line {number}: {name} is listed twice; remove one")
        out[name] = camera_of_fields(rest, f"{path}: line {number}") if rest else None
    return out


def query_line(name: str, camera: pycolmap.Camera) -> str:
    """``name MODEL width height params...`` (hloc)."""
    params = " ".join(repr(float(p)) for p in camera.params)
    return f"{listed(name)} {camera.model.name} {camera.width} {camera.height} {params}"


def camera_of_fields(fields: list[str], where: str) -> pycolmap.Camera:
    """The camera of ``MODEL width height params...``; ScrflowError beginning with ``where``."""
    if len(fields) < 4:
        raise ScrflowError(f"{where}: expected 'name' or 'name MODEL width height params...'; correct the line")
    model = pycolmap.CameraModelId.__members__.get(fields[0].upper())
    if model is None or fields[0].upper() == "INVALID":
        raise ScrflowError(f"{where}: no COLMAP camera model {fields[0]!r}; use PINHOLE, SIMPLE_RADIAL, OPENCV ...")
    try:
        width, height, *params = (float(f) for f in fields[1:])
    except ValueError as error:
        raise ScrflowError(f"{where}: {str(error)[:200]}; correct the line") from None
    size = checked_size(width, height, where)
    if size != (width, height):
        raise ScrflowError(f"{where}: size {width:g}x{height:g} is not of whole pixels; correct the line")
    camera = pycolmap.Camera(model=model, width=size[0], height=size[1], params=params)
    check_focal(camera, where)
    if not camera.verify_params():
        takes = f"{model.name} takes parameters {camera.params_info}"
        raise ScrflowError(f"{where}: {takes}, found {len(params)} numbers; correct the line")
    return camera


def check_focal(camera: pycolmap.Camera, where: str) -> None:
    """ScrflowError for a camera model that has no focal length (panoramas)."""
    if not len(camera.focal_length_idxs()):
        raise ScrflowError(
            f"{where}: camera model {camera.model.name} has no focal length, so it is not supported; cut the panoramas "
            "into perspective photos (COLMAP's example panorama_sfm.py) and give those"
        )


def colmap_camera(model: str, size: tuple[int, int], params: Sequence[float]) -> pycolmap.Camera:
    """A camera of images of ``size`` px (width, height)."""
    return pycolmap.Camera(model=model, width=size[0], height=size[1], params=params)


def centred_camera(focal: float, size: tuple[int, int]) -> pycolmap.Camera:
    """SIMPLE_PINHOLE of a focal length in px, with the principal point at the centre of an image of ``size`` px."""
    return colmap_camera("SIMPLE_PINHOLE", size, [focal, size[0] / 2, size[1] / 2])


class PhotoNames:
    """Photos that a list can name: those under a folder, or some names relative to one.

    A name is taken as it is if such a photo exists. Otherwise backslashes, upper case, Unicode forms, the suffix and
    ``..`` are ignored, and a photo fits if its path ends with the listed one or the listed one ends with it (a usual
    first folder of the photo, such as ``images/``, may be missing there).
    """

    def __init__(self, photos: Path | Iterable[str]) -> None:
        self._folder = photos if isinstance(photos, Path) else None
        self._names = frozenset() if isinstance(photos, Path) else frozenset(photos)
        self._by_stem: dict[str, list[str]] | None = None

    def find(self, listed: str, where: object) -> str | None:
        """The photo's name relative to the folder; None where there is none. ScrflowError, beginning with ``where``,
        for a name that fits several photos."""
        name = posixpath.normpath(listed.strip().replace("\\", "/"))
        if self._folder is not None and name.startswith("/"):
            name = name.removeprefix(f"{self._folder.as_posix().rstrip('/')}/")
        for exact in dict.fromkeys((posixpath.normpath(listed), name)):
            if self.has(exact):
                return exact
        mine = _key(name)
        best: tuple = ()
        found: list[str] = []
        for photo in self._index().get(mine[-1], ()):
            other = _key(photo)
            agree = _common_end(mine, other)
            usual = agree == len(other) - 1 and other[0] in PHOTO_FOLDERS
            if agree not in (len(mine), len(other)) and not usual:
                continue
            suffix = posixpath.splitext(photo)[1].lower()
            same = posixpath.splitext(name)[1].lower() == suffix
            pictures = other[0] in PHOTO_FOLDERS  # rather than masks or depth maps of the same names
            rank = (agree, same, pictures, photo.endswith(name), suffix in _PREFERRED, -len(suffix))
            if rank[:3] > best[:3] or not found:
                best, found = rank, [photo]
            elif rank[:3] == best[:3]:
                if posixpath.dirname(photo) != posixpath.dirname(found[0]):
                    found.append(photo)
                elif rank > best:
                    best, found[0] = rank, photo
        if len(found) > 1:
            raise ScrflowError(f"{where}: {listed} fits several photos ({', '.join(found[:3])}); name the folder too")
        return found[0] if found else None

    def has(self, name: str) -> bool:
        """Whether a photo has exactly this name."""
        if self._folder is None:
            return name in self._names
        if name.startswith("/") or ".." in name.split("/") or not name.isprintable():
            return False
        path = self._folder / name
        return os.path.lexists(path) and (has_suffix(name) or not path.is_dir())

    def _index(self) -> dict[str, list[str]]:
        if self._by_stem is None:
            self._by_stem = {}
            for name in sorted(self._names if self._folder is None else photos_under(self._folder)):
                self._by_stem.setdefault(_key(name)[-1], []).append(name)
        return self._by_stem


def read_photo_list(path: Path, names: PhotoNames, skip_missing: bool = False) -> dict[str, pycolmap.Camera | None]:
    """The photos of a list file with the cameras that it gives (``read_query_list``); names without
    a photo are kept as listed, or with ``skip_missing`` left out with a warning."""
    out: dict[str, pycolmap.Camera | None] = {}
    for line_name, camera in read_query_list(path).items():
        name = names.find(line_name, path) or line_name
        if name in out:
            raise ScrflowError(f"{path}: {name} is listed twice, also as {line_name}; remove one line")
        out[name] = camera
    gone = [name for name in out if skip_missing and not names.has(name)]
    if gone:
        log.warning("%s: %d of %d photos have no file; they are left out", path, len(gone), len(out))
    return {name: camera for name, camera in out.items() if name not in gone}


def _common_end(a: list[str], b: list[str]) -> int:
    """How many parts are equal, from the end."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(reversed(a), reversed(b), strict=False)))


def _key(name: str) -> list[str]:
    """The parts of a path for comparison: without drive, ``..``, case and the photo's suffix."""
    parts = [p for p in unicodedata.normalize("NFC", name).lower().split("/") if p not in ("", ".", "..")]
    if len(parts) > 1 and parts[0].endswith(":"):
        parts = parts[1:]
    last = parts[-1] if parts else ""
    while has_suffix(last):  # scrflow upright makes a.HEIC.jpg of a.HEIC
        last = last.rpartition(".")[0]
    return [*parts[:-1], last]


def photos_under(folder: Path) -> Iterator[str]:
    """Names of the photos under a folder, of the first files where there are very many."""
    for path in islice(files_below(folder), _MOST):
        if has_suffix(path.name):
            yield path.relative_to(folder).as_posix()


def files_below(folder: Path) -> Iterator[Path]:
    """Files under ``folder``, without hidden ones, also of linked folders, each folder once."""
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [f for f in folders if not f.startswith(".")]
        if (real := os.path.realpath(here)) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(here, name) for name in files if not name.startswith("."))
