"""What came out for the queries of a scene, whatever localized them: one by one, resumable, as poses and as JSON."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import torch
from PIL import Image

from scrflow.core.cameras import pixels_from_rays
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import quaternion_from_rotation
from scrflow.core.parallel import mapped, one_thread_each
from scrflow.core.progress import log, track
from scrflow.features.views import EncodedView
from scrflow.pipeline.provenance import RAN, this_run
from scrflow.scene.model import Query, Scene
from scrflow.storage.artifact import Stamp, open_h5, sha256_file, write_json, write_text
from scrflow.storage.journal import Journal
from scrflow.storage.listfile import listed

_OF_JOURNAL = ("name", "pose")
POSES_SHA256 = "poses_sha256"  # of localization.json


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
    confidence: float | None = None  # see Localizer.localize


class Clock:
    """How long the parts of one query take."""

    now = staticmethod(time.perf_counter)  # the benchmark has the processor's time here, for machines that are shared

    def __init__(self) -> None:
        self._began = self._last = self.now()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """The time since the last lap was spent on ``name``."""
        now = self.now()
        self._laps[name] = self._laps.get(name, 0.0) + 1000 * (now - self._last)
        self._last = now

    def laps(self) -> dict[str, float]:
        """Milliseconds of each part, and of all together."""
        total = 1000 * (self._last - self._began)
        return {name: round(ms, 2) for name, ms in [*self._laps.items(), ("total", total)]}


def localize_scene(
    scene: Scene,
    localize: Callable[[Image.Image, Query], Localization],
    stamp: Stamp,
    map_path: Path,
    out: Path,
    details: Path,
    threads: int,
) -> None:
    """Localize every query by ``localize`` (a photo and its query): ``out`` gets the poses in the form of
    visuallocalization.net, ``details`` JSON with the stamp.

    A query that could not be localized has no line in ``out`` and is listed in ``details`` and in the log.

    ``threads`` queries are worked on side by side, each by one thread: while the poses of one are estimated the next
    one is read and encoded, and results do not depend on how many there are. Each result goes to a journal beside
    ``details`` at once; a run that was killed goes on from it, and ends with the same files but for the times.
    """

    def localized(query: Query) -> tuple[Localization, float]:
        began = time.perf_counter()
        photo = scene.photo(query.name)
        read_ms = 1000 * (time.perf_counter() - began)
        return localize(photo, query), read_ms

    def record(query: Query) -> tuple[str, dict[str, Any]]:
        return query.name, _record(query.name, *localized(query))

    # the stamp of a map names its recipe; one trained anew may have other bytes
    journal = Journal(details.with_name(f".{details.stem}.partial.jsonl"), f"{stamp.digest} {sha256_file(map_path)}")
    began = time.perf_counter()
    with journal:
        records = dict(journal.done)
        left = [q for q in scene.queries if q.name not in records]
        for name, done in track(mapped(record, left, threads), "localizing", len(left)):
            journal.add(name, done)
            records[name] = done
    seconds = time.perf_counter() - began
    records = {q.name: records[q.name] for q in scene.queries}
    _tell_lost(records)
    values: dict[str, Any] = {
        "queries": {name: {k: v for k, v in r.items() if k not in _OF_JOURNAL} for name, r in records.items()},
        "summary": _summary(records, [q.name for q in left], seconds, threads),
        "overlay": None,
        RAN: None,
    }
    shown = _typical(records)
    if shown is not None:
        query = next(q for q in scene.queries if q.name == shown)
        with one_thread_each():  # once more: the keypoints of all queries are not kept for the sake of one
            values["overlay"] = {"name": shown, **_overlay(localized(query)[0], query.camera)}
    values[RAN] = this_run(threads)
    text = "".join(r["pose"] for r in records.values() if r["localized"])
    write_json(details, {**values, POSES_SHA256: hashlib.sha256(text.encode()).hexdigest()}, stamp)
    write_text(out, text)
    journal.remove()


def pose_line(name: str, cam_from_world: np.ndarray) -> str:
    """``name qw qx qy qz tx ty tz``: the form of visuallocalization.net."""
    values = [*quaternion_from_rotation(cam_from_world[:, :3]), *cam_from_world[:, 3]]
    return f"{listed(name)} {' '.join(f'{v:.9g}' for v in values)}\n"


def query_descriptors(path: Path, names: list[str]) -> dict[str, torch.Tensor]:
    """Global descriptors [dim] of the queries, by name; ScrflowError naming the first that the file lacks."""
    with open_h5(path, "retrieval") as f:
        missing = [n for n in names if n not in f]
        if missing:
            raise ScrflowError(
                f"{path}: no global descriptor of {len(missing)} queries, first {missing[0]}; add them, run again"
            )
        return {n: torch.from_numpy(f[n]["global_descriptor"][:]).float() for n in names}


def _record(name: str, r: Localization, read_ms: float) -> dict[str, Any]:
    """What the journal holds of a query; ``details`` all of it but _OF_JOURNAL."""
    ms = {"read": round(read_ms, 2), **r.ms}
    return {
        "localized": r.cam_from_world is not None,
        "inliers": int(r.inliers.sum()),
        "keypoints": len(r.view.pixels),
        "hypothesis": r.hypothesis,
        "confidence": None if r.confidence is None else round(r.confidence, 4),
        "ms": {**ms, "total": round(ms["total"] + ms["read"], 2)},
        "reason": r.reason,
        "pose": None if r.cam_from_world is None else pose_line(name, r.cam_from_world),
    }


def _tell_lost(records: dict[str, dict[str, Any]]) -> None:
    lost = [name for name, r in records.items() if not r["localized"]]
    if lost:
        some = ", ".join(lost[:10]) + (" ..." if len(lost) > 10 else "")
        log.warning("%d of %d queries could not be localized: %s", len(lost), len(records), some)


def _summary(records: dict[str, dict[str, Any]], now: list[str], seconds: float, threads: int) -> dict[str, Any]:
    """Median milliseconds of each part over all queries, one thread each, and the rate of the queries of this run."""
    parts: dict[str, list[float]] = {}
    for record in records.values():
        for part, ms in record["ms"].items():
            parts.setdefault(part, []).append(ms)
    summary = {
        "threads": threads,
        "median_ms": {part: round(float(np.median(values)), 2) for part, values in parts.items()},
        "queries": len(now),
        "seconds": round(seconds, 2),
        "queries_per_s": round(len(now) / seconds, 3) if now else None,
    }
    if now:
        log.info("%.2f queries a second; median ms: %s", len(now) / seconds, summary["median_ms"])
    return summary


def _typical(records: dict[str, dict[str, Any]]) -> str | None:
    """The localized query of median inlier share: the picture should flatter nobody."""
    ranked = sorted((r["inliers"] / r["keypoints"], name) for name, r in records.items() if r["localized"])
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
