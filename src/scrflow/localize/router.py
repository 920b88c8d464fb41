"""Several maps of one frame: which of them a photo belongs to, by retrieval, and its pose from the likeliest ones.

A city is cut into maps whose regions overlap (reader ``region``). A photo is described once; each map compares it with
its own mapping images, and the maps whose best image looks most like it are tried. Of several poses that with the most
inliers is taken, as between hypotheses: all are of the same keypoints.

A map learnt the whitening of its retrieval feature from its own images, so similarities of two maps are of two feature
spaces: alike in kind, not in number. docs/scaling.md has how often the order is right all the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pycolmap
from PIL import Image

from scrflow.core.errors import ScrflowError
from scrflow.localize.localizer import Localizer, Look
from scrflow.localize.networks import Networks
from scrflow.localize.query import CameraLike, ImageLike, query_photo
from scrflow.localize.result import Clock, Localization
from scrflow.map.file import Map, load_map


@dataclass(frozen=True)
class Routed:
    """What came out for one photo."""

    found: Localization
    map: str  # the map that the pose is of
    scores: dict[str, float]  # map -> similarity of its best image, 0 or less; empty where there is one map
    tried: tuple[str, ...]  # the maps that were localized with, likeliest first


class Router:
    """Maps, ready to localize photos.

    >>> Router.open(["west.safetensors", "east.safetensors"]).localize("photo.jpg", "PINHOLE 640 480 525 525 320 240")
    """

    def __init__(self, maps: Mapping[str, Localizer], tried: int = 2):
        """``tried``: how many of the likeliest maps a photo is localized with."""
        if tried < 1:
            raise ScrflowError(f"maps to try: {tried}; at least 1")
        self._maps, self._tried = dict(maps), min(tried, len(maps))

    @classmethod
    def open(cls, paths: Sequence[str | Path], device: str | None = None, tried: int = 2) -> Router:
        """The maps of files. ScrflowError for one that is damaged, named twice, or of another unit or kind."""
        names = [str(path) for path in paths]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not names:
            raise ScrflowError(f"{twice[0]}: map is named twice" if twice else "no map is named")
        maps = {name: load_map(Path(name)) for name in names}
        _check_alike(maps)
        networks: dict[str, Networks] = {}
        localizers = {}
        for name, map_ in maps.items():
            shared = networks.setdefault(json.dumps(dict(map_.weights), sort_keys=True), Networks())
            localizers[name] = Localizer.of(map_, device, networks=shared)
        return cls(localizers, tried)

    @property
    def maps(self) -> dict[str, Localizer]:
        """The maps by name."""
        return dict(self._maps)

    def looks(self, photo: Image.Image, camera: pycolmap.Camera) -> dict[str, Look]:
        """What each map makes of a photo; maps that share networks have it encoded once."""
        found: dict[str, Look] = {}
        for name, localizer in self._maps.items():
            like = next((look for other, look in found.items() if localizer.sees_as(self._maps[other])), None)
            found[name] = localizer.look(photo, camera, like)
        return found

    def localize(self, image: ImageLike, camera: CameraLike | None = None) -> Routed:
        """Pose of one photo, in the forms of ``Localizer.localize``."""
        (first, only), *others = self._maps.items()
        if not others:
            return Routed(only.localize(image, camera), first, {}, (first,))
        clock = Clock()
        looks = self.looks(*query_photo(image, camera))
        scores = {name: float(m.similarity(looks[name], 1)[0]) for name, m in self._maps.items()}
        order = sorted(scores, key=lambda name: -scores[name])[: self._tried]
        clock.lap("route")
        found = {name: self._maps[name].localize_look(looks[name]) for name in order}
        clock.lap("localize")
        best = max(order, key=lambda name: _trust(found[name]))
        return Routed(replace(found[best], ms=clock.laps()), best, scores, tuple(order))


def _trust(found: Localization) -> tuple[bool, int]:
    """Orders poses; of equals the map that was likelier, which comes first."""
    return found.cam_from_world is not None, int(np.sum(found.inliers))


def _check_alike(maps: Mapping[str, Map]) -> None:
    """ScrflowError unless similarities and poses of the maps mean the same."""
    (first, one), *others = maps.items()
    for name, other in others:
        for what, mine, its in (
            ("unit", one.config.unit, other.config.unit),
            ("retrieval feature", one.config.retrieval, other.config.retrieval),
            ("thresholds", one.config.thresholds, other.config.thresholds),
        ):
            if mine != its:
                raise ScrflowError(
                    f"{name}: its {what} is not that of {first} ({_short(its)}, {_short(mine)}); maps that photos are "
                    "routed between are to be regions of one scene, made by one method"
                )
    if others and (one.config.retrieval is None or one.config.own_encoding):
        raise ScrflowError(f"{first}: searches no mapping image, so photos cannot be routed; give one map")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
