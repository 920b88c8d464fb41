"""Bare photos in a folder: their names, their split, and a first guess of their camera."""

from __future__ import annotations

import logging
from pathlib import Path

import pycolmap

from scrflow.errors import ScrflowError

log = logging.getLogger("scrflow")

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp"})
FOCAL_FACTOR = 1.2  # focal length / longer side where EXIF tells none: about 46 degrees across, a common phone or zoom


def list_photos(folder: Path) -> list[str]:
    """Names of the photos under ``folder``, relative to it, sorted; ScrflowError where there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ScrflowError(
            f"{folder}: no such folder of photos; put them there (the scene's config says where they come from), "
            "or mend key source.images"
        )
    names = sorted(
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.suffix.lower() in SUFFIXES
        and p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )
    if not names:
        raise ScrflowError(f"{folder}: no photos in it ({', '.join(sorted(SUFFIXES))})")
    return names


def every_nth(names: list[str], n: int) -> tuple[list[str], list[str]]:
    """(mapping, queries) of sorted names: the 1st, (n+1)th, ... is a query."""
    names = sorted(names)
    return [name for i, name in enumerate(names) if i % n], names[::n]


def guessed_camera(image: Path, model: str) -> pycolmap.Camera:
    """Camera with the focal length from EXIF, or FOCAL_FACTOR times the longer side, and no distortion."""
    options = pycolmap.ImageReaderOptions(camera_model=model, default_focal_length_factor=FOCAL_FACTOR)
    camera = pycolmap.infer_camera_from_image(str(image), options)
    if not camera.has_prior_focal_length:
        log.warning("%s: no focal length in EXIF; its camera is a guess", image)
    return camera
