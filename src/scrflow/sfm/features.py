"""SIFT features in a COLMAP database, for SfM and for triangulation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scrflow.core.errors import ScrflowError
from scrflow.core.images import opened
from scrflow.core.progress import meter
from scrflow.sfm.process import colmap

_IMAGES_A_STEP = 4
_UNREAD = ("WEBP", "GIF")


def extract_sift(
    database: Path, image_root: Path, names: Sequence[str], max_features: int, max_image_size: int, threads: int
) -> None:
    """RootSIFT (L1 root) of images that the database knows by name; keypoints in pixels of the image as it is stored.

    The result does not depend on ``threads``: each image is a task of its own. ScrflowError where COLMAP cannot read an
    image, OSError where the disk is full.
    """
    check_readable(image_root, names)
    with colmap(database, f"{database}: SIFT features") as process, meter("SIFT features", len(names)) as step:
        for at in range(0, len(names), _IMAGES_A_STEP):
            some = list(names[at : at + _IMAGES_A_STEP])
            process(
                "extract",
                image_root=str(image_root),
                names=some,
                max_features=max_features,
                max_image_size=max_image_size,
                threads=threads,
            )
            for name in some:
                step(name)


def check_readable(image_root: Path, names: Sequence[str]) -> None:
    """pycolmap's wheel lacks some readers, and passes over what it cannot read with a line in the log."""
    for name in names:
        with opened(image_root / name) as image:
            form = image.format
        if form in _UNREAD:
            raise ScrflowError(
                f"{image_root / name}: COLMAP does not read {form}, and its SIFT is asked for here (structure from "
                "motion, triangulation); save the photos as JPEG or PNG"
            )
