"""Localizing queries with nothing but a map: retrieval, k hypotheses, one batched pass of the head, PoseLib, the pose
with the most inliers (DESIGN: The method)."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import torch
from PIL import Image

from scrflow.artifacts import Stamp, open_h5, write_json, write_text
from scrflow.cameras import pixels_from_rays
from scrflow.codeversion import code_version
from scrflow.config import ExtractorConfig, LocalizeConfig, LocalizeStage, RetrievalPart
from scrflow.encoders import build_encoder
from scrflow.errors import ScrflowError
from scrflow.geometry import quaternion_from_rotation
from scrflow.globalencoding import own_encoding
from scrflow.images import read_rgb
from scrflow.mapfile import Map, load_map
from scrflow.pose import PoseEstimate, estimate_pose
from scrflow.progress import log, track
from scrflow.retrieval.describe import build_describer
from scrflow.scene.model import load_scene
from scrflow.seeds import derived_seed
from scrflow.train import standardised
from scrflow.views import EncodedView, encode_view


@dataclass(frozen=True)
class Localization:
    """What came out for one query. ``cam_from_world`` is None when it could not be localized; ``reason`` says why."""

    cam_from_world: np.ndarray | None  # [3, 4]
    inliers: np.ndarray  # [N] bool, of the keypoints
    hypothesis: str | None  # the mapping image whose global encoding won
    xyz_world: np.ndarray  # [N, 3] scene coordinates of the winning hypothesis
    view: EncodedView
    ms: dict[str, float]
    reason: str | None = None


class Localizer:
    """A map, ready to localize photos on the CPU or one GPU.

    >>> Localizer(load_map(Path("map.safetensors")), LocalizeConfig()).localize(photo, camera)
    """

    def __init__(self, map_: Map, config: LocalizeConfig, seed: int = 0, threads: int = 1, device: str | None = None):
        if config.hypotheses > 1 and map_.encoding is None:
            raise ScrflowError("this map holds no encodings of mapping images to try: localize.hypotheses must be 1")
        self._map, self._config, self._seed = map_, config, seed
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._head = map_.head.to(self._device)
        extractor = map_.config.extractor
        # one extraction serves head and retrieval where they share the extractor
        wanted = max(config.max_keypoints, map_.retrieval_keypoints)
        self._encoder = build_encoder(extractor.model_copy(update={"max_keypoints": wanted}))
        self._describer, self._other_encoders = None, {}
        if map_.retriever is not None:
            feature = RetrievalPart(retrieval=map_.config.retrieval, extractor=map_.config.retrieval_extractor)
            parts = map_.config.retrieval_parts
            self._describer = build_describer(feature, map_.retriever.description, parts, str(self._device))
            others = [f.extractor for f in (feature, *parts) if f.extractor is not None]
            self._other_encoders = {
                _but_count(other): build_encoder(other.model_copy(update={"max_keypoints": map_.retrieval_keypoints}))
                for other in others
                if _but_count(other) != _but_count(extractor)
            }
        self._pool = ThreadPoolExecutor(threads)

    @torch.inference_mode()
    def localize(
        self, photo: Image.Image, camera: pycolmap.Camera, descriptor: torch.Tensor | None = None
    ) -> Localization:
        """Pose of one photo taken by ``camera`` (of the photo's full size).

        ``descriptor`` [dim] is the photo's global descriptor, where the map's retrieval feature comes from a file.
        """
        clock = _Clock()
        extractor = self._map.config.extractor
        found = encode_view(photo, camera, self._encoder, extractor.short_side, 1 << 30)
        view = EncodedView(
            found.pixels[: self._config.max_keypoints],
            found.descriptors[: self._config.max_keypoints],
            found.K,
            found.roll,
        )
        clock.lap("encode")
        own = self._describe(photo, camera, found) if descriptor is None else descriptor
        rows, encodings = self._encodings(own)
        clock.lap("retrieve")
        if len(view.pixels) < self._config.min_inliers:
            nothing = np.zeros((len(view.pixels), 3))
            return Localization(
                None, np.zeros(len(view.pixels), bool), None, nothing, view, clock.laps(), "too few keypoints"
            )
        xyz = self._coordinates(view, encodings)  # [k, N, 3]
        clock.lap("head")
        estimates = self._poses(view, xyz)
        counts = [0 if e is None else int(e.inliers.sum()) for e in estimates]
        best = int(np.argmax(counts))
        clock.lap("pose")
        hypothesis = None if rows is None else self._map.names[int(rows[best])]
        estimate = estimates[best]
        if estimate is None or counts[best] < self._config.min_inliers:
            reason = f"{counts[best]} inliers, {self._config.min_inliers} are needed"
            return Localization(
                None, np.zeros(len(view.pixels), bool), hypothesis, xyz[best], view, clock.laps(), reason
            )
        return Localization(estimate.cam_from_world, estimate.inliers, hypothesis, xyz[best], view, clock.laps())

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

    def _coordinates(self, view: EncodedView, encodings: torch.Tensor | None) -> np.ndarray:
        """Scene coordinates [k, N, 3] of the keypoints under each hypothesis."""
        local = self._map.pca(view.descriptors).to(self._device)
        if encodings is None:
            return self._head(local).xyz_world.double().cpu().numpy()[None]
        k, count = len(encodings), len(local)
        x = torch.cat([encodings.to(self._device).repeat_interleave(count, 0), local.repeat(k, 1)], 1)
        return self._head(x).xyz_world.double().view(k, count, 3).cpu().numpy()

    def _poses(self, view: EncodedView, xyz: np.ndarray) -> list[PoseEstimate | None]:
        # the threshold is in pixels of the encoded image, as the papers have it
        def one(h: int) -> PoseEstimate | None:
            return estimate_pose(
                view.pixels, xyz[h], view.K, self._config, self._config.threshold_px, self._seed % (1 << 31)
            )

        return list(self._pool.map(one, range(len(xyz))))


def localize_queries(
    config: LocalizeStage,
    scene: Path,
    map_path: Path,
    out: Path,
    details: Path,
    threads: int,
    descriptors: Path | None = None,
) -> None:
    """Localize every query of the scene: ``out`` in the form of visuallocalization.net, ``details`` as JSON.

    A query that could not be localized has no line in ``out`` and is listed in ``details`` and in the log.
    ``descriptors`` is an HDF5 in hloc's layout with the queries' global descriptors, where a file provides them.
    """
    torch.set_num_threads(threads)
    s, map_ = load_scene(scene), load_map(map_path)
    localizer = Localizer(map_, config.localize, derived_seed(config.seed, "localize"), threads)
    given = None if descriptors is None else _query_descriptors(descriptors, [q.name for q in s.queries])
    results: dict[str, Localization] = {}
    for query in track(s.queries, "localizing"):
        photo = read_rgb(s.image_path(query.name))
        results[query.name] = localizer.localize(photo, query.camera, None if given is None else given[query.name])
    lost = [name for name, r in results.items() if r.cam_from_world is None]
    if lost:
        log.warning(
            "%d of %d queries could not be localized: %s",
            len(lost),
            len(results),
            ", ".join(lost[:10]) + (" ..." if len(lost) > 10 else ""),
        )
    lines = [pose_line(name, r.cam_from_world) for name, r in results.items() if r.cam_from_world is not None]
    values: dict[str, Any] = {"queries": {name: _record(r) for name, r in results.items()}, "overlay": None}
    shown = _typical(results)
    if shown is not None:
        camera = next(q.camera for q in s.queries if q.name == shown)
        values["overlay"] = {"name": shown, **_overlay(results[shown], camera)}
    write_json(
        details,
        values,
        Stamp.make("localization", config, code_version("localize"), scene=scene / "scene.json", map=map_path),
    )
    write_text(out, "".join(lines))


def pose_line(name: str, cam_from_world: np.ndarray) -> str:
    """``name qw qx qy qz tx ty tz``: the form of visuallocalization.net."""
    values = [*quaternion_from_rotation(cam_from_world[:, :3]), *cam_from_world[:, 3]]
    return f"{name} {' '.join(f'{v:.9g}' for v in values)}\n"


def _query_descriptors(path: Path, names: list[str]) -> dict[str, torch.Tensor]:
    with open_h5(path, "retrieval") as f:
        missing = [n for n in names if n not in f]
        if missing:
            raise ScrflowError(
                f"{path}: no global descriptor of {len(missing)} queries, first {missing[0]}; add them, run again"
            )
        return {n: torch.from_numpy(f[n]["global_descriptor"][:]).float() for n in names}


def _record(r: Localization) -> dict[str, Any]:
    return {
        "localized": r.cam_from_world is not None,
        "inliers": int(r.inliers.sum()),
        "keypoints": len(r.view.pixels),
        "hypothesis": r.hypothesis,
        "ms": r.ms,
        "reason": r.reason,
    }


def _typical(results: dict[str, Localization]) -> str | None:
    """The localized query of median inlier share: the picture should flatter nobody."""
    ranked = sorted((float(r.inliers.mean()), name) for name, r in results.items() if r.cam_from_world is not None)
    return ranked[len(ranked) // 2][1] if ranked else None


def _overlay(r: Localization, camera: pycolmap.Camera) -> dict[str, Any]:
    """Keypoints and reprojected scene coordinates in pixels of the photo as it was taken, distortion and all."""
    K = r.view.K
    rays = (r.view.pixels - K[:2, 2]) / np.array([K[0, 0], K[1, 1]])
    xyz = r.xyz_world @ r.cam_from_world[:, :3].T + r.cam_from_world[:, 3]
    front = xyz[:, 2] > 1e-6
    projected = pixels_from_rays(camera, xyz[front, :2] / xyz[front, 2:])
    finite = np.isfinite(projected).all(1)
    kept = np.flatnonzero(front)[finite]
    return {
        "pixels": np.round(pixels_from_rays(camera, rays[kept]), 2).tolist(),
        "reprojected": np.round(projected[finite], 2).tolist(),
        "inlier": r.inliers[kept].tolist(),
    }


def _but_count(extractor: ExtractorConfig) -> str:
    """What identifies an extractor, whatever number of keypoints is wanted from it."""
    return extractor.model_dump_json(exclude={"max_keypoints"})


class _Clock:
    def __init__(self) -> None:
        self._began = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._laps[name] = round(1000 * (now - self._last), 2)
        self._last = now

    def laps(self) -> dict[str, float]:
        return {**self._laps, "total": round(1000 * (self._last - self._began), 2)}
