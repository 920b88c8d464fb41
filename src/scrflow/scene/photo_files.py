"""Bare photos in a folder: their names, their split, and a first guess of their camera."""

from __future__ import annotations

import logging
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pycolmap
from PIL import Image

from scrflow.core.errors import ScrflowError
from scrflow.core.images import opened
from scrflow.scene.checks import some
from scrflow.storage.listfile import SUFFIXES

log = logging.getLogger("scrflow")

FOCAL_FACTOR = 1.2  # focal length / longer side where EXIF tells none: about 46 degrees across, a common phone or zoom

CameraSource = Literal["exif focal 35mm", "exif focal + sensor", "guess"]

_IFD, _MODEL, _ORIENTATION = 0x8769, 0x0110, 0x0112
_FOCAL, _FOCAL_35MM, _WIDTH, _HEIGHT = 0x920A, 0xA405, 0xA002, 0xA003
_PLANE_X, _PLANE_Y, _PLANE_UNIT = 0xA20E, 0xA20F, 0xA210
_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 1e-3}  # focal-plane unit of EXIF: inch (also when not said), cm, mm, um
_SENSOR_MM = (1.0, 100.0)  # longer side; phones have 4 to 10, large format 56
_FOCAL_SIDES = (0.2, 30.0)  # focal length / longer side, px: a fisheye, a 1 000 mm telephoto lens
_ASPECT_TOLERANCE = 0.01


def list_photos(folder: Path) -> list[str]:
    """Names of the photos under ``folder``, relative to it, sorted; ScrflowError where there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ScrflowError(
            f"{folder}: no such folder of photos; put them there (the scene's config says where they come from), "
            "or mend key source.images"
        )
    found = [
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    ]
    broken = sorted(p for p in found if p.is_symlink() and not p.exists())
    if broken:
        raise ScrflowError(
            f"{broken[0]}: is a link to {os.readlink(broken[0])}, which is not there ({len(broken)} of {len(found)} "
            "photos are such links); mend or remove them"
        )
    names = sorted(p.relative_to(folder).as_posix() for p in found if p.is_file())
    if not names:
        raise ScrflowError(f"{folder}: no photos in it ({', '.join(sorted(SUFFIXES))})")
    return names


def every_nth(names: list[str], n: int) -> tuple[list[str], list[str]]:
    """(mapping, queries) of sorted names: the 1st, (n+1)th, ... is a query."""
    names = sorted(names)
    return [name for i, name in enumerate(names) if i % n], names[::n]


# ---------------------------------------------------------------------------------------------------------------- EXIF


@dataclass(frozen=True)
class Exif:
    """What EXIF tells of the camera; None where it does not."""

    focal_35mm: float | None = None  # mm: the lens that has the same diagonal angle of view on 36x24 mm
    focal_mm: float | None = None
    sensor_mm: float | None = None  # longer side of the sensor, from the focal-plane resolution
    size: tuple[int, int] | None = None  # px, of the photo as the camera made it
    orientation: int = 1
    model: str = ""


def read_exif(image: Image.Image) -> Exif:
    """The EXIF of an opened image. A damaged tag counts as one that is not there."""
    try:
        top = image.getexif()
        tags = top.get_ifd(_IFD)
    except (SyntaxError, ValueError, OSError, KeyError, TypeError, struct.error):
        return Exif()
    width, height = (_number(tags.get(tag)) for tag in (_WIDTH, _HEIGHT))
    size = (round(width), round(height)) if width and height else None
    sides = []
    for resolution, side in ((_PLANE_X, width or image.width), (_PLANE_Y, height or image.height)):
        per_unit = _number(tags.get(resolution))
        unit = _MM.get(int(_number(tags.get(_PLANE_UNIT)) or 2))
        if per_unit and unit and _SENSOR_MM[0] <= side / per_unit * unit <= _SENSOR_MM[1]:
            sides.append(side / per_unit * unit)
    orientation = top.get(_ORIENTATION, 1)
    return Exif(
        focal_35mm=_number(tags.get(_FOCAL_35MM)),
        focal_mm=_number(tags.get(_FOCAL)),
        sensor_mm=max(sides) if len(sides) == 2 else None,
        size=size,
        orientation=orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1,
        model=str(top.get(_MODEL, "")).strip("\0 "),
    )


def _number(value: object) -> float | None:
    """A positive finite number, or None."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def camera_from_exif(path: Path, model: str) -> tuple[pycolmap.Camera, CameraSource]:
    """A camera of COLMAP's ``model`` with the focal length from EXIF, without distortion, and where it is from.

    "exif focal 35mm": f_px = f35 / 43.27 mm * diagonal of the image in px, as COLMAP has it. The 35 mm equivalent is
    defined by the diagonal angle of view (CIPA DCG-001); f35 / 36 mm * longer side is the same for 3:2 photos only, and
    4 % less for the 4:3 of phones.
    "exif focal + sensor": f_px = f_mm / sensor's longer side * longer side of the image; the sensor is known by its
    focal-plane resolution, for the size that the photo had when it was taken, or by COLMAP's list of cameras.
    "guess": FOCAL_FACTOR times the longer side. Also where EXIF cannot be meant: the photo has another shape than when
    it was taken (it is cropped), or the focal length is under 0.2 or over 30 times the longer side.
    ScrflowError where the file is no image.
    """
    with opened(path) as image:
        exif, (width, height) = read_exif(image), image.size
    options = pycolmap.ImageReaderOptions(camera_model=model, default_focal_length_factor=FOCAL_FACTOR)
    camera = pycolmap.infer_camera_from_image(str(path), options)
    longer = max(width, height)
    focal, source = camera.mean_focal_length(), "exif focal + sensor"
    if exif.focal_35mm:
        source = "exif focal 35mm"
    elif exif.focal_mm and exif.sensor_mm:
        # pycolmap takes the resolution for that of the file's size, which is wrong for a photo made smaller since
        focal = exif.focal_mm / exif.sensor_mm * longer
    elif not camera.has_prior_focal_length:
        source = "guess"
    if _is_cropped(exif, width, height) or not _FOCAL_SIDES[0] <= focal / longer <= _FOCAL_SIDES[1]:
        source = "guess"
    if source == "guess":
        focal = FOCAL_FACTOR * longer
    camera = pycolmap.Camera.create_from_model_name(0, model, focal, width, height)
    camera.has_prior_focal_length = source != "guess"
    return camera, source  # type: ignore[return-value]


def _is_cropped(exif: Exif, width: int, height: int) -> bool:
    if exif.size is None:
        return False
    then, now = (max(size) / min(size) for size in (exif.size, (width, height)))
    return abs(then / now - 1) > _ASPECT_TOLERANCE


# ------------------------------------------------------------------------------------------------------------- queries


def query_cameras(image_root: Path, names: list[str], where: str, guess: bool) -> dict[str, pycolmap.Camera]:
    """Cameras from EXIF of queries that a list (``where``) names without intrinsics and the source does not know.

    A warning says which. Without a focal length in EXIF: ScrflowError, or a guess where ``guess`` is set.
    """
    found = {name: camera_from_exif(image_root / name, "SIMPLE_PINHOLE") for name in names}
    refuse_guesses([name for name, (_, source) in found.items() if source == "guess"], where, guess)
    told = [name for name, (_, source) in found.items() if source != "guess"]
    if told:
        log.warning("%s: the camera of %d queries is from EXIF, not calibrated: %s", where, len(told), some(told))
    return {name: camera for name, (camera, _) in found.items()}


def refuse_guesses(guessed: list[str], where: str, guess: bool) -> None:
    """ScrflowError naming the queries whose intrinsics nothing tells; a warning where ``guess`` is set."""
    if guessed and not guess:
        raise ScrflowError(
            f"{where}: no intrinsics of {len(guessed)} queries ({some(guessed)}), and EXIF tells no focal length; list "
            "them as 'name MODEL width height params...', or set split.guess_cameras: true for a guess"
        )
    if guessed:
        log.warning("%s: the camera of %d queries is a guess: %s", where, len(guessed), some(guessed))
