"""Localization by matching: retrieval, matches with each retrieved image, PoseLib on the points behind the matches."""

from pathlib import Path

import numpy as np
import pycolmap
import torch
from PIL import Image

from scrflow.baseline.mapping import BaselineMap, load_map
from scrflow.config import BaselineLocalizeStage, MatchLocalizeConfig
from scrflow.core.device import device_for
from scrflow.core.geometry import pinhole_matrix, pinhole_pixels, rays_from_pixels, reprojection_error, rescaled_camera
from scrflow.core.seeds import derived_seed
from scrflow.features.encoders import build_encoder
from scrflow.features.matching import build_matcher, photo_features
from scrflow.features.retrieval import PhotoDescriber
from scrflow.features.views import EncodedView
from scrflow.localize.pose import estimate_pose
from scrflow.localize.result import Clock, Localization, localize_scene
from scrflow.pipeline.stages import code_of
from scrflow.storage.weights import expecting


def localize_baseline(
    config: BaselineLocalizeStage,
    scene: Path,
    map_path: Path,
    out: Path,
    details: Path,
    threads: int,
    descriptors: Path | None = None,
) -> None:
    """The stage that localizes every query of a scene by matching, see scrflow.localize.result.localize_scene. There is
    no confidence in ``details``: its coefficients were fitted for scene coordinates."""
    localizer = MatchLocalizer(load_map(map_path), config.localize, derived_seed(config.seed, "localize"))
    code = code_of("localize_baseline", config)
    localize_scene(localizer, config, code, scene, map_path, out, details, threads, descriptors)


class MatchLocalizer:
    """A map of points, ready to localize photos."""

    def __init__(self, map_: BaselineMap, config: MatchLocalizeConfig, seed: int):
        self._map, self._config, self._seed = map_, config, seed % (1 << 31)
        c = map_.config
        with expecting(map_.weights, "the map"):
            self._encoder = build_encoder(c.features.extractor, device_for())
            self._matcher = build_matcher(c.matcher, map_.descriptors.shape[1])
            self._describe = PhotoDescriber((c.retrieval, *c.retrieval_parts), map_.retriever.description, device_for())

    @torch.inference_mode()
    def localize_photo(
        self, photo: Image.Image, camera: pycolmap.Camera, descriptor: torch.Tensor | None = None
    ) -> Localization:
        """Pose of a photo taken by ``camera``; ``descriptor`` [dim] if the retrieval feature comes from a file. Scene
        coordinates are NaN for keypoints without a match."""
        clock, map_, config = Clock(), self._map, self._config
        features = photo_features(photo, self._encoder, map_.config.features)
        scale = config.short_side / min(photo.size)
        K = pinhole_matrix(rescaled_camera(camera, *(round(side * scale) for side in photo.size)))
        pixels = pinhole_pixels(rays_from_pixels(camera, features.pixels), K)
        usable = np.isfinite(pixels).all(1)  # in some corners a lens's distortion has no inverse
        features, pixels = features.only(usable), pixels[usable]
        clock.lap("encode")
        own = self._describe(photo, camera) if descriptor is None else descriptor
        rows = map_.retriever.search(own, config.retrieved)[0].tolist()
        clock.lap("retrieve")
        keypoint, point, image = [], [], []
        for row in rows:
            seen, points = map_.image(row)
            matches = self._matcher(features, seen)
            keypoint.append(matches[:, 0])
            point.append(points[matches[:, 1]])
            image.append(np.full(len(matches), row))
        keypoint, point, image = (np.concatenate(part) for part in (keypoint, point, image))
        # several images may give a keypoint the same point: count it once
        pairs, pair = np.unique(np.stack([keypoint, point], 1), axis=0, return_inverse=True)
        clock.lap("match")
        pairs_px, pairs_xyz = pixels[pairs[:, 0]], map_.xyz[pairs[:, 1]].astype(np.float64)
        found = estimate_pose(pairs_px, pairs_xyz, K, config, config.threshold_px, self._seed)
        clock.lap("pose")
        error = np.full(len(pairs), np.inf)
        if found is not None:
            error = reprojection_error(pairs_px, pairs_xyz, K, found.cam_from_world)
        xyz = np.full((len(pixels), 3), np.nan)
        order = np.argsort(-error, kind="stable")  # of a keypoint's points, the best is written last
        xyz[pairs[order, 0]] = pairs_xyz[order]
        inside = error < config.threshold_px
        inliers = np.zeros(len(pixels), bool)
        inliers[pairs[inside, 0]] = True
        view = EncodedView(pixels, features.unit_descriptors(), K, 0.0)
        votes = np.bincount(image[inside[pair.ravel()]], minlength=1)
        hypothesis = map_.names[int(votes.argmax()) if votes.any() else rows[0]]
        count = int(inliers.sum())
        pose, reason = None if found is None else found.cam_from_world, None
        if pose is None or count < config.min_inliers:
            reason = f"{count} inliers of {len(pairs)} matches, {config.min_inliers} are needed"
            pose, inliers = None, np.zeros(len(pixels), bool)
        return Localization(pose, inliers, hypothesis, xyz, view, clock.laps(), reason)
