"""A map that localizes photos: by its head (scrflow.localize.head), by landmarks (scrflow.localize.landmarks), or by
landmarks that begin from the head's poses."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pycolmap
import torch
from PIL import Image

from scrflow.config import LandmarkLocalizeConfig, LocalizeConfig, LocalizeStage
from scrflow.core.device import device_for
from scrflow.core.errors import ScrflowError
from scrflow.core.seeds import derived_seed
from scrflow.features.views import EncodedView
from scrflow.localize.attempts import localized
from scrflow.localize.confidence import ALIKE, confidence_of, covariance_of, focal_motion, share_within
from scrflow.localize.focal import PRIOR_SPREAD
from scrflow.localize.group import Group, localized_group
from scrflow.localize.head import HeadLocalizer, Networks, QueryFeatures
from scrflow.localize.hint import Hint, HintLike, hint_of
from scrflow.localize.landmarks import LandmarkMatcher
from scrflow.localize.query import CameraLike, ImageLike, query_photo
from scrflow.localize.result import Clock, Localization, localize_scene
from scrflow.map.file import Map, load_map
from scrflow.pipeline.stages import code_of
from scrflow.scene.checks import checked_pose
from scrflow.storage.weights import expecting


def localize_queries(
    config: LocalizeStage,
    scene: Path,
    map_path: Path,
    out: Path,
    details: Path,
    threads: int,
    descriptors: Path | None = None,
) -> None:
    """The stage that localizes every query of a scene with a map, see scrflow.localize.result.localize_scene."""
    localizer = Localizer(load_map(map_path), config.localize, derived_seed(config.seed, "localize"))
    code = code_of("localize_queries", config)
    localize_scene(localizer, config, code, scene, map_path, out, details, threads, descriptors)


class Localizer:
    """A map, ready to localize photos on the CPU or one GPU.

    >>> Localizer.open("map.safetensors").localize("photo.jpg", "PINHOLE 640 480 525 525 320 240").cam_from_world
    """

    def __init__(
        self,
        map_: Map,
        config: LocalizeConfig | None = None,
        seed: int | None = None,
        threads: int = 1,
        device: str | None = None,
        networks: Networks | None = None,
    ):
        """``config`` and ``seed``: the map's own by default. ``threads`` judge hypotheses of one photo in parallel.
        ``networks``: to share with other maps. ``landmarks`` is the map's matcher, None for a map without them."""
        self.map = map_
        self._config = map_.config.localize if config is None else config
        self._seed = (derived_seed(map_.config.seed, "localize") if seed is None else seed) % (1 << 31)
        self.device, networks = device_for(device), networks or Networks()
        self._head = self.landmarks = None
        with expecting(map_.weights, "the map"):
            if map_.landmarks is not None:
                part = map_.config.landmarks
                encoder = networks.encoder(part.features.extractor, self.device)
                self._matching = self._config.landmarks or LandmarkLocalizeConfig()
                self.landmarks = LandmarkMatcher(map_.landmarks, part, self._matching, encoder, map_.views)
            if map_.head is not None:
                self._head = HeadLocalizer(map_, self._config, self._seed, self.device, networks, threads)

    @classmethod
    def open(cls, path: str | Path, device: str | None = None, threads: int = 1) -> Self:
        """The map of a file, to localize as the file says. ScrflowError if it is damaged or not a map."""
        map_ = load_map(Path(path))
        try:
            return cls(map_, threads=threads, device=device)
        except ScrflowError as error:  # the encoder does not exist, or has other weights
            raise ScrflowError(f"{path}: {error}") from None

    def localize(
        self,
        image: ImageLike | list[ImageLike],
        camera: CameraLike | list[CameraLike] | None = None,
        descriptor: torch.Tensor | list[torch.Tensor] | None = None,
        hint: HintLike | list[HintLike] | None = None,
    ) -> Any:
        """The Localization of one photo taken by ``camera`` (at the photo's full size; the forms of both:
        scrflow.localize.query.query_photo), or a list of them for a list, which takes one camera or as many.
        ``descriptor`` [dim], the photo's global descriptor, is needed if the map's retrieval feature comes from a file.
        ``hint``: where the photo was taken, roughly (scrflow.localize.hint).
        Several attempts are made where the focal length is unknown or the photo may be stored sideways
        (scrflow.localize.attempts). ScrflowError for an image or a camera that cannot be used."""
        if isinstance(image, list):
            queries = _of_each(len(image), images=image, cameras=camera, descriptors=descriptor, hints=hint)
            return [self.localize(*query) for query in queries]
        near = hint_of(hint)

        def attempt(photo: Image.Image, camera: pycolmap.Camera) -> tuple[Localization, None]:
            return self.localize_photo(photo, camera, descriptor, near), None

        return self.rated(localized(attempt, *query_photo(image, camera), turns=descriptor is None)[0])

    def localize_photo(
        self,
        photo: Image.Image,
        camera: pycolmap.Camera,
        descriptor: torch.Tensor | None = None,
        hint: Hint | None = None,
    ) -> Localization:
        """The result of one attempt on a photo whose pixels are those of ``camera``."""
        clock = Clock()
        return self.localize_features(self.features(photo, camera, None, descriptor, clock, hint), clock, hint)

    @torch.inference_mode()
    def features(
        self,
        photo: Image.Image,
        camera: pycolmap.Camera,
        like: QueryFeatures | None = None,
        descriptor: torch.Tensor | None = None,
        clock: Clock | None = None,
        hint: Hint | None = None,
    ) -> QueryFeatures:
        """The first half of ``localize``; ``like`` holds the same photo's keypoints, from a map that
        ``shares_keypoints`` with this one."""
        clock = clock or Clock()
        landmarks = None if self.landmarks is None else self.landmarks.view(photo, camera)
        clock.lap("encode")
        if self._head is None:
            return QueryFeatures(None, None, landmarks)
        view = self._head.encoded(photo, camera) if like is None else like.keypoints
        clock.lap("encode")
        if descriptor is None:
            descriptor = self._head.described(photo, camera, view, hint)
        return QueryFeatures(view, descriptor, landmarks)

    def shares_keypoints(self, other: Self) -> bool:
        """Whether both maps find the same keypoints in a photo: they share the encoder and encode at one size."""
        return self._head is not None and other._head is not None and self._head.shares_keypoints(other._head)

    @torch.inference_mode()
    def localize_features(
        self, features: QueryFeatures, clock: Clock | None = None, hint: Hint | None = None
    ) -> Localization:
        """The second half of ``localize``. ``confidence`` is the probability that the pose is within the map's finest
        threshold (scrflow.localize.confidence), divided by the number of places that explain the photo as well."""
        clock = clock or Clock()
        starts: list[np.ndarray] = []
        found = None if self._head is None else self._head.localize(features, clock, starts, hint)
        if self.landmarks is not None:
            refined = self.landmarks.localize(features.landmarks, self._seed, starts, hint)
            clock.lap("landmarks")
            if found is None or refined.cam_from_world is not None:
                hypothesis = None if found is None else found.hypothesis
                found = replace(refined, hypothesis=hypothesis)
        return self._judged(replace(found, ms=clock.laps()))

    def _judged(self, found: Localization) -> Localization:
        """The result with the covariance of its pose and, if the map has thresholds, its confidence."""
        kind, agree, config = self.agreement(found)
        pose = found.cam_from_world if agree.sum() >= config.min_inliers else None
        evidence, within = (found.view.pixels, found.xyz_world, agree, found.view.K, pose), self.map.config.thresholds
        confidence = confidence_of(*evidence, within[0], kind) / found.alike if within else None
        return replace(found, confidence=confidence, covariance=None if pose is None else covariance_of(*evidence))

    def localize_group(
        self,
        images: Sequence[ImageLike],
        camera: CameraLike | Sequence[CameraLike] | None,
        cams_from_rig: Sequence[np.ndarray],
    ) -> Group:
        """The pose of photos with known relative poses: ``cams_from_rig`` [3, 4] turn coordinates of the rig (or of
        odometry, in the map's unit) into those of each camera. ``camera``: one of all photos, or a list; the focal
        length must be known. ScrflowError for an image, a camera or a pose that cannot be used."""
        if not len(images):
            raise ScrflowError("a group without images; give at least one")
        features, poses = [], []
        members = _of_each(len(images), images=list(images), cameras=camera, poses=list(cams_from_rig))
        for i, (image, its_camera, pose) in enumerate(members):
            poses.append(checked_pose(pose, f"pose {i} in the rig"))
            photo, known = query_photo(image, its_camera)
            if known is None:
                raise ScrflowError(f"image {i} of the group: its focal length is unknown; give its camera")
            features.append(self.features(photo, known))
        return self.localize_group_features(features, poses)

    @torch.inference_mode()
    def localize_group_features(self, features: Sequence[QueryFeatures], cams_from_rig: Sequence[np.ndarray]) -> Group:
        """The second half of ``localize_group``. A photo's correspondences are those of its own best attempt; under the
        group's first pose landmarks are matched again."""
        found = [self.localize_features(f) for f in features]
        config = self._config if self.landmarks is None else self._matching

        def under(poses: Sequence[np.ndarray]) -> list[Localization]:
            return [self.landmarks.under(f.landmarks, pose) for f, pose in zip(features, poses, strict=True)]

        again = None if self.landmarks is None else under
        return localized_group(found, cams_from_rig, config, self._seed, self._judged, again)

    def rated(self, found: Localization) -> Localization:
        """The result with a confidence and a covariance that allow for the error of an estimated focal length."""
        if found.camera is None or found.covariance is None:
            return found
        spread = PRIOR_SPREAD if found.focal_spread is None else found.focal_spread
        agree, view, within = self.agreement(found)[1], found.view, self.map.config.thresholds
        motion = focal_motion(view.pixels, found.xyz_world, agree, view.K, found.cam_from_world, spread)
        found = replace(found, covariance=found.covariance + np.outer(motion, motion))
        if not within or found.confidence is None:
            return found
        confidence = found.confidence * share_within(motion, within[0])
        return replace(found, confidence=confidence, confidence_at_focal=found.confidence)

    @torch.inference_mode()
    def scene_coordinates(
        self, photo: Image.Image, camera: pycolmap.Camera, name: str
    ) -> tuple[EncodedView, np.ndarray]:
        """Keypoints of the mapping photo ``name`` and their scene coordinates [N, 3]: by the head under the photo's own
        encoding, or that of the image retrieved first if the map does not hold its own; without a head by landmarks."""
        if self._head is None:
            return self.landmarks.scene_coordinates(photo, camera)
        return self._head.scene_coordinates(photo, camera, name)

    def agreement(self, found: Localization) -> tuple[str, np.ndarray, LocalizeConfig | LandmarkLocalizeConfig]:
        """What the confidence of a pose rests on: the kind of pose, the keypoints [N] that agree with it, and how it
        was found. Many landmarks lie near a keypoint by chance, so only similar ones count."""
        if found.similarity is None:
            return "head", found.inliers, self._config
        return "landmarks", found.inliers & (found.similarity > ALIKE), self._matching


def _of_each(count: int, **given: Any) -> list[tuple[Any, ...]]:
    """A tuple for each image. What is not a list is of every image; ScrflowError for lists of another length."""
    columns = {name: value if isinstance(value, list) else [value] * count for name, value in given.items()}
    if {len(column) for column in columns.values()} != {count}:
        told = ", ".join(f"{len(column)} {name}" for name, column in columns.items())
        raise ScrflowError(f"{told}; give as many of each")
    return list(zip(*columns.values(), strict=True))
