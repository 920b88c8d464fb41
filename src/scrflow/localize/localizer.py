"""A map that localizes photos: by its head (retrieval, k hypotheses, PoseLib, the pose with the most inliers), by its
landmarks, or by landmarks that begin from the head's poses."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import torch
from PIL import Image

from scrflow.config import ExtractorConfig, LandmarkLocalizeConfig, LocalizeConfig, LocalizeStage
from scrflow.core.device import device_for
from scrflow.core.errors import ScrflowError
from scrflow.core.seeds import derived_seed
from scrflow.features.descriptors import GlobalDescriptor, build_descriptor
from scrflow.features.encoders import LocalEncoder, build_encoder
from scrflow.features.global_encoding import own_encoding, standardised
from scrflow.features.retrieval import PhotoDescriber
from scrflow.features.views import EncodedView, encode_view
from scrflow.localize.attempts import localized
from scrflow.localize.confidence import ALIKE, confidence_of, covariance_of, focal_motion, share_within
from scrflow.localize.focal import PRIOR_SPREAD
from scrflow.localize.group import Group, localized_group
from scrflow.localize.hint import Hint, HintLike, hint_of
from scrflow.localize.landmarks import LandmarkMatcher
from scrflow.localize.pose import SceneCoordinates, best_pose
from scrflow.localize.query import CameraLike, ImageLike, query_photo
from scrflow.localize.result import Clock, Localization, localize_scene
from scrflow.map.file import Map, load_map
from scrflow.map.format import retrieval_features
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


@dataclass(frozen=True)
class QueryFeatures:
    """What the networks of a map compute from a photo, before the head."""

    keypoints: EncodedView | None  # all that the head's encoder found; None for a map without a head
    descriptor: torch.Tensor | None  # [dim], the map's retrieval feature; None for a map without one
    landmarks: EncodedView | None = None  # the keypoints that are matched with landmarks; None for a map without them


class Networks:
    """Encoders and global descriptors that maps made with the same weights share, each built once."""

    def __init__(self) -> None:
        self._built: dict[str, Any] = {}

    def encoder(self, extractor: ExtractorConfig, device: torch.device | str = "cpu") -> LocalEncoder:
        key = f"{extractor.model_dump_json()} {device}"
        if key not in self._built:
            self._built[key] = build_encoder(extractor, device)
        return self._built[key]

    def descriptor(self, name: str, options: dict[str, Any], device: torch.device | str = "cpu") -> GlobalDescriptor:
        key = f"{name} {sorted(options.items())} {device}"
        if key not in self._built:
            self._built[key] = _OncePerPhoto(build_descriptor(name, options, device))
        return self._built[key]


class _OncePerPhoto:
    """A global descriptor that remembers the last photo of each thread: several maps describe the same one."""

    def __init__(self, network: GlobalDescriptor):
        self._network, self.dim = network, network.dim
        self._last = threading.local()

    def __call__(self, photo: Image.Image) -> torch.Tensor:
        if getattr(self._last, "photo", None) is not photo:
            self._last.vector, self._last.photo = self._network(photo), photo
        return self._last.vector


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
        ``networks``: to share with other maps."""
        self.map, self._threads = map_, threads
        self._config = map_.config.localize if config is None else config
        self._seed = (derived_seed(map_.config.seed, "localize") if seed is None else seed) % (1 << 31)
        if self._config.hypotheses > 1 and map_.encoding is None:
            raise ScrflowError(
                "the map holds no encodings of mapping images to try: localize.hypotheses must be 1 (config/methods)"
            )
        self.device = device_for(device)
        self._head = None if map_.head is None else map_.head.to(self.device)
        self._pca = None if map_.pca is None else map_.pca.to(self.device)
        networks, extractor = networks or Networks(), map_.config.extractor
        self._landmarks = self._encoder = self._describe = None
        with expecting(map_.weights, "the map"):
            if map_.landmarks is not None:
                part = map_.config.landmarks
                encoder = networks.encoder(part.features.extractor, self.device)
                self._matching = self._config.landmarks or LandmarkLocalizeConfig()
                self._landmarks = LandmarkMatcher(map_.landmarks, part, self._matching, encoder, map_.views)
            if self._head is None:
                return
            # one extraction serves head and retrieval if they share the extractor
            wanted = max(self._config.max_keypoints, map_.retrieval_keypoints)
            self._encoder = networks.encoder(extractor.model_copy(update={"max_keypoints": wanted}), self.device)
            if map_.retriever is not None:
                features, tensors = retrieval_features(map_.config), map_.retriever.description
                self._describe = PhotoDescriber(
                    features, tensors, self.device, extractor, networks.encoder, networks.descriptor
                )
        if self._encoder.dim != len(map_.pca.mean):
            raise ScrflowError(
                f"the map projects descriptors of {len(map_.pca.mean)} numbers, but {extractor.name}'s have "
                f"{self._encoder.dim}; write the map again with the extractor that it was made with"
            )

    @classmethod
    def open(cls, path: str | Path, device: str | None = None, threads: int = 1) -> Localizer:
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
        landmarks = None if self._landmarks is None else self._landmarks.view(photo, camera)
        clock.lap("encode")
        if self._head is None:
            return QueryFeatures(None, None, landmarks)
        view = self._encoded(photo, camera) if like is None else like.keypoints
        clock.lap("encode")
        few = hint is not None and len(self._candidates(hint)) <= self._config.hypotheses  # all of them are tried
        if descriptor is None and self._describe is not None and (not few or self.map.config.own_encoding):
            descriptor = self._describe(photo, camera, view)
        return QueryFeatures(view, descriptor, landmarks)

    def shares_keypoints(self, other: Localizer) -> bool:
        """Whether both maps find the same keypoints in a photo: they share the encoder and encode at one size."""
        if self._encoder is None or other._encoder is None:
            return False
        side, its = (m.map.config.extractor.short_side for m in (self, other))
        return self._encoder is other._encoder and side == its

    @torch.inference_mode()
    def similarity(self, features: QueryFeatures, k: int) -> np.ndarray:
        """Minus the squared distances [k] between the retrieval features of the photo and of the k nearest mapping
        images, best first; for a map with an index of images."""
        return self.map.retriever.search(features.descriptor, k)[1].numpy()

    @torch.inference_mode()
    def localize_features(
        self, features: QueryFeatures, clock: Clock | None = None, hint: Hint | None = None
    ) -> Localization:
        """The second half of ``localize``. ``confidence`` is the probability that the pose is within the map's finest
        threshold (scrflow.localize.confidence)."""
        clock = clock or Clock()
        starts: list[np.ndarray] = []
        found = None if self._head is None else self._by_head(features, clock, starts, hint)
        if self._landmarks is not None:
            refined = self._landmarks.localize(features.landmarks, self._seed, starts, hint)
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
        confidence = confidence_of(*evidence, config.threshold_px, within[0], kind) if within else None
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
        config = self._config if self._landmarks is None else self._matching

        def under(poses: Sequence[np.ndarray]) -> list[Localization]:
            return [self._landmarks.under(f.landmarks, pose) for f, pose in zip(features, poses, strict=True)]

        again = None if self._landmarks is None else under
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

    def _by_head(
        self, features: QueryFeatures, clock: Clock, starts: list[np.ndarray], hint: Hint | None
    ) -> Localization:
        """By scene coordinates alone. ``starts`` gets poses [3, 4] for landmarks to begin from, the best first."""
        config = self._config
        view = self._best_keypoints(features.keypoints)
        rows, encodings = self._encodings(features.descriptor, hint)
        clock.lap("retrieve")
        count = len(view.pixels)
        pose, inliers, hypothesis, reason = None, np.zeros(count, bool), None, "too few keypoints"
        xyz = np.zeros((count, 3))
        if count >= config.min_inliers:
            coordinates = self._coordinates(view, encodings)
            best, estimate = best_pose(
                coordinates, view.pixels, view.K, config, self._seed, clock, self._threads, starts, hint
            )
            if estimate is not None:
                starts.insert(0, estimate.cam_from_world)
            xyz = coordinates.all(best)
            hypothesis = None if rows is None else self.map.names[int(rows[best])]
            found = 0 if estimate is None else int(estimate.inliers.sum())
            within = "" if hint is None else " within the hint"
            reason = f"{found} inliers{within}, {config.min_inliers} are needed"
            if estimate is not None and found >= config.min_inliers:
                pose, inliers, reason = estimate.cam_from_world, estimate.inliers, None
        return Localization(pose, inliers, hypothesis, xyz, view, {}, reason)

    @torch.inference_mode()
    def landmarks_seen(self, features: QueryFeatures, pose: np.ndarray) -> np.ndarray:
        """Matches [M, 2] of a photo's keypoints (rows of ``features.landmarks``) with the map's landmarks that ``pose``
        [3, 4] projects next to them."""
        return self._landmarks.seen(features.landmarks, pose)

    @torch.inference_mode()
    def scene_coordinates(
        self, photo: Image.Image, camera: pycolmap.Camera, name: str
    ) -> tuple[EncodedView, np.ndarray]:
        """Keypoints of the mapping photo ``name`` and their scene coordinates [N, 3]: by the head under the photo's own
        encoding, or that of the image retrieved first if the map does not hold its own; without a head by landmarks."""
        if self._head is None:
            return self._landmarks.scene_coordinates(photo, camera)
        found = self._encoded(photo, camera)
        if self.map.encoding is not None and name in self.map.names:
            encodings = self.map.encoding[[self.map.names.index(name)]]
        else:
            _, encodings = self._encodings(None if self._describe is None else self._describe(photo, camera, found))
        view = self._best_keypoints(found)
        return view, self._coordinates(view, None if encodings is None else encodings[:1]).all(0)

    def agreement(self, found: Localization) -> tuple[str, np.ndarray, LocalizeConfig | LandmarkLocalizeConfig]:
        """What the confidence of a pose rests on: the kind of pose, the keypoints [N] that agree with it, and how it
        was found. Many landmarks lie near a keypoint by chance, so only similar ones count."""
        if found.similarity is None:
            return "head", found.inliers, self._config
        return "landmarks", found.inliers & (found.similarity > ALIKE), self._matching

    def _encoded(self, photo: Image.Image, camera: pycolmap.Camera) -> EncodedView:
        return encode_view(photo, camera, self._encoder, self.map.config.extractor.short_side, 1 << 30)

    def _best_keypoints(self, found: EncodedView) -> EncodedView:
        count = self._config.max_keypoints
        return EncodedView(found.pixels[:count], found.descriptors[:count], found.K, found.roll)

    def _encodings(
        self, descriptor: torch.Tensor | None, hint: Hint | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Rows [k] of the mapping images whose encodings are tried (None if they are not those of images), and the
        encodings [k, D] (None for a map without)."""
        if self.map.config.own_encoding and descriptor is not None:
            own = own_encoding(descriptor, self.map.centres)[None]
            return None, standardised(own, per_row=True) if self.map.config.global_encoding.scale else own
        if self.map.encoding is None:
            return None, None
        candidates = None if hint is None else self._candidates(hint)
        if candidates is not None and len(candidates) <= self._config.hypotheses:
            rows = torch.from_numpy(candidates)
        elif descriptor is None:
            return None, None
        else:
            rows = self.map.retriever.search(descriptor, self._config.hypotheses, candidates)[0]
        return rows, self.map.encoding[rows]

    def _candidates(self, hint: Hint) -> np.ndarray:
        """Rows [C] of the mapping images that may serve as hypotheses; all where the map holds no positions."""
        if self.map.views is None or self.map.encoding is None:
            return np.arange(len(self.map.names))
        return hint.photos(self.map.views, self._config.hypotheses)

    def _coordinates(self, view: EncodedView, encodings: torch.Tensor | None) -> SceneCoordinates:
        local = self._pca(view.descriptors.to(self.device))
        return SceneCoordinates(self._head, local, None if encodings is None else encodings.to(self.device))


def _of_each(count: int, **given: Any) -> list[tuple[Any, ...]]:
    """A tuple for each image. What is not a list is of every image; ScrflowError for lists of another length."""
    columns = {name: value if isinstance(value, list) else [value] * count for name, value in given.items()}
    if {len(column) for column in columns.values()} != {count}:
        told = ", ".join(f"{len(column)} {name}" for name, column in columns.items())
        raise ScrflowError(f"{told}; give as many of each")
    return list(zip(*columns.values(), strict=True))
