"""A map, ready to localize photos: retrieval, k hypotheses, the head, PoseLib, the pose with the most inliers.

See DESIGN: The method."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
import pycolmap
import torch
from PIL import Image

from scrflow.config import ExtractorConfig, LocalizeConfig, RetrievalPart
from scrflow.core.errors import ScrflowError
from scrflow.core.seeds import derived_seed
from scrflow.features.global_encoding import own_encoding, standardised
from scrflow.features.retrieval.describe import build_describer
from scrflow.features.views import EncodedView, encode_view
from scrflow.localize.confidence import confidence_of
from scrflow.localize.hypotheses import SceneCoordinates, best_hypothesis
from scrflow.localize.networks import Networks
from scrflow.localize.pose import Consensus, PoseEstimate, estimate_pose
from scrflow.localize.query import CameraLike, ImageLike, query_photo
from scrflow.localize.result import Clock, Localization
from scrflow.map.file import Map, load_map
from scrflow.storage.weights import expecting


@dataclass(frozen=True)
class Look:
    """What a map's networks make of a photo, before any of the map's own comes in but its retrieval feature."""

    photo: Image.Image
    camera: pycolmap.Camera
    keypoints: EncodedView  # all that the encoder gave
    descriptor: torch.Tensor | None  # [dim], the map's retrieval feature; None for a map that has none


class Localizer:
    """A map, ready to localize photos on the CPU or one GPU.

    >>> Localizer.open("map.safetensors").localize("photo.jpg", "PINHOLE 640 480 525 525 320 240").cam_from_world
    """

    def __init__(
        self,
        map_: Map,
        config: LocalizeConfig,
        seed: int = 0,
        threads: int = 1,
        device: str | None = None,
        networks: Networks | None = None,
    ):
        """``networks``: those of another map that was made with the same weights, to be shared."""
        if config.hypotheses > 1 and map_.encoding is None:
            raise ScrflowError("this map holds no encodings of mapping images to try: localize.hypotheses must be 1")
        self._map, self._config, self._seed = map_, config, seed
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._head = map_.head.to(self._device)
        with expecting(map_.weights, "the map"):
            self._build_extractors(networks or Networks())
        if self._encoder.dim != len(map_.pca.mean):
            raise ScrflowError(
                f"the map projects descriptors of {len(map_.pca.mean)} numbers, {map_.config.extractor.name}'s have "
                f"{self._encoder.dim}: not a map of this extractor; write it again"
            )
        self._each = map if threads == 1 else ThreadPoolExecutor(threads).map

    def _build_extractors(self, networks: Networks) -> None:
        map_, extractor = self._map, self._map.config.extractor
        # one extraction serves head and retrieval where they share the extractor
        wanted = max(self._config.max_keypoints, map_.retrieval_keypoints)
        self._encoder = networks.encoder(extractor.model_copy(update={"max_keypoints": wanted}))
        self._describer, self._other_encoders = None, {}
        if map_.retriever is None:
            return
        feature = RetrievalPart(retrieval=map_.config.retrieval, extractor=map_.config.retrieval_extractor)
        parts = map_.config.retrieval_parts
        self._describer = build_describer(
            feature, map_.retriever.description, parts, str(self._device), networks.descriptor
        )
        others = [f.extractor for f in (feature, *parts) if f.extractor is not None]
        self._other_encoders = {
            _but_count(other): networks.encoder(other.model_copy(update={"max_keypoints": map_.retrieval_keypoints}))
            for other in others
            if _but_count(other) != _but_count(extractor)
        }

    @classmethod
    def open(cls, path: str | Path, device: str | None = None, threads: int = 1) -> Localizer:
        """The map of a file, to localize as the file says. ScrflowError when it is damaged or not a map."""
        map_ = load_map(Path(path))
        try:
            return cls.of(map_, device, threads)
        except ScrflowError as error:  # an encoder that there is not, other weights
            raise ScrflowError(f"{path}: {error}") from None

    @classmethod
    def of(cls, map_: Map, device: str | None = None, threads: int = 1, networks: Networks | None = None) -> Localizer:
        """A map, to localize as its file says."""
        seed = derived_seed(map_.config.seed, "localize")
        return cls(map_, map_.config.localize, seed, threads, device, networks)

    @property
    def map(self) -> Map:
        """The map."""
        return self._map

    @overload
    def localize(
        self, image: ImageLike, camera: CameraLike | None = None, descriptor: torch.Tensor | None = None
    ) -> Localization: ...

    @overload
    def localize(
        self,
        image: list[ImageLike],
        camera: CameraLike | list[CameraLike] | None = None,
        descriptor: list[torch.Tensor] | None = None,
    ) -> list[Localization]: ...

    def localize(self, image, camera=None, descriptor=None):
        """Pose of one photo taken by ``camera`` (of the photo's full size), or of each of a list.

        The forms of ``image`` and ``camera`` are those of scrflow.localize.query.query_photo; a list of images has one
        camera, or a list of as many. ``descriptor`` [dim] is the photo's global descriptor, where the map's retrieval
        feature comes from a file. ``confidence`` is the probability that the pose is within the first of the map's
        thresholds (scrflow.localize.confidence). ScrflowError for an image or camera that cannot be used.
        """
        if isinstance(image, list):
            cameras = camera if isinstance(camera, list) else [camera] * len(image)
            descriptors = [None] * len(image) if descriptor is None else descriptor
            if not len(image) == len(cameras) == len(descriptors):
                raise ScrflowError(f"{len(image)} images, {len(cameras)} cameras, {len(descriptors)} descriptors")
            return [self.localize(*query) for query in zip(image, cameras, descriptors, strict=True)]
        return self._localize(*query_photo(image, camera), descriptor)

    def look(self, photo: Image.Image, camera: pycolmap.Camera, like: Look | None = None) -> Look:
        """The first half of ``localize``; ``like`` is what a map that shares this one's networks saw in the photo."""
        with torch.inference_mode():
            found = self._encoded(photo, camera) if like is None else like.keypoints
            return Look(photo, camera, found, self._describe(photo, camera, found))

    def sees_as(self, other: Localizer) -> bool:
        """Whether the other map's networks see the same keypoints in a photo."""
        side, its = (m.map.config.extractor.short_side for m in (self, other))
        return self._encoder is other._encoder and side == its

    def similarity(self, look: Look, k: int) -> np.ndarray:
        """Minus the squared distances [k] of the photo's retrieval feature from those of the k mapping images nearest
        to it, best first. ScrflowError for a map that searches no image."""
        if look.descriptor is None or self._map.config.own_encoding:
            raise ScrflowError("this map searches no mapping image, so it cannot tell whether a photo is of its place")
        with torch.inference_mode():
            return self._map.retriever.search(look.descriptor, k)[1].numpy()

    def localize_look(self, look: Look) -> Localization:
        """The second half of ``localize``."""
        with torch.inference_mode():
            return self._with_confidence(self._pose_of(look, Clock()))

    def _with_confidence(self, found: Localization) -> Localization:
        within, threshold = self._map.config.thresholds, self._config.threshold_px
        if not within:
            return found
        view, pose = found.view, found.cam_from_world
        p = confidence_of(view.pixels, found.xyz_world, found.inliers, view.K, pose, threshold, within[0])
        return replace(found, confidence=p)

    @torch.inference_mode()
    def scene_coordinates(
        self, photo: Image.Image, camera: pycolmap.Camera, name: str
    ) -> tuple[EncodedView, np.ndarray]:
        """Keypoints of the mapping photo ``name`` and their scene coordinates [N, 3] by its own encoding.

        Where the map has no encoding of just this photo, that of the photo found first stands for it.
        """
        found = self._encoded(photo, camera)
        view = self._best_keypoints(found)
        if self._map.encoding is not None and name in self._map.names:
            encodings = self._map.encoding[[self._map.names.index(name)]]
        else:
            _, encodings = self._encodings(self._describe(photo, camera, found))
        return view, self._coordinates(view, None if encodings is None else encodings[:1]).all(0)

    @torch.inference_mode()
    def _localize(self, photo: Image.Image, camera: pycolmap.Camera, descriptor: torch.Tensor | None) -> Localization:
        clock = Clock()
        found = self._encoded(photo, camera)
        clock.lap("encode")
        own = self._describe(photo, camera, found) if descriptor is None else descriptor
        return self._with_confidence(self._pose_of(Look(photo, camera, found, own), clock))

    def _encoded(self, photo: Image.Image, camera: pycolmap.Camera) -> EncodedView:
        return encode_view(photo, camera, self._encoder, self._map.config.extractor.short_side, 1 << 30)

    def _best_keypoints(self, found: EncodedView) -> EncodedView:
        count = self._config.max_keypoints
        return EncodedView(found.pixels[:count], found.descriptors[:count], found.K, found.roll)

    def _pose_of(self, look: Look, clock: Clock) -> Localization:
        view = self._best_keypoints(look.keypoints)
        rows, encodings = self._encodings(look.descriptor)
        clock.lap("retrieve")
        if len(view.pixels) < self._config.min_inliers:
            nothing = np.zeros((len(view.pixels), 3))
            return Localization(
                None, np.zeros(len(view.pixels), bool), None, nothing, view, clock.laps(), "too few keypoints"
            )
        coordinates = self._coordinates(view, encodings)
        best, estimate = self._best(view, coordinates, clock)
        xyz = coordinates.all(best)
        count = 0 if estimate is None else int(estimate.inliers.sum())
        hypothesis = None if rows is None else self._map.names[int(rows[best])]
        if estimate is None or count < self._config.min_inliers:
            reason = f"{count} inliers, {self._config.min_inliers} are needed"
            return Localization(None, np.zeros(len(view.pixels), bool), hypothesis, xyz, view, clock.laps(), reason)
        return Localization(estimate.cam_from_world, estimate.inliers, hypothesis, xyz, view, clock.laps())

    def _describe(self, photo: Image.Image, camera: pycolmap.Camera, found: EncodedView) -> torch.Tensor | None:
        """The photo's own global descriptor [dim]; None for a map that has no use for one."""
        if self._map.retriever is None:
            return None
        if self._describer is None:
            raise ScrflowError("this map's retrieval feature comes from a file: a query needs its descriptor too")

        def local(extractor: ExtractorConfig, keypoints: int) -> torch.Tensor:
            encoder = self._other_encoders.get(_but_count(extractor))
            if encoder is None:
                return found.descriptors[:keypoints]
            return encode_view(photo, camera, encoder, extractor.short_side, keypoints).descriptors

        return self._describer(photo, local)

    def _encodings(self, descriptor: torch.Tensor | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Rows [k] of the mapping images whose encodings are tried (None where they are no images'), and the encodings
        [k, D] (None for a map without)."""
        if descriptor is None:
            return None, None
        if self._map.config.own_encoding:
            own = own_encoding(descriptor, self._map.centres)
            return None, standardised(own[None], per_row=True)
        rows = self._map.retriever.search(descriptor, self._config.hypotheses)[0]
        return rows, self._map.encoding[rows]

    def _coordinates(self, view: EncodedView, encodings: torch.Tensor | None) -> SceneCoordinates:
        """Scene coordinates of the keypoints under each hypothesis."""
        local = self._map.pca(view.descriptors).to(self._device)
        return SceneCoordinates(self._head, local, None if encodings is None else encodings.to(self._device))

    def _best(self, view: EncodedView, coordinates: SceneCoordinates, clock: Clock) -> tuple[int, PoseEstimate | None]:
        """The hypothesis whose pose has the most inliers, or that halving leaves, and its pose."""
        halving, everyone, known = self._config.halving, np.arange(coordinates.hypotheses), None
        # the threshold is in pixels of the encoded image, as the papers have it
        threshold, seed = self._config.threshold_px, self._seed % (1 << 31)

        def judged(consensus: Callable[[int], Consensus], hypotheses: Iterable[int]) -> list[Consensus]:
            clock.lap("head")
            found = list(self._each(consensus, hypotheses))
            clock.lap("hypotheses")
            return found

        if halving is not None:
            chosen, known = best_hypothesis(coordinates, view.pixels, view.K, halving, threshold, seed, judged)
            everyone = everyone[[chosen]]
        coordinates.first(len(view.pixels), everyone)
        clock.lap("head")

        def pose(hypothesis: int) -> PoseEstimate | None:
            xyz = coordinates.all(hypothesis)
            return estimate_pose(view.pixels, xyz, view.K, self._config, threshold, seed, known)

        estimates = list(self._each(pose, everyone))
        clock.lap("pose")
        counts = [0 if e is None else int(e.inliers.sum()) for e in estimates]
        best = int(np.argmax(counts))
        return int(everyone[best]), estimates[best]


def _but_count(extractor: ExtractorConfig) -> str:
    """What identifies an extractor, whatever number of keypoints is wanted from it."""
    return extractor.model_dump_json(exclude={"max_keypoints"})
