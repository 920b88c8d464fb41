"""scrflow localize: photos that belong to no scene of the config, with nothing but a map.

Two files are written. ``OUT`` has a line ``name qw qx qy qz tx ty tz`` (cam_from_world) of every photo with a pose.
``OUT`` with the suffix .jsonl has a line a photo with all that is known of it, written as soon as it is known: a run
that was stopped goes on from there, as long as map, photo and camera are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pycolmap

from scrflow.core.errors import ScrflowError
from scrflow.core.parallel import mapped
from scrflow.core.progress import log, track
from scrflow.localize.query import camera_of
from scrflow.localize.router import Router
from scrflow.scene.checks.validate import check_listable, check_unique, some
from scrflow.scene.model import camera_of_fields, query_line, read_query_list
from scrflow.scene.model import pose_line as pose_text
from scrflow.scene.photo_files import list_photos
from scrflow.storage.artifact import sha256_file, write_text
from scrflow.storage.codeversion import code_version
from scrflow.storage.journal import Journal, line_of
from scrflow.storage.listfile import listed as name_in_list
from scrflow.storage.listfile import read_lines

# Twelve photos of other places had 0.0003 to 0.0095 on the demo's map, 109 on other maps 0.00 (docs/api.md); of 100
# queries in their own place 2 had less than 0.02, with errors of 1.2 and 3.7 m where 0.25 m is the finest threshold
MIN_CONFIDENCE = 0.02


@dataclass(frozen=True)
class LocalizeRequest:
    """What the command line asks for."""

    map: Path  # with ``more``, any of them
    images: tuple[Path, ...]  # photos, or folders of photos
    camera: str | None  # 'MODEL WIDTH HEIGHT PARAMS...', or a file of cameras; None: EXIF
    out: Path
    min_confidence: float | None = None  # None: MIN_CONFIDENCE where the map can tell confidences
    device: str | None = None
    threads: int = 1
    more: tuple[Path, ...] = ()  # further maps of the same frame; see scrflow.localize.router
    tried: int = 2  # how many of the likeliest maps each photo is localized with


@dataclass(frozen=True)
class Outcome:
    """Numbers of photos."""

    photos: int
    posed: int  # have a line in the poses
    unsure: int  # have a pose, under min_confidence
    lost: tuple[str, ...]  # could not be localized
    broken: tuple[str, ...]  # could not be read, or their camera is not known


def localize_photos(request: LocalizeRequest) -> Outcome:
    """Localize the photos. A photo that cannot be used is told, and does not stop the others.

    ScrflowError for what concerns all of them: the map, the list of cameras, the output.
    """
    photos = photos_of(request.images)
    cameras = cameras_of(request.camera, list(photos))
    if request.min_confidence is not None and not 0 <= request.min_confidence < 1:
        raise ScrflowError(f"--min-confidence {request.min_confidence:g}: expected a probability, 0 or more, under 1")
    log_path = request.out.with_suffix(".jsonl")
    if log_path == request.out:
        raise ScrflowError(f"{request.out}: suffix .jsonl is that of the details; name the poses otherwise, e.g. .txt")
    maps = (request.map, *request.more)
    digests = " ".join(sha256_file(_file(path, "map")) for path in maps)
    tried = f", {request.tried} tried" if request.more else ""
    key = f"photos, map {digests}{tried}, code {code_version('localize.router')}"
    router = Router.open(maps, request.device, request.tried)
    keys = {n: {"camera": cameras[n], "sha256": _digest(path)} for n, path in photos.items()}
    with Journal(log_path, key) as journal:
        records = {n: r for n, r in journal.done.items() if n in keys and keys[n].items() <= r.items()}
        left = [n for n in photos if n not in records or "error" in records[n]]

        def record(name: str) -> tuple[str, dict[str, Any]]:
            return name, {**keys[name], **_localized(router, photos[name], cameras[name])}

        for name, done in track(mapped(record, left, request.threads), "localizing", len(left)):
            journal.add(name, done)
            records[name] = {"name": name, **done}
            if "error" in done:
                log.error("error: %s", done["error"])
    first = log_path.read_text(encoding="utf-8").splitlines(keepends=True)[0]
    chosen = [records[name] for name in photos]
    # once more as a whole: without photos of an earlier run that this one does not have
    write_text(log_path, first + "".join(line_of(r) for r in chosen))
    return _write_poses(request, chosen)


def photos_of(images: tuple[Path, ...]) -> dict[str, Path]:
    """Name to path: a photo's name is its path as given, that of a folder's photos the path within the folder.

    ScrflowError for a path that is not there, a folder without photos, and two photos of one name.
    """
    found: list[tuple[str, Path]] = []
    for path in images:
        if path.is_dir():
            found += [(name, path / name) for name in list_photos(path)]
        else:
            found.append((path.as_posix(), _file(path, "image")))
    check_unique([name for name, _ in found], "IMAGES")
    for name, _ in found:
        check_listable(name, "IMAGES")
    return dict(found)


def cameras_of(camera: str | None, names: list[str]) -> dict[str, str | None]:
    """``MODEL WIDTH HEIGHT PARAMS...`` of every photo; None where EXIF is to tell it.

    ``camera`` is the camera of all, or a file: lines ``NAME MODEL ...`` (hloc's list; a name alone: EXIF), one line
    ``MODEL ...``, or COLMAP's cameras.txt with one camera. ScrflowError for one that cannot be read, or a photo that a
    list leaves out.
    """
    if camera is None:
        return dict.fromkeys(names)
    if not Path(camera).is_file():
        if len(camera.split()) < 2:
            raise ScrflowError(f"--camera {camera}: no such file, and not 'MODEL WIDTH HEIGHT PARAMS...'")
        return dict.fromkeys(names, _line(camera_of(camera, "--camera")))
    path = Path(camera)
    lines = [(number, line.split()) for number, line in read_lines(path)]
    if not lines:
        raise ScrflowError(f"{path}: no camera in it; expected lines NAME MODEL WIDTH HEIGHT PARAMS...")
    for first in (0, 1):  # COLMAP's cameras.txt begins with the camera's number
        if len(lines[0][1]) > first and lines[0][1][first] in pycolmap.CameraModelId.__members__:
            if first == 1 and not lines[0][1][0].isdigit():
                break
            if len(lines) > 1:
                raise ScrflowError(f"{path}: {len(lines)} cameras, and nothing says which photo each is of; list NAME "
                                   "MODEL WIDTH HEIGHT PARAMS...")  # fmt: skip
            number, fields = lines[0]
            where = f"{path}: line {number}"
            return dict.fromkeys(names, _line(camera_of(camera_of_fields(fields[first:], where), where)))
    listed = read_query_list(path)
    missing = [name for name in names if name not in listed]
    if missing:
        raise ScrflowError(f"{path}: no line of {len(missing)} of {len(names)} photos: {some(missing)}; list them too")
    return {name: None if (c := listed[name]) is None else _line(camera_of(c, str(path))) for name in names}


def _line(camera: pycolmap.Camera) -> str:
    return query_line("", camera).strip()


def _file(path: Path, what: str) -> Path:
    if not path.is_file():
        raise ScrflowError(f"{path}: {what} is missing; name a file{' or a folder' if what == 'image' else ''}")
    return path


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)[:16]
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _localized(router: Router, path: Path, camera: str | None) -> dict[str, Any]:
    try:
        routed = router.localize(path, camera)
    except ScrflowError as error:
        return {"error": str(error)}
    found = routed.found
    several = {"map": routed.map, "tried": list(routed.tried), "scores": routed.scores} if routed.scores else {}
    pose = found.cam_from_world
    return {
        "pose": None if pose is None else [float(v) for v in pose_text("", pose).split()],
        "inliers": int(found.inliers.sum()),
        "keypoints": len(found.inliers),
        "confidence": None if found.confidence is None else round(found.confidence, 4),
        "hypothesis": found.hypothesis,
        "ms": found.ms,
        "reason": found.reason,
        **several,
    }


def _write_poses(request: LocalizeRequest, records: list[dict[str, Any]]) -> Outcome:
    posed = [r for r in records if r.get("pose") is not None]
    unknown = any(r["confidence"] is None for r in posed)
    if request.min_confidence and unknown:
        raise ScrflowError(f"{request.map}: holds no thresholds, so there is no confidence; leave out --min-confidence")
    if request.min_confidence is None and unknown:
        log.warning("%s: holds no thresholds, so poses of photos of another place cannot be told apart", request.map)
    least = request.min_confidence if request.min_confidence is not None else 0.0 if unknown else MIN_CONFIDENCE
    sure = [r for r in posed if not least or r["confidence"] >= least]
    lines = [f"{name_in_list(r['name'])} {' '.join(f'{v:.9g}' for v in r['pose'])}\n" for r in sure]
    write_text(request.out, "".join(lines))
    broken = tuple(r["name"] for r in records if "error" in r)
    lost = tuple(r["name"] for r in records if "error" not in r and r["pose"] is None)
    return Outcome(len(records), len(sure), len(posed) - len(sure), lost, broken)


def summary_of(outcome: Outcome, out: Path) -> str:
    """One line."""
    parts = [f"{outcome.posed} of {outcome.photos} photos have a pose: {out}"]
    if outcome.unsure:
        parts.append(f"{outcome.unsure} under --min-confidence, perhaps of another place (the .jsonl has their poses)")
    if outcome.lost:
        parts.append(f"{len(outcome.lost)} not localized ({some(outcome.lost, 3)})")
    if outcome.broken:
        parts.append(f"{len(outcome.broken)} not usable ({some(outcome.broken, 3)})")
    return "; ".join(parts)
