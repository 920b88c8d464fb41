"""Bare photos in a folder: their names, their split, a first guess of their camera, and copies with upright pixels."""

import logging
import math
import os
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap
from PIL import Image, ImageOps, JpegImagePlugin

from scrflow.core.errors import ScrflowError
from scrflow.core.images import check_kind, opened, rgb
from scrflow.core.progress import track
from scrflow.scene.checks import check_unused, some
from scrflow.scene.lists import files_below
from scrflow.storage.artifact import atomic_dir
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
            f"{folder}: no such folder of photos; put it back (is its disk mounted?), or correct keys root and "
            "source.images of the scene"
        )
    found = [p for p in files_below(folder) if p.suffix.lower() in SUFFIXES]
    broken = sorted(p for p in found if p.is_symlink() and not p.exists())
    if broken:
        raise ScrflowError(
            f"{broken[0]}: is a link to {os.readlink(broken[0])}, which is not there ({len(broken)} of {len(found)} "
            "photos are such links); correct or remove them"
        )
    names = sorted(p.relative_to(folder).as_posix() for p in found if p.is_file())
    if not names:
        raise ScrflowError(f"{folder}: no photos in it ({', '.join(sorted(SUFFIXES))}); put them there")
    return names


def every_nth(names: list[str], n: int) -> tuple[list[str], list[str]]:
    """(mapping, queries) of sorted names: the 1st, (n+1)th, ... is a query."""
    names = sorted(names)
    return [name for i, name in enumerate(names) if i % n], names[::n]


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
    unit = _MM.get(int(_number(tags.get(_PLANE_UNIT)) or 2), 0.0)
    per_unit = (_number(tags.get(_PLANE_X)), _number(tags.get(_PLANE_Y)))
    px = (width or image.width, height or image.height)
    sides = [side / density * unit for side, density in zip(px, per_unit, strict=True) if density]
    known = len(sides) == 2 and all(_SENSOR_MM[0] <= side <= _SENSOR_MM[1] for side in sides)
    orientation = top.get(_ORIENTATION, 1)
    return Exif(
        focal_35mm=_number(tags.get(_FOCAL_35MM)),
        focal_mm=_number(tags.get(_FOCAL)),
        sensor_mm=max(sides) if known else None,
        size=(round(width), round(height)) if width and height else None,
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

    "exif focal 35mm": f_px = f35 / 43.27 mm * diagonal in px (CIPA DCG-001), as COLMAP has it.
    "exif focal + sensor": f_px = f_mm / sensor's longer side * longer side in px; the sensor is known by its
    focal-plane resolution, or by COLMAP's list of cameras.
    "guess": FOCAL_FACTOR times the longer side; also for cropped photos and implausible focal lengths.
    ScrflowError where the file is no image.
    """
    with opened(path) as image:
        exif, (width, height) = read_exif(image), image.size
    options = pycolmap.ImageReaderOptions(camera_model=model, default_focal_length_factor=FOCAL_FACTOR)
    longer = max(width, height)
    try:
        camera = pycolmap.infer_camera_from_image(str(path), options)
    except ValueError:  # HEIC and WebP, which COLMAP does not read
        focal = (exif.focal_35mm or 0) / math.hypot(36, 24) * math.hypot(width, height) or FOCAL_FACTOR * longer
        camera = pycolmap.Camera.create_from_model_name(0, model, focal, width, height)
    focal, source = camera.mean_focal_length(), "exif focal + sensor"
    if exif.focal_35mm:
        source = "exif focal 35mm"
    elif exif.focal_mm and exif.sensor_mm:
        # pycolmap takes the resolution for that of the file's size, which is wrong for a photo made smaller since
        focal = exif.focal_mm / exif.sensor_mm * longer
    elif not camera.has_prior_focal_length:
        source = "guess"
    aspects = [max(size) / min(size) for size in (exif.size or (width, height), (width, height))]
    cropped = abs(aspects[0] / aspects[1] - 1) > _ASPECT_TOLERANCE
    if cropped or not _FOCAL_SIDES[0] <= focal / longer <= _FOCAL_SIDES[1]:
        source = "guess"
    if source == "guess":
        focal = FOCAL_FACTOR * longer
    camera = pycolmap.Camera.create_from_model_name(0, model, focal, width, height)
    camera.has_prior_focal_length = source != "guess"
    return camera, source  # type: ignore[return-value]


def query_cameras(image_root: Path, names: list[str], where: str, guess: bool) -> dict[str, pycolmap.Camera]:
    """Cameras from EXIF of queries that a list (``where``) names without intrinsics and the source does not know.

    ScrflowError for a query without a focal length in EXIF, unless ``guess`` is set.
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


_SWAPPED = ((_WIDTH, _HEIGHT), (_PLANE_X, _PLANE_Y))  # width and height, focal-plane resolution along x and y
_JPEG = ("JPEG", "MPO")
COLMAP_UNREAD = ("WEBP", "GIF", "HEIF")  # Pillow's formats that COLMAP does not read
_UNREAD_SUFFIXES = (".heic", ".heif", ".webp")
_QUARTER_TURNS = (5, 6, 7, 8)
_SAMPLINGS = {0: "4:4:4", 2: "4:2:0"}  # of Pillow's three the two that stay themselves in a quarter turn


@dataclass(frozen=True)
class Turned:
    """What was done."""

    turned: tuple[str, ...]
    copied: int


def upright(folder: Path, out: Path) -> Turned:
    """Copy the photos under ``folder`` to the new folder ``out``: turned where EXIF orientation asks for it, HEIC and
    WebP as JPEG, byte for byte otherwise. The other tags stay.

    PNG, TIFF and BMP lose nothing. JPEG is coded again with its own quantisation tables and chroma sampling (over
    50 dB); of several pictures in a JPEG (MPO) the first stays. ScrflowError for a damaged photo or a used ``out``.
    """
    folder, out = Path(folder), Path(out)
    check_unused(out)
    if out.resolve().is_relative_to(folder.resolve()):
        raise ScrflowError(f"{out}: lies in {folder}, so its copies would be photos of it too; name a folder elsewhere")
    return gather({name: folder / name for name in list_photos(folder)}, out, link=False)


def gather(photos: Mapping[str, Path], out: Path, link: bool = True) -> Turned:
    """As ``upright``, of the photos (new name -> file); with ``link`` those that need no change are links."""
    turned = []
    with atomic_dir(out) as temporary:
        for name, source in track(photos.items(), "turning photos", len(photos)):
            target = temporary / upright_name(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if needs_copy(source):
                _turn(source, target)
                turned.append(name)
            elif link:
                target.symlink_to(source.resolve())
            else:
                shutil.copyfile(source, target)
    return Turned(tuple(turned), len(photos) - len(turned))


def upright_name(name: str) -> str:
    """Of the photo's upright copy: ``a.HEIC`` becomes ``a.HEIC.jpg``, as there may be an ``a.jpg`` too."""
    return f"{name}.jpg" if name.lower().endswith(_UNREAD_SUFFIXES) else name


def needs_copy(path: Path) -> bool:
    """Whether EXIF turns the photo, or COLMAP cannot read it (also a WebP that is called .jpg)."""
    if path.suffix.lower() in _UNREAD_SUFFIXES:
        return True
    with opened(path) as image:
        return image.format in COLMAP_UNREAD or read_exif(image).orientation != 1


def _turn(source: Path, target: Path) -> None:
    """Write the photo turned upright, as JPEG if COLMAP does not read its format."""
    try:
        with opened(source) as image:
            orientation = read_exif(image).orientation
            turned = ImageOps.exif_transpose(image)
            how = _like(image, orientation)
            exif = turned.getexif()
            if orientation in _QUARTER_TURNS:
                tags = exif.get_ifd(_IFD)
                for a, b in _SWAPPED:
                    if a in tags and b in tags:
                        tags[a], tags[b] = tags[b], tags[a]
            form = "JPEG" if image.format in (*_JPEG, *COLMAP_UNREAD) else image.format
            if image.format in COLMAP_UNREAD:
                check_kind(image, source)  # an animation has no single picture
                turned = rgb(turned, source)
            turned.save(target, form, exif=exif.tobytes(), **how)
    except (OSError, ValueError, struct.error) as error:
        raise ScrflowError(f"{source}: image is damaged, or cannot be written ({error}); replace it") from None


def _like(image: Image.Image, orientation: int) -> dict:
    """Options that write the image as it was written before."""
    keep = {"icc_profile": image.info["icc_profile"]} if image.info.get("icc_profile") else {}
    if image.format in COLMAP_UNREAD:
        return {**keep, "quality": 95}
    if image.format not in _JPEG:
        return keep
    quarter = orientation in _QUARTER_TURNS
    tables = {k: np.reshape(v, (8, 8)).T.ravel().tolist() if quarter else v for k, v in image.quantization.items()}
    sampling = _SAMPLINGS.get(JpegImagePlugin.get_sampling(image), "4:4:4")
    return {**keep, "qtables": tables, "subsampling": sampling}
