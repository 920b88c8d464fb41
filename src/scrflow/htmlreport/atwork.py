"""The map at work again, for what a run does not keep: single queries in full, and the points that the map implies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scrflow.artifacts import read_stamp
from scrflow.cameras import pinhole_matrix, pixels_from_rays
from scrflow.config import LocalizeStage
from scrflow.errors import ScrflowError
from scrflow.figures import Reprojection
from scrflow.htmlreport.run import Run
from scrflow.images import read_rgb
from scrflow.localization import Localization, query_descriptors
from scrflow.localizer import Localizer
from scrflow.mapexport import ExportOptions, merge, observe
from scrflow.mapfile import load_map
from scrflow.parallel import one_thread_each
from scrflow.scene.model import Scene
from scrflow.seeds import derived_seed

MAP = "map.safetensors"
# photos that the cloud is made from, evenly over the mapping photos: with 60, the walls of a room are seen, and a report
# of thousands of photos does not take hours
CLOUD_PHOTOS = 60


@dataclass(frozen=True)
class Points:
    """Coloured points in the world; ``note`` says what they are, or why there is none."""

    xyz: np.ndarray  # [P, 3]
    rgb: np.ndarray  # [P, 3] uint8
    note: str

    @classmethod
    def none(cls, why: str) -> Points:
        return cls(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), why)


@dataclass(frozen=True)
class ShownQuery:
    """One query, localized once more."""

    found: Localization
    points: Reprojection | None  # of the photo's pixels; None without a pose


def open_localizer(run: Run) -> Localizer:
    """The run's map, to localize as the run did."""
    config = LocalizeStage.model_validate(read_stamp(run.folder / "localization.json", "localization").config)
    return Localizer(load_map(run.folder / MAP), config.localize, derived_seed(config.seed, "localize"))


def localize_again(run: Run, localizer: Localizer, name: str) -> ShownQuery:
    """What the localizer makes of a query of the run."""
    query = next(q for q in run.scene.queries if q.name == name)
    file = _descriptor_file(run)
    descriptor = None if file is None else query_descriptors(file, [name])[name]
    with one_thread_each():
        found = localizer.localize(read_rgb(run.scene.image_path(name)), query.camera, descriptor)
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
    for path, made in run.chain.items():
        retrieval = (made.stamp.config.get("retrieval") or {}) if made.stamp is not None else {}
        if path.endswith(".h5") and made.stamp.kind == "retrieval" and retrieval.get("kind") == "hloc":
            return run.folder.absolute().parents[1] / path
    return None


def implied_points(localizer: Localizer, scene: Scene, threads: int) -> Points:
    """The points that the map implies for its mapping photos (scrflow.mapexport), or for an even choice of them."""
    step = -(-len(scene.mapping) // CLOUD_PHOTOS)
    thinned = replace(scene, mapping=scene.mapping[::step])
    # of photos far between, few see the same: a point of one alone counts then
    options = ExportOptions(min_views=2 if step == 1 else 1)
    try:
        cloud = merge(observe(localizer, thinned, options.max_error_px, threads), options)
    except ScrflowError as error:  # an untrained map: the page is to say so, not to be missing
        return Points.none(f"the map implies no point cloud: {error}")
    photos = f"all {len(scene.mapping)}" if step == 1 else f"{len(thinned.mapping)} of {len(scene.mapping)}"
    note = f"{len(cloud.xyz)} points, from the keypoints of {photos} mapping photos put in the world by the map"
    return Points(cloud.xyz, cloud.rgb, note)


def render_points(points: Points, camera, cam_from_world: np.ndarray, width: int) -> np.ndarray:
    """What a camera at this pose would see of the points: [height, width, 3] uint8, without the lens' distortion."""
    scale = width / camera.width
    height = max(1, round(camera.height * scale))
    K = pinhole_matrix(camera) * np.array([[scale], [scale], [1]])
    picture = np.full((height, width, 3), 244, np.uint8)
    xyz = points.xyz @ cam_from_world[:, :3].T + cam_from_world[:, 3]
    front = np.flatnonzero(xyz[:, 2] > 1e-6)
    front = front[np.argsort(-xyz[front, 2], kind="stable")]  # far ones first, to be painted over
    at = np.floor(xyz[front, :2] / xyz[front, 2:] * [K[0, 0], K[1, 1]] + K[:2, 2])
    radius = max(1, width // 220)
    near = (at > -radius - 1).all(1) & (at < np.array([width, height]) + radius).all(1)
    at, rgb = at[near].astype(np.int64), points.rgb[front[near]]
    splat = np.stack(np.meshgrid(*2 * [np.arange(-radius, radius + 1)]), -1).reshape(-1, 2)
    column, line = (at[:, None] + splat).reshape(-1, 2).T
    inside = (column >= 0) & (column < width) & (line >= 0) & (line < height)
    picture[line[inside], column[inside]] = np.repeat(rgb, len(splat), 0)[inside]
    return picture
