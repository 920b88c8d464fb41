"""Several maps in one frame: choose those that a photo may show by retrieval, and take the pose with the most inliers.

Each map compares the photo with its own mapping images; the maps with the most similar image are tried. Each map learns
the whitening of its retrieval feature from its own images, so similarities are only nearly comparable
(docs/scaling.md)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Self

import pycolmap
from PIL import Image

from scrflow.core.errors import ScrflowError
from scrflow.localize.attempts import localized
from scrflow.localize.head import Networks, QueryFeatures
from scrflow.localize.hint import Hint, HintLike, hint_of
from scrflow.localize.localizer import Localizer
from scrflow.localize.query import CameraLike, ImageLike, query_photo
from scrflow.localize.result import Clock, Localization
from scrflow.map.file import Map, load_map
from scrflow.scene.checks import check_unique


@dataclass(frozen=True)
class Routed:
    """The result for one photo."""

    found: Localization
    map: str  # the map that gave the pose
    scores: dict[str, float]  # map -> similarity of its best image, 0 or less; empty if there is only one map
    tried: tuple[str, ...]  # the maps that were tried, the most similar first


class Router:
    """Maps, ready to localize photos.

    >>> Router.open(["west.safetensors", "east.safetensors"]).localize("photo.jpg", "PINHOLE 640 480 525 525 320 240")
    """

    def __init__(self, maps: Mapping[str, Localizer], tried: int = 2):
        """``tried``: how many of the most similar maps to try for each photo."""
        if tried < 1:
            raise ScrflowError(f"maps to try: {tried}; try at least 1 (--tried)")
        self.maps, self._tried = dict(maps), min(tried, len(maps))

    @classmethod
    def open(cls, paths: Sequence[str | Path], device: str | None = None, tried: int = 2) -> Self:
        """The maps of files. ScrflowError for a map that is damaged, named twice, or of another unit or method."""
        names = [str(path) for path in paths]
        if not names:
            raise ScrflowError("no map is given; name at least one")
        check_unique(names, "MAP and --map")
        maps = {name: load_map(Path(name)) for name in names}
        check_alike(maps)
        return cls(localizers_of(maps, device), tried)

    def features(self, photo: Image.Image, camera: pycolmap.Camera) -> dict[str, QueryFeatures]:
        """The photo's features for each map; maps that share networks encode it once."""
        found: dict[str, QueryFeatures] = {}
        for name, localizer in self.maps.items():
            like = next((f for other, f in found.items() if localizer.shares_keypoints(self.maps[other])), None)
            found[name] = localizer.features(photo, camera, like)
        return found

    def localize(self, image: ImageLike, camera: CameraLike | None = None, hint: HintLike | None = None) -> Routed:
        """The pose of one photo; see ``Localizer.localize`` for the forms of the arguments."""
        near = hint_of(hint)
        found, routed = localized(lambda *query: self._attempt(*query, near), *query_photo(image, camera))
        return replace(routed, found=self.maps[routed.map].rated(found))

    def _attempt(self, photo: Image.Image, camera: pycolmap.Camera, hint: Hint | None) -> tuple[Localization, Routed]:
        (first, only), *others = self.maps.items()
        if not others:
            found = only.localize_photo(photo, camera, hint=hint)
            return found, Routed(found, first, {}, (first,))
        clock = Clock()
        features = self.features(photo, camera)
        nearest = {name: m.map.retriever.search(features[name].descriptor, 1) for name, m in self.maps.items()}
        scores = {name: float(similarity[0]) for name, (_, similarity) in nearest.items()}
        order = sorted(scores, key=lambda name: -scores[name])[: self._tried]
        clock.lap("route")
        found = {name: self.maps[name].localize_features(features[name], hint=hint) for name in order}
        clock.lap("localize")
        # of equal poses, that of the more similar map: it comes first
        best = max(order, key=lambda name: (found[name].cam_from_world is not None, int(found[name].inliers.sum())))
        chosen = replace(found[best], ms=clock.laps())
        return chosen, Routed(chosen, best, scores, tuple(order))


def localizers_of(maps: Mapping[str, Map], device: str | None = None) -> dict[str, Localizer]:
    """Localizers of maps; those made with the same weights share their networks."""
    networks: dict[str, Networks] = {}
    return {
        name: Localizer(
            map_,
            device=device,
            networks=networks.setdefault(json.dumps(dict(map_.weights), sort_keys=True), Networks()),
        )
        for name, map_ in maps.items()
    }


def check_alike(maps: Mapping[str, Map]) -> None:
    """ScrflowError unless similarities and poses mean the same in all maps."""
    (first, one), *others = maps.items()
    for name, other in others:
        for what, mine, its in (
            ("unit", one.config.unit, other.config.unit),
            ("retrieval feature", one.config.retrieval, other.config.retrieval),
            ("thresholds", one.config.thresholds, other.config.thresholds),
        ):
            if mine != its:
                raise ScrflowError(
                    f"{name}: its {what} is not that of {first} ({shorten(str(its), 60)}, {shorten(str(mine), 60)}); "
                    "give maps of regions of one scene, made by one method"
                )
    if others and (one.config.retrieval is None or one.config.own_encoding):
        raise ScrflowError(f"{first}: has no index of mapping images, so photos cannot be routed; give one map")
