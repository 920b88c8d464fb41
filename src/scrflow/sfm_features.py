"""SIFT features and matches in a COLMAP database, for SfM and for triangulation."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pycolmap

from scrflow.errors import ScrflowError
from scrflow.images import opened
from scrflow.plainnames import plain_names
from scrflow.progress import meter

_IMAGES_A_STEP = 4
_PAIRS_A_STEP = 64
_WARNING = 1
_UNREAD = ("WEBP", "GIF")


def quiet_pycolmap() -> None:
    """Warnings and errors of COLMAP only; progress is told here."""
    pycolmap.logging.minloglevel = max(int(pycolmap.logging.minloglevel), _WARNING)


def extract_sift(
    database: Path, image_root: Path, names: Sequence[str], max_features: int, max_image_size: int, threads: int
) -> None:
    """RootSIFT (L1 root) of images that the database knows by name; keypoints in pixels of the image as it is stored.

    The result does not depend on ``threads``: each image is a task of its own. ScrflowError where COLMAP cannot read an
    image.
    """
    check_readable(image_root, names)
    options = pycolmap.FeatureExtractionOptions(use_gpu=False, num_threads=threads, max_image_size=max_image_size)
    options.sift.max_num_features = max_features
    with meter("SIFT features", len(names)) as step:
        for at in range(0, len(names), _IMAGES_A_STEP):
            some = list(names[at : at + _IMAGES_A_STEP])
            pycolmap.extract_features(
                database, image_root, some, extraction_options=options, device=pycolmap.Device.cpu
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


def match_pairs(database: Path, pairs: Sequence[tuple[str, str]], threads: int, seed: int, verify: bool) -> None:
    """Mutual nearest neighbours with the ratio test for each pair of image names, and with ``verify`` RANSAC of a
    two-view geometry. RANSAC is seeded for each pair, so the result does not depend on ``threads``."""
    matching = pycolmap.FeatureMatchingOptions(
        use_gpu=False, num_threads=threads, skip_geometric_verification=not verify
    )
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = seed
    with (
        tempfile.TemporaryDirectory(dir=database.parent) as folder,
        plain_names(database, pairs) as pairs,
        meter("matching pairs", len(pairs)) as step,
    ):
        listed = Path(folder) / "pairs.txt"
        for at in range(0, len(pairs), _PAIRS_A_STEP):
            some = pairs[at : at + _PAIRS_A_STEP]
            listed.write_text("".join(f"{a} {b}\n" for a, b in some), encoding="utf-8")
            pycolmap.match_image_pairs(
                database,
                matching,
                pycolmap.ImportedPairingOptions(match_list_path=listed),
                verification,
                pycolmap.Device.cpu,
            )
            for _ in some:
                step("")
