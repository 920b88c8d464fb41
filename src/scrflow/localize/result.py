"""The result of one query, and of all queries of a scene (poses.txt and localization.json) by any localizer."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
import pycolmap
import torch
from PIL import Image
from pydantic import BaseModel

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_points, pinhole_rays, pixels_from_points, pixels_from_rays
from scrflow.core.parallel import mapped, one_thread_each
from scrflow.core.progress import log, track
from scrflow.features.views import EncodedView
from scrflow.pipeline.provenance import RAN, this_run
from scrflow.scene.checks import some
from scrflow.scene.lists import pose_line, query_line
from scrflow.scene.model import Query, load_scene
from scrflow.storage.artifact import Stamp, open_h5, sha256_file, write_json, write_text
from scrflow.storage.journal import Journal

POSES_SHA256 = "poses_sha256"  # of localization.json
_DIGITS = 9  # of the numbers in poses.txt
_JOURNAL_ONLY = ("name", "pose")


@dataclass(frozen=True)
class Localization:
    """The result of one query."""

    cam_from_world: np.ndarray | None  # [3, 4]; None if the query could not be localized
    inliers: np.ndarray  # [N] bool, of the keypoints
    hypothesis: str | None  # the mapping image whose global encoding won
    xyz_world: np.ndarray  # [N, 3] scene coordinates of the winning hypothesis
    view: EncodedView
    ms: dict[str, float]
    reason: str | None = None  # why there is no pose
    confidence: float | None = None  # see scrflow.localize.confidence
    # [6, 6] of small motions of the camera in its own axes: translation, rotation (radians); None if they are not known
    covariance: np.ndarray | None = None
    camera: pycolmap.Camera | None = None  # with the focal length that was estimated, if it was unknown
    focal_spread: float | None = None  # standard deviation of its logarithm; None: it is only a guess
    confidence_at_focal: float | None = None  # the confidence if that focal length were exact
    turned: int = 0  # degrees clockwise that the photo had to be turned to be localized
    similarity: np.ndarray | None = None  # [N] cosine of keypoint and its landmark, NaN without; None: not by landmarks
    alike: int = 1  # places in which a pose explains the photo as well; the pose is that of one of them
    by_descriptor: np.ndarray | None = None  # [N, 3] landmarks by descriptor alone, not near any pose; NaN without

    def facts(self) -> dict[str, Any]:
        """The result in numbers, for JSON; without the pose."""
        estimated = {} if self.camera is None else {"estimated_camera": query_line("", self.camera).strip()}
        for name, value in (("focal_spread", self.focal_spread), ("confidence_at_focal", self.confidence_at_focal)):
            estimated |= {} if value is None else {name: round(value, 4)}
        return {
            "inliers": int(self.inliers.sum()),
            "keypoints": len(self.inliers),
            "hypothesis": self.hypothesis,
            "confidence": None if self.confidence is None else round(self.confidence, 4),
            "ms": self.ms,
            "reason": self.reason,
            **estimated,
            **({"turned": self.turned} if self.turned else {}),
            **({"alike": self.alike} if self.alike > 1 else {}),
        }

    def photo_pixels(self, camera: pycolmap.Camera) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints and projected scene coordinates, both [N, 2], in distorted pixels of the photo taken by ``camera``;
        NaN for coordinates behind the camera. Only for a result with a pose. Keypoints that the correction of the lens
        (scrflow.landmarks.lens) moved over the photo's edge are on it."""
        keypoints = pixels_from_rays(camera, pinhole_rays(self.view.pixels, self.view.K))
        keypoints = keypoints.clip(0, (camera.width, camera.height))
        return keypoints, pixels_from_points(camera, camera_points(self.xyz_world, self.cam_from_world))


class AnyLocalizer(Protocol):
    """Localizes single photos: a Localizer or a MatchLocalizer."""

    def localize_photo(
        self, photo: Image.Image, camera: pycolmap.Camera, descriptor: torch.Tensor | None = None
    ) -> Localization: ...


class Clock:
    """Measures the parts of one query."""

    now = staticmethod(time.perf_counter)  # benchmarks replace it by the processor's time on shared machines

    def __init__(self) -> None:
        self._began = self._last = self.now()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Count the time since the last lap as time for ``name``."""
        now = self.now()
        self._laps[name] = self._laps.get(name, 0.0) + 1000 * (now - self._last)
        self._last = now

    def laps(self) -> dict[str, float]:
        """Milliseconds of each part, and their total."""
        total = 1000 * (self._last - self._began)
        return {name: round(ms, 2) for name, ms in [*self._laps.items(), ("total", total)]}


def localize_scene(
    localizer: AnyLocalizer,
    config: BaseModel,
    code: str,
    scene: Path,
    map_path: Path,
    out: Path,
    details: Path,
    threads: int,
    descriptors: Path | None = None,
) -> None:
    """Localize every query of a scene artifact: poses to ``out`` (lines ``name qw qx qy qz tx ty tz``; none for a query
    that could not be localized), the rest to ``details`` (JSON).

    ``descriptors``: hloc's global descriptors of the queries, for a map whose retrieval feature comes from a file.
    ``threads`` queries are processed at a time, one thread each. A journal beside ``details`` holds each result: a run
    that was killed continues from it, and writes the same files except for the times.
    """
    s = load_scene(scene)
    inputs = {"scene": scene / "scene.json", "map": map_path}
    if descriptors is not None:
        inputs["descriptors"] = descriptors
    stamp = Stamp.make("localization", config, code, **inputs)
    given = {} if descriptors is None else query_descriptors(descriptors, [q.name for q in s.queries])
    overlays: dict[str, dict[str, Any]] = {}

    def one(query: Query) -> tuple[str, dict[str, Any]]:
        began = time.perf_counter()
        photo = s.photo(query.name)
        read_ms = 1000 * (time.perf_counter() - began)
        found = localizer.localize_photo(photo, query.camera, given.get(query.name))
        if found.cam_from_world is not None:
            overlays[query.name] = _overlay(found, query.camera)
        return query.name, _record(query.name, found, read_ms)

    # the stamp identifies the map by its recipe; a map trained again may have other bytes
    journal = Journal(details.with_name(f".{details.stem}.partial.jsonl"), f"{stamp.digest} {sha256_file(map_path)}")
    began = time.perf_counter()
    with journal:
        records = dict(journal.done)
        left = [q for q in s.queries if q.name not in records]
        for name, done in track(mapped(one, left, threads), "localizing", len(left)):
            journal.add(name, done)
            records[name] = done
    seconds = time.perf_counter() - began
    records = {q.name: records[q.name] for q in s.queries}
    lost = [name for name, r in records.items() if not r["localized"]]
    if lost:
        log.warning("%d of %d queries could not be localized: %s", len(lost), len(records), some(lost, 10))
    shown = _typical(records)
    if shown is not None and shown not in overlays:  # localized before the run was interrupted
        with one_thread_each():
            one(next(q for q in s.queries if q.name == shown))
    text = "".join(r["pose"] for r in records.values() if r["localized"])
    values = {
        "queries": {name: {k: v for k, v in r.items() if k not in _JOURNAL_ONLY} for name, r in records.items()},
        "summary": _summary(records, len(left), seconds, threads),
        "overlay": None if shown is None else {"name": shown, **_listed(overlays[shown])},
        RAN: this_run(threads),
        POSES_SHA256: hashlib.sha256(text.encode()).hexdigest(),
    }
    write_json(details, values, stamp)
    write_text(out, text)
    journal.remove()


def query_descriptors(path: Path, names: list[str]) -> dict[str, torch.Tensor]:
    """Global descriptors [dim] of the queries by name; ScrflowError for queries that the file lacks."""
    with open_h5(path, "retrieval") as f:
        missing = [n for n in names if n not in f]
        if missing:
            raise ScrflowError(
                f"{path}: no global descriptor of {len(missing)} queries, first {missing[0]}; add them and run again"
            )
        return {n: torch.from_numpy(f[n]["global_descriptor"][:]).float() for n in names}


def _record(name: str, found: Localization, read_ms: float) -> dict[str, Any]:
    """What the journal holds of a query; ``details`` gets all of it except _JOURNAL_ONLY."""
    pose, ms = found.cam_from_world, {"read": round(read_ms, 2), **found.ms}
    ms["total"] = round(ms["total"] + ms["read"], 2)
    line = None if pose is None else pose_line(name, pose, _DIGITS) + "\n"
    return {"localized": pose is not None, **found.facts(), "ms": ms, "pose": line}


def _summary(records: dict[str, dict[str, Any]], now: int, seconds: float, threads: int) -> dict[str, Any]:
    """Median milliseconds of each part over all queries, and queries a second over the ``now`` queries of this run."""
    spent: dict[str, list[float]] = {}
    for record in records.values():
        for part, ms in record["ms"].items():
            spent.setdefault(part, []).append(ms)
    summary = {
        "threads": threads,
        "median_ms": {part: round(median(ms), 2) for part, ms in spent.items()},
        "queries": now,
        "seconds": round(seconds, 2),
        "queries_per_s": round(now / seconds, 3) if now else None,
    }
    if now:
        log.info("%.2f queries a second; median ms: %s", now / seconds, summary["median_ms"])
    return summary


def _typical(records: dict[str, dict[str, Any]]) -> str | None:
    """The localized query with the median share of inliers: neither the best nor the worst is shown."""
    ranked = sorted((r["inliers"] / r["keypoints"], name) for name, r in records.items() if r["localized"])
    return ranked[len(ranked) // 2][1] if ranked else None


def _overlay(found: Localization, camera: pycolmap.Camera) -> dict[str, np.ndarray]:
    """Keypoints and projected scene coordinates in pixels of the photo, for the picture of one query. Kept for every
    query (some 70 KB), as the median is known only at the end."""
    keypoints, reprojected = found.photo_pixels(camera)
    kept = np.isfinite(reprojected).all(1)
    return {"pixels": keypoints[kept], "reprojected": reprojected[kept], "inlier": found.inliers[kept]}


def _listed(overlay: dict[str, np.ndarray]) -> dict[str, list]:
    return {key: np.round(v, 2).tolist() if v.dtype.kind == "f" else v.tolist() for key, v in overlay.items()}
