"""``scrflow localize``: photos that belong to no scene of the config, localized with maps alone.

``OUT`` gets a line ``name qw qx qy qz tx ty tz`` (cam_from_world) for every photo with a pose; ``OUT`` with the suffix
.jsonl the details of every photo as results come, and a stopped run continues from it.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pose_numbers
from scrflow.core.parallel import mapped
from scrflow.core.progress import log, track
from scrflow.localize.hint import hint_of
from scrflow.localize.localizer import Localizer
from scrflow.localize.query import camera_of, query_photo
from scrflow.localize.router import Router
from scrflow.pipeline.stages import code_version
from scrflow.scene.checks import check_listable, check_unique, checked_pose, some
from scrflow.scene.lists import camera_of_fields, pose_line, query_line, read_poses, read_query_list
from scrflow.scene.photo_files import list_photos
from scrflow.storage.artifact import sha256_file, write_text
from scrflow.storage.journal import Journal, line_of
from scrflow.storage.listfile import read_lines, split_name

# Of 180 photos of other places 11 have more by heads, of 540 none by landmarks. Of poses that are right at the scenes'
# widest thresholds 48 of 1 535 have less by heads, 2 of 1 706 by landmarks (benchmarks/confidence.py).
MIN_CONFIDENCE = 0.001
_DIGITS = 9  # of the numbers in OUT


@dataclass(frozen=True)
class Outcome:
    """Numbers of photos."""

    photos: int
    posed: int  # have a line in OUT
    unsure: int  # have a pose with less than min_confidence
    lost: tuple[str, ...]  # could not be localized
    broken: tuple[str, ...]  # could not be read, or are not of their camera
    estimated: int  # photos with a pose whose focal length was unknown, and is estimated
    turned: int  # photos with a pose that are stored sideways or upside down


def localize_photos(
    maps: tuple[Path, ...],
    images: tuple[Path, ...],
    camera: str | None,
    out: Path,
    min_confidence: float | None = None,
    device: str | None = None,
    threads: int = 1,
    tried: int = 2,
    rig: Path | None = None,
    group: int | None = None,
    near: str | None = None,
) -> Outcome:
    """Localize photos, or folders of photos, with the ``tried`` most similar of the ``maps`` (scrflow.localize.router).
    A photo that cannot be used is reported, and does not stop the others; ScrflowError for what concerns all. With
    ``rig`` and ``group`` (see ``groups_of``) photos are localized together, by one map.
    ``min_confidence`` None: MIN_CONFIDENCE, if the map has thresholds. ``near``: see ``hints_of``."""
    photos = photos_of(images)
    cameras, hints = cameras_of(camera, list(photos)), hints_of(near, list(photos))
    if min_confidence is not None and not 0 <= min_confidence < 1:
        raise ScrflowError(f"--min-confidence {min_confidence:g}: give a probability, 0 or more and under 1")
    log_path = out.with_suffix(".jsonl")
    if log_path == out:
        raise ScrflowError(f"{out}: suffix .jsonl is for the details; give the poses another, e.g. .txt")
    digests = " ".join(sha256_file(_existing(path, "map")) for path in maps)
    routing = f", {tried} tried" if len(maps) > 1 else ""
    router = Router.open(maps, device, tried)
    keys = {n: {"camera": cameras[n], "sha256": _digest(path)} for n, path in photos.items()}
    keys = {n: key if hints[n] is None else {**key, "near": hints[n]} for n, key in keys.items()}
    together = [{name: None} for name in photos]
    if rig is not None:
        if len(maps) > 1 or near is not None:
            raise ScrflowError("--rig takes one map and no hints; leave out --map and --near")
        together = groups_of(rig, group, list(photos))
        for members in together:
            poses = "".join(pose_line(name, pose) for name, pose in members.items())
            label = f"{len(members)} photos, {hashlib.sha256(poses.encode()).hexdigest()[:16]}"
            for name in members:
                keys[name]["group"] = label
    elif group is not None:
        raise ScrflowError("--group needs the relative poses of photos; give --rig FILE")
    with Journal(log_path, f"photos, map {digests}{routing}, code {code_version('localize.router')}") as journal:
        known = {n: (keys[n], r) for n, r in journal.done.items() if n in keys}
        records = {n: r for n, (k, r) in known.items() if k.items() <= r.items() and k.get("near") == r.get("near")}
        left = [m for m in together if any(n not in records or "error" in records[n] for n in m)]

        def recorded(members: dict[str, np.ndarray | None]) -> dict[str, dict[str, Any]]:
            if rig is None:
                return {name: _localized(router, photos[name], cameras[name], hints[name]) for name in members}
            return _localized_together(router.maps[str(maps[0])], {n: photos[n] for n in members}, cameras, members)

        for found in track(mapped(recorded, left, threads), "localizing", len(left)):
            for name, facts in found.items():
                done = {**keys[name], **facts}
                journal.add(name, done)
                records[name] = {"name": name, **done}
                if "error" in done:
                    log.error("error: %s", done["error"])
    chosen = [records[name] for name in photos]
    # write the details again as a whole, without photos of an earlier run that are not asked for now
    first = log_path.read_text(encoding="utf-8").splitlines(keepends=True)[0]
    write_text(log_path, first + "".join(line_of(r) for r in chosen))
    return _write_poses(maps[0], out, min_confidence, chosen)


def photos_of(images: tuple[Path, ...]) -> dict[str, Path]:
    """Name to path: the name of a photo is its path as given; in a folder, its path within the folder, with the folder
    as given where several have equal names. ScrflowError for a path that does not exist, a folder without photos, and
    two photos of one name."""
    found: list[tuple[str, Path]] = []
    inside = {path: list_photos(path) for path in images if path.is_dir()}
    several = [name for names in inside.values() for name in names]
    equal = len(set(several)) < len(several)  # day/1.jpg, night/1.jpg: then the folders are named too
    for path in images:
        if path in inside:
            found += [((path / name).as_posix() if equal else name, path / name) for name in inside[path]]
        else:
            found.append((path.as_posix(), _existing(path, "image")))
    check_unique([name for name, _ in found], "IMAGES")
    for name, _ in found:
        check_listable(name, "IMAGES")
    return dict(found)


def cameras_of(camera: str | None, names: list[str]) -> dict[str, str | None]:
    """``MODEL WIDTH HEIGHT PARAMS...`` of every photo; None: EXIF, else estimated. ``camera`` is of all photos, or a
    file: lines ``NAME MODEL ...`` (hloc's list; a name alone: EXIF), one line ``MODEL ...``, or COLMAP's cameras.txt
    with one camera. ScrflowError for a camera that cannot be read, or a photo that a list leaves out."""
    path = _file_of("--camera", camera, "MODEL WIDTH HEIGHT PARAMS...")
    if path is None:
        return dict.fromkeys(names, None if camera is None else _line(camera_of(camera, "--camera")))
    lines = read_lines(path)
    if not lines:
        raise ScrflowError(f"{path}: no camera in it; write lines NAME MODEL WIDTH HEIGHT PARAMS...")
    number, fields = lines[0][0], lines[0][1].split()
    if fields[0].isdigit() and fields[1:2] and fields[1] in pycolmap.CameraModelId.__members__:
        fields = fields[1:]  # in COLMAP's cameras.txt a line begins with the camera's number
    if fields[0] in pycolmap.CameraModelId.__members__:
        if len(lines) > 1:
            raise ScrflowError(
                f"{path}: {len(lines)} cameras, and nothing says which photo each is of; write lines NAME MODEL WIDTH "
                "HEIGHT PARAMS..."
            )
        where = f"{path}: line {number}"
        return dict.fromkeys(names, _line(camera_of(camera_of_fields(fields, where), where)))
    listed = read_query_list(path)
    _check_listed(path, names, listed)
    return {name: None if (c := listed[name]) is None else _line(camera_of(c, str(path))) for name in names}


def groups_of(path: Path, size: int | None, names: list[str]) -> list[dict[str, np.ndarray]]:
    """Photos that are localized together, each with its cam_from_rig [3, 4], from lines ``NAME qw qx qy qz tx ty tz``.
    If names are those of photos, all are one group, or each ``size`` that follow each other in the file. If they are
    folders or other beginnings of names (``cam0``), photos whose names go on alike are one group. ScrflowError for a
    photo without a line."""
    poses = {name: checked_pose(pose, f"{path}: {name}") for name, pose in read_poses(path).items()}
    if size is not None or any(name in poses for name in names):
        _check_listed(path, names, poses)
        listed = [name for name in poses if name in set(names)]
        size = size or len(listed)
        return [{n: poses[n] for n in listed[at : at + size]} for at in range(0, len(listed), size)]
    groups: dict[str, dict[str, np.ndarray]] = {}
    for name in names:
        begin = max((p for p in poses if name.startswith(p)), key=len, default=None)
        if begin is None:
            raise ScrflowError(f"{path}: no line of photo {name}, nor of a folder that it is in; add one")
        groups.setdefault(name.removeprefix(begin), {})[name] = poses[begin]
    return list(groups.values())


def hints_of(near: str | None, names: list[str]) -> dict[str, str | None]:
    """The hint of every photo as text (scrflow.localize.hint), None where nothing is known. ``near`` is of all photos,
    or a file of lines ``NAME HINT``. ScrflowError for a hint that cannot be read."""
    path = _file_of("--near", near, "X Y Z RADIUS")
    if path is None:
        hint_of(near, "--near")
        return dict.fromkeys(names, None if near is None else " ".join(near.split()))
    hints: dict[str, str] = {}
    for number, line in read_lines(path):
        name, fields = split_name(line)
        hint_of(fields, f"{path}: line {number}")
        hints[name] = " ".join(fields)
    return {name: hints.get(name) for name in names}


def _file_of(option: str, value: str | None, form: str) -> Path | None:
    """The file that an option names; None where it is not given, or is text of ``form`` for all photos."""
    if value is not None and Path(value).is_file():
        return Path(value)
    if value is not None and len(value.split()) < 2:
        raise ScrflowError(f"{option} {value}: no such file; name one, or give '{form}'")
    return None


def _check_listed(path: Path, names: list[str], listed: Collection[str]) -> None:
    missing = [name for name in names if name not in listed]
    if missing:
        raise ScrflowError(f"{path}: no line of {len(missing)} of {len(names)} photos: {some(missing)}; list them too")


def _line(camera: pycolmap.Camera) -> str:
    return query_line("", camera).strip()


def _existing(path: Path, what: str) -> Path:
    if not path.is_file():
        raise ScrflowError(f"{path}: {what} is missing; name a file{' or a folder' if what == 'image' else ''}")
    return path


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)[:16]
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _localized(router: Router, path: Path, camera: str | None, near: str | None) -> dict[str, Any]:
    try:
        routed = router.localize(path, camera, near)
    except ScrflowError as error:
        return {"error": str(error)}
    pose = routed.found.cam_from_world
    several = {"map": routed.map, "tried": list(routed.tried), "scores": routed.scores} if routed.scores else {}
    return {"pose": None if pose is None else pose_numbers(pose), **routed.found.facts(), **several}


def _localized_together(
    localizer: Localizer, photos: dict[str, Path], cameras: dict[str, str | None], rig: dict[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Facts of each photo of a group. A photo that cannot be used is left out of it."""
    usable, facts = {}, {}
    for name, path in photos.items():
        try:
            usable[name] = query_photo(path, cameras[name])
            if usable[name][1] is None:
                raise ScrflowError(f"{path}: its focal length is unknown, which a group needs; give --camera")
        except ScrflowError as error:
            usable.pop(name, None)
            facts[name] = {"error": str(error)}
    if usable:
        features = [localizer.features(*query) for query in usable.values()]
        group = localizer.localize_group_features(features, [rig[name] for name in usable])
        for i in group.disagreeing:
            log.warning("%s: its own pose is not where the rig has it; check its line in --rig", [*usable][i])
        for name, found in zip(usable, group.photos, strict=True):
            pose = None if group.rig_from_world is None else pose_numbers(found.cam_from_world)
            facts[name] = {"pose": pose, **found.facts()} | ({"reason": group.reason} if pose is None else {})
    return facts


def _write_poses(map_: Path, out: Path, least: float | None, records: list[dict[str, Any]]) -> Outcome:
    posed = [r for r in records if r.get("pose") is not None]
    unknown = any(r["confidence"] is None for r in posed)
    if least and unknown:
        raise ScrflowError(f"{map_}: holds no thresholds, so there is no confidence; leave out --min-confidence")
    if least is None and unknown:
        log.warning("%s: holds no thresholds, so poses of photos of other places cannot be left out", map_)
    if least is None:
        least = 0.0 if unknown else MIN_CONFIDENCE
    # that a photo is of this place does not depend on how well its focal length is known
    sure = [r for r in posed if not least or r.get("confidence_at_focal", r["confidence"]) >= least]
    write_text(out, "".join(f"{pose_line(r['name'], r['pose'], _DIGITS)}\n" for r in sure))
    broken = tuple(r["name"] for r in records if "error" in r)
    lost = tuple(r["name"] for r in records if "error" not in r and r["pose"] is None)
    estimated, turned = (sum(key in r for r in sure) for key in ("focal_spread", "turned"))
    return Outcome(len(records), len(sure), len(posed) - len(sure), lost, broken, estimated, turned)


def summary_of(outcome: Outcome, out: Path) -> str:
    """One line."""
    parts = [f"{outcome.posed} of {outcome.photos} photos have a pose: {out}"]
    if outcome.estimated:
        parts.append(f"focal length of {outcome.estimated} estimated (the .jsonl has it; --camera tells it better)")
    if outcome.turned:
        parts.append(f"{outcome.turned} stored sideways or upside down (turned in the .jsonl)")
    if outcome.unsure:
        parts.append(f"{outcome.unsure} under --min-confidence, perhaps of another place (the .jsonl has their poses)")
    if outcome.lost:
        parts.append(f"{len(outcome.lost)} not localized ({some(outcome.lost, 3)})")
    if outcome.broken:
        parts.append(f"{len(outcome.broken)} not usable ({some(outcome.broken, 3)})")
    return "; ".join(parts)
