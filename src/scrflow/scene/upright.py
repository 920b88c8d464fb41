"""Copies of photos with their pixels turned as EXIF asks, so that pixels and camera agree for every reader."""

from __future__ import annotations

import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin

from scrflow.core.errors import ScrflowError
from scrflow.core.images import opened
from scrflow.core.progress import track
from scrflow.scene.photo_files import list_photos, read_exif
from scrflow.storage.artifact import atomic_dir

_IFD = 0x8769
_SWAPPED = ((0xA002, 0xA003), (0xA20E, 0xA20F))  # width and height, focal-plane resolution along x and y
_JPEG = ("JPEG", "MPO")
_QUARTER_TURNS = (5, 6, 7, 8)
_SAMPLINGS = {0: "4:4:4", 2: "4:2:0"}  # of Pillow's three the two that stay themselves in a quarter turn


@dataclass(frozen=True)
class Turned:
    """What was done."""

    turned: tuple[str, ...]
    copied: int


def upright(folder: Path, out: Path) -> Turned:
    """Copy the photos under ``folder`` to the new folder ``out``: turned where EXIF orientation asks for it, byte for
    byte otherwise. The other tags stay, the focal length among them.

    PNG, TIFF, WebP and BMP lose nothing. JPEG is decoded and coded again with its own quantisation tables (transposed
    in a quarter turn) and chroma sampling: photos of fox come out over 50 dB from the turned pixels, and as large as
    they were. Of several pictures in a JPEG (MPO, of phones) the first stays. ScrflowError where a photo is damaged or
    ``out`` has something in it.
    """
    folder, out = Path(folder), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ScrflowError(f"{out}: is there already, and is not overwritten; remove it or name another folder")
    if out.resolve().is_relative_to(folder.resolve()):
        raise ScrflowError(f"{out}: lies in {folder}, so its copies would be photos of it too; name a folder elsewhere")
    names, turned = list_photos(folder), []
    with atomic_dir(out) as temporary:
        for name in track(names, "turning photos"):
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if _copy(folder / name, target):
                turned.append(name)
    return Turned(tuple(turned), len(names) - len(turned))


def _copy(source: Path, target: Path) -> bool:
    """Whether it was turned."""
    try:
        with opened(source) as image:
            orientation = read_exif(image).orientation
            if orientation == 1:
                shutil.copyfile(source, target)
                return False
            turned = ImageOps.exif_transpose(image)
            how = _like(image, orientation)
            exif = turned.getexif()
            if orientation in _QUARTER_TURNS:
                tags = exif.get_ifd(_IFD)
                for a, b in _SWAPPED:
                    if a in tags and b in tags:
                        tags[a], tags[b] = tags[b], tags[a]
            turned.save(target, "JPEG" if image.format in _JPEG else image.format, exif=exif.tobytes(), **how)
    except (OSError, ValueError, struct.error) as error:
        raise ScrflowError(f"{source}: image is damaged, or cannot be written ({error}); replace it") from None
    return True


def _like(image: Image.Image, orientation: int) -> dict:
    """Options that write the image as it was written before."""
    keep = {"icc_profile": image.info["icc_profile"]} if image.info.get("icc_profile") else {}
    if image.format == "WEBP":
        return {**keep, "lossless": True}
    if image.format not in _JPEG:
        return keep
    quarter = orientation in _QUARTER_TURNS
    tables = {k: np.reshape(v, (8, 8)).T.ravel().tolist() if quarter else v for k, v in image.quantization.items()}
    sampling = _SAMPLINGS.get(JpegImagePlugin.get_sampling(image), "4:4:4")
    return {**keep, "qtables": tables, "subsampling": sampling}
