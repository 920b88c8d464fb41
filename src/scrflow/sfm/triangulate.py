"""Triangulate 3D points of a posed scene from SIFT, or from hloc's features and matches.

Matches must agree with the known poses, which stay as they are, as do the cameras. The output folder is a COLMAP model
with ``triangulation.json``; the graph of shared points is built from it.
"""

import itertools
import logging
import shutil
from pathlib import Path

import numpy as np
import pycolmap

from scrflow.config import TriangulateStage
from scrflow.core.errors import ScrflowError, full_disk_reported
from scrflow.core.geometry import camera_centre, rays_from_pixels
from scrflow.pipeline.stages import code_of
from scrflow.scene.colmap_model import MODEL_DIGEST, View, figures, model_of_views, write_binary_model
from scrflow.scene.model import Scene, load_scene
from scrflow.sfm.colmap_process import quiet_pycolmap
from scrflow.sfm.matching import extract_sift, import_matches, match_pairs, nearest_pairs
from scrflow.storage.artifact import Stamp, atomic_dir, folder_digest, sha256_file, write_json

log = logging.getLogger("scrflow")

EXHAUSTIVE_UP_TO = 60
NEIGHBOURS = 20
MAX_ANGLE_DEG = 75.0  # between viewing directions; SIFT rarely matches beyond it
MAX_ERROR_PX = 4.0
MIN_MATCHES = 15
_MAX_IMAGE_SIZE = 1600


def triangulate(config: TriangulateStage, scene: Path, out: Path, threads: int) -> None:
    """Write the model of the mapping images of the scene artifact ``scene`` with points to the folder ``out``.

    The same seed gives the same bytes for any ``threads``. ScrflowError when no point can be triangulated.
    """
    loaded = load_scene(scene)
    quiet_pycolmap()
    with atomic_dir(out) as folder, full_disk_reported(out):
        work = folder / "work"
        work.mkdir()
        database = work / "database.db"
        model = model_of_views(loaded.mapping)
        write_database(model, database)
        names = [v.name for v in loaded.mapping]
        inputs: dict[str, Path | str] = {"scene": scene / "scene.json"}
        if config.hloc_features is not None:
            features, matches = Path(config.hloc_features), Path(config.hloc_matches)
            pairs = import_matches(database, names, features, matches, config.seed, verify=False)
            inputs |= {"hloc_features": sha256_file(features)[:16], "hloc_matches": sha256_file(matches)[:16]}
        else:
            loaded.check_photos(names)
            extract_sift(database, loaded.image_root, names, config.max_features, _MAX_IMAGE_SIZE, threads)
            if len(names) <= EXHAUSTIVE_UP_TO and not loaded.parts:
                pairs = list(itertools.combinations(names, 2))
            else:
                pairs = pose_pairs(loaded.mapping, NEIGHBOURS, loaded.same_part())
            match_pairs(database, pairs, threads, config.seed, verify=False)
        model, verified = triangulate_matches(database, loaded, model, work, len(pairs), config.seed)
        shutil.rmtree(work)
        write_binary_model(model, folder)
        stamp = Stamp.make("triangulation", config, code_of("triangulate_points", config), **inputs)
        report = {**summary(model, len(pairs), verified), MODEL_DIGEST: folder_digest(folder)}
        write_json(folder / "triangulation.json", report, stamp)


def triangulate_matches(
    database: Path, scene: Scene, model: pycolmap.Reconstruction, work: Path, pairs: int, seed: int
) -> tuple[pycolmap.Reconstruction, int]:
    """The model with 3D points from the keypoints and matches of a COLMAP database, and the number of pairs of images
    that agree with the poses. Poses and cameras stay as they are.

    ``pairs``: how many were matched, for the message. ``work``: a folder for COLMAP's own files. ScrflowError when no
    point can be triangulated.
    """
    verified = _verify_by_pose(database, scene, model)
    options = pycolmap.IncrementalPipelineOptions(random_seed=seed, num_threads=1)
    model = pycolmap.triangulate_points(
        model, database, scene.image_root, work, clear_points=True, options=options, refine_intrinsics=False
    )
    if model.num_points3D() == 0:
        raise ScrflowError(
            f"{scene.folder}: no point could be triangulated from {pairs} pairs of mapping images ({verified} agree "
            "with the poses); check that poses and intrinsics belong to these images"
        )
    return model, verified


def summary(model: pycolmap.Reconstruction, pairs: int, verified: int) -> dict[str, int | float]:
    """What triangulation.json says of the model; logged too."""
    report = {
        "images": model.num_reg_images(),
        "pairs": pairs,
        "verified_pairs": verified,
        **figures(model),
    }
    log.info(
        "triangulation: %(points)d points, mean error %(mean_reprojection_error_px).2f px, %(verified_pairs)d of "
        "%(pairs)d pairs agree with the poses",
        report,
    )
    return report


def pose_pairs(views: tuple[View, ...], count: int, allowed: np.ndarray | None = None) -> list[tuple[str, str]]:
    """Each image with its ``count`` nearest in position and viewing direction, every pair once; of those ``allowed``
    [N, N] (bool), where given.

    A distance of the median gap to the ``count``-th nearest camera weighs as much as 30 degrees.
    """
    poses = np.stack([v.cam_from_world for v in views])
    centres = camera_centre(poses)
    gap = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    directions = poses[:, 2, :3]  # the camera's z axis in the world
    angle = np.degrees(np.arccos(np.clip(directions @ directions.T, -1, 1)))
    unit = np.median(np.sort(gap, axis=1)[:, min(count, len(views) - 1)])
    distance = gap / max(unit, 1e-12) + angle / 30.0
    distance[angle > MAX_ANGLE_DEG] = np.inf
    if allowed is not None:
        distance[~allowed] = np.inf
    return nearest_pairs([v.name for v in views], distance, count)


def epipolar_error_px(
    rays1_N2: np.ndarray, rays2_N2: np.ndarray, pose1: np.ndarray, pose2: np.ndarray, focal_px: float
) -> np.ndarray:
    """Sampson error [N], px, of matched undistorted rays on the plane z = 1, under two poses cam_from_world [3, 4]."""
    R = pose2[:, :3] @ pose1[:, :3].T
    t = pose2[:, 3] - R @ pose1[:, 3]
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    E = cross @ R
    x1 = np.column_stack([rays1_N2, np.ones(len(rays1_N2))])
    x2 = np.column_stack([rays2_N2, np.ones(len(rays2_N2))])
    line2, line1 = x1 @ E.T, x2 @ E
    scale = np.sqrt((line2[:, :2] ** 2).sum(1) + (line1[:, :2] ** 2).sum(1))
    return np.abs((x2 * line2).sum(1)) / np.maximum(scale, 1e-12) * focal_px


def write_database(model: pycolmap.Reconstruction, path: Path) -> None:
    """Cameras and images of the model under their own ids."""
    with pycolmap.Database.open(path) as db:
        for camera in model.cameras.values():
            db.write_camera(camera, use_camera_id=True)
        for rig in model.rigs.values():
            db.write_rig(rig, use_rig_id=True)
        for frame in model.frames.values():
            db.write_frame(frame, use_frame_id=True)
        for image in model.images.values():
            db.write_image(image, use_image_id=True)


def _verify_by_pose(database: Path, scene: Scene, model: pycolmap.Reconstruction) -> int:
    """Keep the matches that agree with the known poses; the number of pairs that have enough of them."""
    ids = {model.image(i).name: i for i in model.reg_image_ids()}
    views = {ids[v.name]: v for v in scene.mapping}
    verified = 0
    with pycolmap.Database.open(database) as db:
        rays = {}
        for i, view in views.items():
            rays[i] = rays_from_pixels(view.camera, np.asarray(db.read_keypoints(i), np.float64)[:, :2])
        pair_ids, all_matches = db.read_all_matches()
        for pair_id, matches in zip(pair_ids, all_matches, strict=True):
            i, j = pycolmap.pair_id_to_image_pair(pair_id)
            matches = np.asarray(matches)
            if len(matches) < MIN_MATCHES:
                continue
            focal = 0.5 * (views[i].camera.mean_focal_length() + views[j].camera.mean_focal_length())
            error = epipolar_error_px(
                rays[i][matches[:, 0]], rays[j][matches[:, 1]], views[i].cam_from_world, views[j].cam_from_world, focal
            )
            good = matches[error < MAX_ERROR_PX]
            if len(good) < MIN_MATCHES:
                continue
            # COLMAP skips a geometry without a configuration, and would triangulate nothing
            geometry = pycolmap.TwoViewGeometry()
            geometry.config = pycolmap.TwoViewGeometryConfiguration.CALIBRATED
            geometry.inlier_matches = good
            db.write_two_view_geometry(i, j, geometry)
            verified += 1
    return verified
