"""Pose of a photo by matching its keypoints with a map's landmarks: first with all of them, then with those that a pose
projects near a keypoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pycolmap
import torch
from PIL import Image
from scipy.spatial import cKDTree

from scrflow.config import LandmarkLocalizeConfig, LandmarksPart
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import (
    camera_centre,
    pinhole_matrix,
    pinhole_pixels,
    project,
    rays_from_pixels,
    reprojection_error,
    rescaled_camera,
)
from scrflow.features.encoders import LocalEncoder
from scrflow.features.matching import PhotoFeatures, photo_features, reduction
from scrflow.features.views import EncodedView
from scrflow.landmarks.codes import Landmarks
from scrflow.landmarks.lens import corrected
from scrflow.localize.hint import Hint
from scrflow.localize.pose import PoseEstimate, estimate_pose
from scrflow.localize.result import Localization
from scrflow.map.views import Views

# cosine of a local match. In photos of another place half of the keypoints near a projected landmark have less than
# 0.2, one in fifteen more than 0.6
_LEAST_SIMILARITY = 0.7
_ROWS = 128  # keypoints that are compared with all landmarks at a time: bounds the memory
_LAST_PX = 3.0  # radius of the last matching, by a pose of landmarks
# With fewer inliers than _FEW, landmarks of one place at a time are tried: those that a camera within _PLACE times the
# median reach of mapping photos, turned by at most _TURN_DEG, may see. With every landmark of the demo in the map twice
# (2 000 of them) 95 % of queries are localized by 10 such places, 92 % by 5, none without.
_FEW, _PLACE, _TURN_DEG, _VOTES = 40, 0.15, 40.0, 3
# Under a head's pose every keypoint finds a landmark near it: in photos of other places up to 26 agree by chance (175
# photos, five maps; 44 in one)
_UNDER_HEAD = 30
_AS_GOOD = 0.8  # share of the best pose's inliers with which another place explains the photo as well


_Settled = tuple[np.ndarray, PoseEstimate | None]  # matches [M, 2] and their pose


def _agreeing(one: _Settled) -> int:
    return 0 if one[1] is None else int(one[1].inliers.sum())


class LandmarkMatcher:
    """Landmarks of a map, ready to be matched with photos."""

    def __init__(
        self,
        landmarks: Landmarks,
        part: LandmarksPart,
        config: LandmarkLocalizeConfig,
        encoder: LocalEncoder,
        views: Views | None = None,
    ):
        self._views = views
        reach = np.zeros(0) if views is None else views.reach[views.reach > 0]
        self._place_size = _PLACE * float(np.median(reach)) if len(reach) else None
        self._landmarks, self._features, self._config, self._encoder = landmarks, part.features, config, encoder
        if encoder.dim != len(landmarks.projection.mean):
            raise ScrflowError(
                f"the map's landmarks are of descriptors of {len(landmarks.projection.mean)} numbers, but "
                f"{part.features.name}'s have {encoder.dim}; write the map again with the features of its tracks"
            )

    def view(self, photo: Image.Image, camera: pycolmap.Camera) -> EncodedView:
        """Undistorted keypoints of a photo, in the pinhole image of its reduced size, and their projected
        descriptors."""
        features: PhotoFeatures = photo_features(photo, self._encoder, self._features)
        scale = reduction(photo.size, self._features)
        K = pinhole_matrix(rescaled_camera(camera, *(round(side * scale) for side in photo.size)))
        rays = corrected(self._landmarks.lens, camera, rays_from_pixels(camera, features.pixels))
        pixels = pinhole_pixels(rays, K)
        usable = np.isfinite(pixels).all(1)  # in some corners a lens's distortion has no inverse
        return EncodedView(pixels[usable], self._landmarks.projected(features.only(usable).unit_descriptors()), K, 0.0)

    def localize(
        self, view: EncodedView, seed: int, starts: Sequence[np.ndarray] = (), hint: Hint | None = None
    ) -> Localization:
        """Pose of a photo from its ``view``: the one with the most inliers among those from matches with all landmarks
        and from local matches under each pose [3, 4] of ``starts``; if they are few, also from matches with the
        landmarks of one place at a time. With a ``hint`` the first are matches with those landmarks that it leaves, and
        poses that it excludes do not count. Scene coordinates are NaN for keypoints without a match."""
        rows = None if hint is None else hint.landmarks(self._landmarks, self._views, view.K)
        tried = [self._nearest(view.descriptors, rows)]
        tried += [self._near(view, start, self._config.radius_px) for start in starts[: self._config.hypotheses]]
        settled = [self._settled(view, matches, seed) for matches in tried]
        settled[1:] = [one for one in settled[1:] if _agreeing(one) >= _UNDER_HEAD]
        if hint is not None:
            settled = [
                (m, None if found is None or not hint.allows(found.cam_from_world) else found) for m, found in settled
            ]
        elif self._place_size is not None and max(map(_agreeing, settled)) < _FEW:
            places = self._places(view)
            settled += [self._settled(view, self._nearest(view.descriptors, rows), seed) for rows in places]
        best, found = max(settled, key=_agreeing)
        by_descriptor = np.full((len(view.pixels), 3), np.nan)
        by_descriptor[tried[0][:, 0]] = self._landmarks.xyz[tried[0][:, 1]]
        alike = self._alike(settled)
        return replace(self._result(view, best, found), by_descriptor=by_descriptor, alike=alike)

    def _places(self, view: EncodedView) -> list[np.ndarray]:
        """Rows of the landmarks around each of the mapping photos that have the most votes. A keypoint votes for the
        photos of its nearest landmarks, also where the ratio test would refuse them all for being alike."""
        every, most = self._landmarks.descriptors.T, min(_VOTES, len(self._landmarks.xyz))
        nearest = torch.cat([(block @ every).topk(most)[1] for block in view.descriptors.split(_ROWS)])
        votes = np.bincount(self._landmarks.image[nearest.numpy().ravel()], minlength=len(self._views.centre))
        found = []
        for i in np.argsort(-votes, kind="stable")[: self._config.places]:
            around = Hint(self._views.centre[i], self._place_size, self._views.direction[i], _TURN_DEG)
            found.append(around.landmarks(self._landmarks, self._views, view.K))
        return found

    def _alike(self, settled: list[_Settled]) -> int:
        """In how many places there is a pose with about as many inliers as the best."""
        if self._place_size is None:
            return 1
        enough = max(_AS_GOOD * max(map(_agreeing, settled)), self._config.min_inliers)
        places: list[np.ndarray] = []
        for centre in (camera_centre(one[1].cam_from_world) for one in settled if _agreeing(one) >= enough):
            if all(np.linalg.norm(centre - other) > self._place_size for other in places):
                places.append(centre)
        return max(len(places), 1)

    def seen(self, view: EncodedView, pose: np.ndarray) -> np.ndarray:
        """Matches [M, 2] of keypoints with the landmarks that ``pose`` [3, 4] projects next to them."""
        return self._near(view, pose, _LAST_PX)

    def under(self, view: EncodedView, pose: np.ndarray) -> Localization:
        """A photo of known pose [3, 4]: the landmarks projected next to its keypoints, and which of them agree."""
        found = self._result(view, self.seen(view, pose), None)
        inliers = reprojection_error(view.pixels, found.xyz_world, view.K, pose) < self._config.threshold_px
        return replace(found, cam_from_world=pose, inliers=inliers, reason=None)

    def scene_coordinates(self, photo: Image.Image, camera: pycolmap.Camera) -> tuple[EncodedView, np.ndarray]:
        """Keypoints of a photo that match a landmark, and the landmarks [N, 3]."""
        view = self.view(photo, camera)
        matches = self._nearest(view.descriptors)
        matched = EncodedView(view.pixels[matches[:, 0]], view.descriptors[matches[:, 0]], view.K, view.roll)
        return matched, self._landmarks.xyz[matches[:, 1]]

    def _settled(self, view: EncodedView, matches: np.ndarray, seed: int) -> _Settled:
        """Pose and its matches: from ``matches``, or from the landmarks that the first pose projects next to a keypoint
        if that gives at least as many inliers."""
        found = self._pose(view, matches, seed)
        if (
            found is None or found.inliers.sum() < self._config.min_inliers
        ):  # local matches under a wrong pose agree by chance
            return matches, found
        again = self._near(view, found.cam_from_world, _LAST_PX)
        settled = self._pose(view, again, seed)
        if settled is None or settled.inliers.sum() < found.inliers.sum():
            return matches, found
        return again, settled

    def _nearest(self, descriptors_Nd: torch.Tensor, rows: np.ndarray | None = None) -> np.ndarray:
        """Matches [M, 2] with all landmarks, or those of ``rows``: mutual nearest neighbours that pass the ratio
        test."""
        if not len(descriptors_Nd) or (rows is not None and len(rows) < 2):
            return np.zeros((0, 2), np.int64)
        every = (self._landmarks.descriptors if rows is None else self._landmarks.descriptors[rows]).T
        best_of_landmark = torch.full((every.shape[1],), -2.0)
        landmark, best, second = [], [], []
        memory = torch.empty(_ROWS, every.shape[1])  # new memory for each block would cost a fifth of the time
        for block in descriptors_Nd.split(_ROWS):
            similarity = torch.mm(block, every, out=memory[: len(block)])
            torch.maximum(best_of_landmark, similarity.amax(0), out=best_of_landmark)
            # numpy's argmax along rows takes a tenth of the time of torch's maximum with indices
            nearest = torch.from_numpy(similarity.numpy().argmax(1))[:, None]
            landmark.append(nearest[:, 0])
            best.append(similarity.gather(1, nearest)[:, 0])
            second.append(similarity.scatter_(1, nearest, -1.0).amax(1))
        to, value = torch.cat(landmark), torch.cat(best)
        angle, next_angle = (v.clamp(-1, 1).acos() for v in (value, torch.cat(second)))
        good = (value == best_of_landmark[to]) & (angle < self._config.max_ratio * next_angle)
        keypoint = torch.nonzero(good)[:, 0]
        matched = to[keypoint].numpy()
        return np.stack([keypoint.numpy(), matched if rows is None else rows[matched]], 1)

    def _pose(self, view: EncodedView, matches: np.ndarray, seed: int) -> PoseEstimate | None:
        if len(matches) < 4:
            return None
        pixels, xyz = view.pixels[matches[:, 0]], self._landmarks.xyz[matches[:, 1]]
        return estimate_pose(pixels, xyz, view.K, self._config, self._config.threshold_px, seed)

    def _near(self, view: EncodedView, pose: np.ndarray, radius_px: float) -> np.ndarray:
        """Matches [M, 2] of keypoints with landmarks that ``pose`` projects within ``radius_px``: mutual nearest
        neighbours in descriptors."""
        none = np.zeros((0, 2), np.int64)
        pixels, depth = project(self._landmarks.xyz, view.K, pose)
        size = 2 * view.K[:2, 2] + radius_px
        shown = np.flatnonzero((depth > 0) & (pixels > -radius_px).all(1) & (pixels < size).all(1))
        if not len(shown) or not len(view.pixels):
            return none
        near = cKDTree(view.pixels).sparse_distance_matrix(cKDTree(pixels[shown]), radius_px, output_type="ndarray")
        if not len(near):
            return none
        value = self._similarity(view, near["i"], shown[near["j"]])
        near, value = near[value > _LEAST_SIMILARITY], value[value > _LEAST_SIMILARITY]
        order = np.argsort(-value, kind="stable")
        i, j = near["i"][order], near["j"][order]
        first_i, first_j = (np.zeros(len(order), bool) for _ in range(2))
        first_i[np.unique(i, return_index=True)[1]] = True
        first_j[np.unique(j, return_index=True)[1]] = True
        mutual = first_i & first_j
        return np.stack([i[mutual], shown[j[mutual]]], 1)

    def _similarity(self, view: EncodedView, keypoint_M: np.ndarray, landmark_M: np.ndarray) -> np.ndarray:
        """Cosine [M] of pairs of a keypoint and a landmark."""
        keypoint, landmark = (torch.from_numpy(rows.astype(np.int64)) for rows in (keypoint_M, landmark_M))
        return (view.descriptors[keypoint] * self._landmarks.descriptors[landmark]).sum(1).numpy()

    def _result(self, view: EncodedView, matches: np.ndarray, found: PoseEstimate | None) -> Localization:
        count = len(view.pixels)
        xyz, inliers = np.full((count, 3), np.nan), np.zeros(count, bool)
        xyz[matches[:, 0]] = self._landmarks.xyz[matches[:, 1]]
        similarity = np.full(count, np.nan)
        similarity[matches[:, 0]] = self._similarity(view, *matches.T)
        agreeing = 0 if found is None else int(found.inliers.sum())
        pose, reason = None, f"{agreeing} inliers of {len(matches)} matches, {self._config.min_inliers} are needed"
        if found is not None and agreeing >= self._config.min_inliers:
            pose, reason = found.cam_from_world, None
            inliers[matches[found.inliers, 0]] = True
        return Localization(pose, inliers, None, xyz, view, {}, reason, similarity=similarity)
