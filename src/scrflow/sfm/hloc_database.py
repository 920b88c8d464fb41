"""Features and matches of hloc's files in a COLMAP database, for SfM and for triangulation."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pycolmap

from scrflow.interop.hloc_features import read_keypoints
from scrflow.interop.hloc_matches import read_matches, write_pairs
from scrflow.sfm.plain_names import plain_names
from scrflow.sfm.process import colmap

log = logging.getLogger("scrflow")


def import_matches(
    database: Path, names: Sequence[str], features: Path, matches: Path, seed: int, verify: bool
) -> list[tuple[str, str]]:
    """Write keypoints and matches of images that the database knows by name, and with ``verify`` two-view geometries.

    Keypoints are moved by half a pixel to COLMAP's origin. Without ``verify`` the caller judges the matches. Returns
    the pairs, sorted. ScrflowError when a file is damaged, lacks an image, or holds no pair of these images.
    """
    keypoints = read_keypoints(features, names)
    found = read_matches(matches, {name: len(k) for name, k in keypoints.items()})
    with pycolmap.Database.open(database) as db:
        ids = {name: db.read_image_with_name(name).image_id for name in names}
        for name, points in keypoints.items():
            db.write_keypoints(ids[name], points)
        for (a, b), indices in found.items():
            db.write_matches(ids[a], ids[b], indices)
    pairs = sorted(found)
    log.info("hloc: %d images, %d pairs, %d matches", len(names), len(pairs), sum(map(len, found.values())))
    if verify:
        _verify(database, pairs, seed)
    return pairs


def _verify(database: Path, pairs: Sequence[tuple[str, str]], seed: int) -> None:
    """RANSAC of a two-view geometry for each pair, by COLMAP: it gives each the configuration without which mapping
    passes over it."""
    with (
        tempfile.TemporaryDirectory(dir=database.parent) as folder,
        plain_names(database, pairs) as plain,
        colmap(database, f"{database}: verifying matches") as process,
    ):
        listed = Path(folder) / "pairs.txt"
        write_pairs(listed, plain)
        process("verify", listed=str(listed), seed=seed)
