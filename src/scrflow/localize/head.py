"""Pose of a photo by a map's head: the encodings of retrieved mapping images are hypotheses, each gives the photo's
keypoints scene coordinates, and the pose with the most inliers counts."""

import threading
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pycolmap
import torch
from PIL import Image

from scrflow.config import ExtractorConfig, LocalizeConfig
from scrflow.core.errors import ScrflowError
from scrflow.features.descriptors import GlobalDescriptor, build_descriptor
from scrflow.features.encoders import LocalEncoder, build_encoder
from scrflow.features.global_encoding import own_encoding, standardised
from scrflow.features.retrieval import PhotoDescriber
from scrflow.features.views import EncodedView, encode_view
from scrflow.localize.hint import Hint
from scrflow.localize.pose import SceneCoordinates, best_pose
from scrflow.localize.result import Clock, Localization
from scrflow.map.file import Map
from scrflow.map.format import retrieval_features


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

    def encoder(self, extractor: ExtractorConfig, device: torch.device | str) -> LocalEncoder:
        key = f"{extractor.model_dump_json()} {device}"
        if key not in self._built:
            self._built[key] = build_encoder(extractor, device)
        return self._built[key]

    def descriptor(self, name: str, options: dict[str, Any], device: torch.device | str) -> GlobalDescriptor:
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


class HeadLocalizer:
    """The head of a map with the networks that it needs, ready to localize photos."""

    def __init__(
        self, map_: Map, config: LocalizeConfig, seed: int, device: torch.device, networks: Networks, threads: int
    ):
        """``threads`` judge hypotheses of one photo in parallel."""
        if config.hypotheses > 1 and map_.encoding is None:
            raise ScrflowError(
                "the map holds no encodings of mapping images to try: localize.hypotheses must be 1 (config/methods)"
            )
        self._map, self._config, self._seed, self._device, self._threads = map_, config, seed, device, threads
        self._head, self._pca, extractor = map_.head.to(device), map_.pca.to(device), map_.config.extractor
        # one extraction serves head and retrieval if they share the extractor
        wanted = max(config.max_keypoints, map_.retrieval_keypoints)
        self._encoder = networks.encoder(extractor.model_copy(update={"max_keypoints": wanted}), device)
        self._describe = None
        if map_.retriever is not None:
            features, tensors = retrieval_features(map_.config), map_.retriever.description
            self._describe = PhotoDescriber(features, tensors, device, extractor, networks.encoder, networks.descriptor)
        if self._encoder.dim != len(map_.pca.mean):
            raise ScrflowError(
                f"the map projects descriptors of {len(map_.pca.mean)} numbers, but {extractor.name}'s have "
                f"{self._encoder.dim}; write the map again with the extractor that it was made with"
            )

    def encoded(self, photo: Image.Image, camera: pycolmap.Camera) -> EncodedView:
        """All keypoints of a photo."""
        return encode_view(photo, camera, self._encoder, self._map.config.extractor.short_side, 1 << 30)

    def described(
        self, photo: Image.Image, camera: pycolmap.Camera, keypoints: EncodedView, hint: Hint | None = None
    ) -> torch.Tensor | None:
        """The photo's retrieval feature [dim]; None where no image is retrieved: a hint may leave so few that all are
        tried."""
        few = hint is not None and len(self._candidates(hint)) <= self._config.hypotheses
        if self._describe is None or (few and not self._map.config.own_encoding):
            return None
        return self._describe(photo, camera, keypoints)

    def shares_keypoints(self, other: Self) -> bool:
        """Whether both find the same keypoints in a photo: they share the encoder and encode at one size."""
        side, its = (m._map.config.extractor.short_side for m in (self, other))
        return self._encoder is other._encoder and side == its

    def localize(
        self, features: QueryFeatures, clock: Clock, starts: list[np.ndarray], hint: Hint | None
    ) -> Localization:
        """Pose of a photo. ``starts`` gets poses [3, 4] for landmarks to begin from, the best first."""
        config = self._config
        view = self._best(features.keypoints)
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
            hypothesis = None if rows is None else self._map.names[int(rows[best])]
            found = 0 if estimate is None else int(estimate.inliers.sum())
            within = "" if hint is None else " within the hint"
            reason = f"{found} inliers{within}, {config.min_inliers} are needed"
            if estimate is not None and found >= config.min_inliers:
                pose, inliers, reason = estimate.cam_from_world, estimate.inliers, None
        return Localization(pose, inliers, hypothesis, xyz, view, {}, reason)

    def scene_coordinates(
        self, photo: Image.Image, camera: pycolmap.Camera, name: str
    ) -> tuple[EncodedView, np.ndarray]:
        """Keypoints and scene coordinates [N, 3] of the mapping photo ``name`` under its own encoding, or that of the
        image retrieved first if the map does not hold its own."""
        found = self.encoded(photo, camera)
        if self._map.encoding is not None and name in self._map.names:
            encodings = self._map.encoding[[self._map.names.index(name)]]
        else:
            _, encodings = self._encodings(self.described(photo, camera, found))
        view = self._best(found)
        return view, self._coordinates(view, None if encodings is None else encodings[:1]).all(0)

    def _best(self, found: EncodedView) -> EncodedView:
        count = self._config.max_keypoints
        return EncodedView(found.pixels[:count], found.descriptors[:count], found.K, found.roll)

    def _encodings(
        self, descriptor: torch.Tensor | None, hint: Hint | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Rows [k] of the mapping images whose encodings are tried (None if they are not those of images), and the
        encodings [k, D] (None for a map without)."""
        if self._map.config.own_encoding and descriptor is not None:
            own = own_encoding(descriptor, self._map.centres)[None]
            return None, standardised(own, per_row=True) if self._map.config.global_encoding.scale else own
        if self._map.encoding is None:
            return None, None
        candidates = None if hint is None else self._candidates(hint)
        if candidates is not None and len(candidates) <= self._config.hypotheses:
            rows = torch.from_numpy(candidates)
        elif descriptor is None:
            return None, None
        else:
            rows = self._map.retriever.search(descriptor, self._config.hypotheses, candidates)[0]
        return rows, self._map.encoding[rows]

    def _candidates(self, hint: Hint) -> np.ndarray:
        """Rows [C] of the mapping images that may serve as hypotheses; all where the map holds no positions."""
        if self._map.views is None or self._map.encoding is None:
            return np.arange(len(self._map.names))
        return hint.photos(self._map.views, self._config.hypotheses)

    def _coordinates(self, view: EncodedView, encodings: torch.Tensor | None) -> SceneCoordinates:
        local = self._pca(view.descriptors.to(self._device))
        return SceneCoordinates(self._head, local, None if encodings is None else encodings.to(self._device))
