"""The map at work again, for what a run does not keep: single queries in full, and the points that the map implies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pycolmap
import torch
from PIL import Image

from scrflow.baseline import mapfile as matching_mapfile
from scrflow.baseline.localizer import MatchLocalizer
from scrflow.config import BaselineLocalizeStage, LocalizeStage
from scrflow.core.cameras import pinhole_matrix, pixels_from_rays
from scrflow.core.parallel import one_thread_each
from scrflow.core.seeds import derived_seed
from scrflow.evaluate.figures import Reprojection
from scrflow.localize.localizer import Localizer
from scrflow.localize.pointcloud import observe
from scrflow.localize.result import Localization, query_descriptors
from scrflow.map.file import load_map
from scrflow.report.page.run import Run
from scrflow.scene.model import Scene
from scrflow.storage.artifact import read_stamp

HEAD_MAP, POINT_MAP = "map.safetensors", "map.h5"
# photos whose keypoints make the cloud, evenly over the mapping photos: with 60 the walls of a room are seen, and the
# report of a scene of thousands does not take hours
CLOUD_PHOTOS = 60
# px of the encoded photo: half of the threshold by which poses are found
CLOUD_ERROR_PX = 5.0
_BARE = (140, 150, 160)  # of points whose colours are not known
_BACKGROUND = 244


class AnyLocalizer(Protocol):
    """What localizes single photos: of a method, or of a baseline."""

    def localize(
        self, photo: Image.Image, camera: pycolmap.Camera, descriptor: torch.Tensor | None = None
    ) -> Localization: ...


@dataclass(frozen=True)
class Points:
    """Coloured points in the world; ``note`` says what they are, or why there is none."""

    xyz: np.ndarray  # [P, 3]
    rgb: np.ndarray  # [P, 3] uint8
    note: str


@dataclass(frozen=True)
class ShownQuery:
    """One query, localized once more."""

    found: Localization
    points: Reprojection | None  # of the photo's pixels; None without a pose


def open_map(run: Run, threads: int = 1) -> tuple[AnyLocalizer, Points]:
    """The run's map, to localize as the run did, and its points.

    ScrflowError where the map is missing or damaged, or a mapping photo cannot be read.
    """
    details = run.folder / "localization.json"
    stamp = read_stamp(details, "localization")
    if (run.folder / POINT_MAP).exists():
        config = BaselineLocalizeStage.model_validate(stamp.config)
        map_ = matching_mapfile.load_map(run.folder / POINT_MAP)
        localizer = MatchLocalizer(map_, config.localize, derived_seed(config.seed, "localize"))
        rgb = np.tile(np.array(_BARE, np.uint8), (len(map_.xyz), 1))
        return localizer, Points(map_.xyz.astype(np.float64), rgb, f"{len(map_.xyz)} triangulated points")
    config = LocalizeStage.model_validate(stamp.config)
    localizer = Localizer(load_map(run.folder / HEAD_MAP), config.localize, derived_seed(config.seed, "localize"))
    return localizer, implied_points(localizer, run.scene, threads)


def implied_points(localizer: Localizer, scene: Scene, threads: int) -> Points:
    """Where the map puts the keypoints of its mapping photos, or of an even choice of them: those keypoints whose scene
    coordinates fall back onto them (scrflow.localize.pointcloud)."""
    step = -(-len(scene.mapping) // CLOUD_PHOTOS)
    thinned = replace(scene, mapping=scene.mapping[::step])
    seen = observe(localizer, thinned, CLOUD_ERROR_PX, threads)
    photos = f"all {len(scene.mapping)}" if step == 1 else f"{len(thinned.mapping)} of {len(scene.mapping)}"
    note = (
        f"{len(seen.xyz)} keypoints of {photos} mapping photos, where the map puts them in the world; those that do "
        f"not fall back within {CLOUD_ERROR_PX:g} px are left out"
    )
    return Points(seen.xyz, seen.rgb, note)


def localize_again(run: Run, localizer: AnyLocalizer, name: str) -> ShownQuery:
    """What the localizer makes of a query of the run."""
    query = next(q for q in run.scene.queries if q.name == name)
    file = _descriptor_file(run)
    descriptor = None if file is None else query_descriptors(file, [name])[name]
    with one_thread_each():
        found = localizer.localize(run.scene.photo(name), query.camera, descriptor)
    if found.cam_from_world is None:
        return ShownQuery(found, None)
    K = found.view.K
    rays = (found.view.pixels - K[:2, 2]) / [K[0, 0], K[1, 1]]
    xyz = found.xyz_world @ found.cam_from_world[:, :3].T + found.cam_from_world[:, 3]
    reprojected = np.full((len(xyz), 2), np.nan)
    front = xyz[:, 2] > 1e-6
    reprojected[front] = pixels_from_rays(query.camera, xyz[front, :2] / xyz[front, 2:])
    return ShownQuery(found, Reprojection(pixels_from_rays(query.camera, rays), reprojected, found.inliers))


def _descriptor_file(run: Run) -> Path | None:
    """The queries' global descriptors, where they come from a file."""
    for path, stamp in run.stages.items():
        retrieval = (stamp.config.get("retrieval") or {}) if stamp is not None else {}
        if path.endswith(".h5") and stamp.kind == "retrieval" and retrieval.get("kind") == "hloc":
            return run.results / path
    return None


def render_points(points: Points, camera: pycolmap.Camera, cam_from_world: np.ndarray, width: int) -> np.ndarray:
    """What a camera at this pose would see of the points: [height, width, 3] uint8, without the lens' distortion."""
    scale = width / camera.width
    height = max(1, round(camera.height * scale))
    K = pinhole_matrix(camera) * np.array([[scale], [scale], [1]])
    picture = np.full((height, width, 3), _BACKGROUND, np.uint8)
    xyz = points.xyz @ cam_from_world[:, :3].T + cam_from_world[:, 3]
    front = np.flatnonzero(xyz[:, 2] > 1e-6)
    front = front[np.argsort(-xyz[front, 2], kind="stable")]  # far ones first, to be painted over
    at = np.floor(xyz[front, :2] / xyz[front, 2:] * [K[0, 0], K[1, 1]] + K[:2, 2])
    radius = max(1, width // 200)
    near = (at > -radius - 1).all(1) & (at < np.array([width, height]) + radius).all(1)
    at, rgb = at[near].astype(np.int64), points.rgb[front[near]]
    splat = np.stack(np.meshgrid(*2 * [np.arange(-radius, radius + 1)]), -1).reshape(-1, 2)
    column, line = (at[:, None] + splat).reshape(-1, 2).T
    inside = (column >= 0) & (column < width) & (line >= 0) & (line < height)
    picture[line[inside], column[inside]] = np.repeat(rgb, len(splat), 0)[inside]
    return picture
