"""The localization stage: the poses of a scene's queries with nothing but a map."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from scrflow.config import LocalizeStage
from scrflow.core.seeds import derived_seed
from scrflow.localize.localizer import Localizer
from scrflow.localize.result import Localization, localize_scene, pose_line, query_descriptors
from scrflow.map.file import load_map
from scrflow.scene.model import Query, load_scene
from scrflow.storage.artifact import Stamp
from scrflow.storage.codeversion import code_version

__all__ = ["localize_queries", "pose_line"]


def localize_queries(
    config: LocalizeStage,
    scene: Path,
    map_path: Path,
    out: Path,
    details: Path,
    threads: int,
    descriptors: Path | None = None,
) -> None:
    """Localize every query of the scene, see scrflow.localize.result.localize_scene.

    ``descriptors`` is an HDF5 in hloc's layout with the queries' global descriptors, where a file provides them.
    """
    s = load_scene(scene)
    inputs = {"scene": scene / "scene.json", "map": map_path}
    if descriptors is not None:
        inputs["descriptors"] = descriptors
    stamp = Stamp.make("localization", config, code_version("localize.stage"), **inputs)
    given = None if descriptors is None else query_descriptors(descriptors, [q.name for q in s.queries])
    localizer = Localizer(load_map(map_path), config.localize, derived_seed(config.seed, "localize"))

    def localize(photo: Image.Image, query: Query) -> Localization:
        return localizer.localize(photo, query.camera, None if given is None else given[query.name])

    localize_scene(s, localize, stamp, map_path, out, details, threads)
