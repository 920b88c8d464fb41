"""The scene stage: read a dataset, split it, check it, write the scene artifact."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycolmap

from scrflow.config import SceneStage, Split
from scrflow.core.errors import ScrflowError
from scrflow.core.images import MIN_SIDE_PX
from scrflow.pipeline.stages import code_of
from scrflow.scene.checks import (
    check_images,
    check_intrinsics,
    check_name,
    check_placement,
    check_split,
    check_unique,
    checked_pose,
    some,
)
from scrflow.scene.colmap_model import View
from scrflow.scene.lists import PhotoNames, read_photo_list, read_poses
from scrflow.scene.model import Query, write_scene
from scrflow.scene.photo_files import every_nth, query_cameras, refuse_guesses
from scrflow.scene.pose_consistency import check_poses_by_photos
from scrflow.scene.readers import Collection, read_source
from scrflow.storage.fetch import check_fetched

log = logging.getLogger("scrflow")
_POSED_BY_US = ("photos", "combined")  # readers whose poses are from these photos, or were checked with each part


def build_scene(
    config: SceneStage, root: Path, out: Path, sfm_model: Path | None = None, parts: Sequence[Path] = ()
) -> None:
    """Read the dataset under ``root`` and write the scene artifact to the folder ``out``.

    ``sfm_model`` is the SfM stage's folder, for the reader ``photos``; ``parts`` are the artifacts of ``source.parts``.
    ScrflowError, naming the file, for every fault of the dataset; ``out`` is only replaced when all is well.
    """
    root = Path(root)
    if not root.is_dir():
        raise ScrflowError(f"{root}: no such folder of the scene; put it there, or correct key root (or data_root)")
    listed = (config.split.mapping, *config.split.queries.values(), config.split.query_poses)
    check_fetched(root, [*(root / name for name in listed if name), *config.source.files(root)])
    collection = read_source(config.source, root, sfm_model, dict(zip(config.source.parts, parts, strict=False)))
    where = str(collection.where)
    check_unique((image.name for image in collection.images), where)
    images = {image.name: image for image in collection.images}
    mapping_names, queries = _split(config.split, root, collection, images, config.source.skip_missing)
    guessed = [q.name for q in queries if q.name in collection.guessed and q.camera is images[q.name].camera]
    refuse_guesses(guessed, where, config.split.guess_cameras)

    mapping = _mapping_views(mapping_names, images, collection)
    list_or_source = str(root / config.split.mapping) if config.split.mapping else where
    check_split([v.name for v in mapping], [q.name for q in queries], list_or_source, config.min_mapping_images)
    poses = {
        q.name: images[q.name].cam_from_world
        for q in queries
        if q.name in images and images[q.name].cam_from_world is not None
    }
    if config.split.query_poses is not None:
        poses |= _given_poses(root / config.split.query_poses, [q.name for q in queries])
    cameras = {item.name: item.camera for item in (*mapping, *queries)}
    seen: set[tuple] = set()  # many images share a camera
    for name, c in cameras.items():
        check_name(name, where)
        key = (c.model, c.width, c.height, *c.params)
        if key not in seen and not 0 < min(c.width, c.height) < MIN_SIDE_PX:  # check_images names the photo of others
            check_intrinsics(c, f"{where}: {name}")
            seen.add(key)
    for name, pose in [(v.name, v.cam_from_world) for v in mapping] + list(poses.items()):
        checked_pose(pose, f"{where}: {name}")
    given = config.source.reader not in _POSED_BY_US
    if given:
        check_placement([v.name for v in mapping], np.stack([v.cam_from_world for v in mapping]), where)
    check_fetched(root, (collection.image_root / name for name in cameras))
    sha256 = check_images(collection.image_root, cameras)
    changed = [name for name, digest in collection.sha256.items() if sha256.get(name, digest) != digest]
    if changed:
        raise ScrflowError(
            f"{where}: structure from motion was on other photos: {some(changed)}; delete it and run without --cache"
        )
    if given and config.check_poses:
        posed = [image for image in collection.images if image.cam_from_world is not None]
        check_poses_by_photos(posed, cameras.keys(), collection.image_root, where)

    model = _without_queries(collection.model, {v.name for v in mapping}) if collection.model is not None else None
    write_scene(
        out,
        config=config,
        code=code_of("build_scene", config),
        image_root=collection.image_root,
        unit=config.unit,
        mapping=mapping,
        queries=queries,
        query_poses=poses,
        image_sha256=sha256,
        model=model,
        inputs=collection.inputs,
        parts={v.name: collection.parts[v.name] for v in mapping if v.name in collection.parts},
    )
    log.info("scene: %d mapping images, %d queries (%d with reference pose)", len(mapping), len(queries), len(poses))


def _split(
    split: Split, root: Path, found: Collection, images: dict[str, View], skip_missing: bool
) -> tuple[list[str], list[Query]]:
    """Names of the mapping images, and the queries."""
    if split.every is not None:
        mapping, names = every_nth(list(images), split.every)
        return mapping, [Query(name, images[name].camera, "all") for name in names]
    if split.mapping is None and not split.queries:
        if found.split is None:
            raise ScrflowError(
                f"{found.where}: nothing says which images are queries; give key split.every or .queries"
            )
        mapping, names = found.split
        return list(mapping), [Query(name, images[name].camera, found.conditions.get(name, "all")) for name in names]

    photos = PhotoNames(found.image_root)
    queries: dict[str, Query] = {}
    for condition, listed in split.queries.items():
        path = root / listed
        cameras = read_photo_list(path, photos, skip_missing)
        unknown = [name for name, camera in cameras.items() if camera is None and name not in images]
        cameras |= query_cameras(found.image_root, unknown, str(path), split.guess_cameras)
        for name, camera in cameras.items():
            if name in queries:
                raise ScrflowError(f"{path}: {name} is listed under another condition too; remove one")
            queries[name] = Query(name, images[name].camera if camera is None else camera, condition)
    if split.mapping is None:
        return [name for name in images if name not in queries], list(queries.values())
    path = root / split.mapping
    mapping = list(read_photo_list(path, photos, skip_missing))
    for name in mapping:
        if name in images:
            continue
        if not (found.image_root / name).is_file():
            raise ScrflowError(f"{found.image_root / name}: image is missing; {path} lists it; correct one of them")
        raise ScrflowError(f"{path}: {name} is listed, but {found.where} has no pose of it; correct the list")
    return mapping, list(queries.values())


def _given_poses(path: Path, queries: list[str]) -> dict[str, np.ndarray]:
    """Reference poses [3, 4] of the queries that a list names, with or without their folders."""
    given, names = read_poses(path), PhotoNames(queries)
    out: dict[str, np.ndarray] = {}
    unknown = []
    for listed, pose in given.items():
        name = names.find(listed, path)
        if name is None:
            unknown.append(listed)
        elif name in out:
            raise ScrflowError(f"{path}: {name} is there twice, also as {listed}; remove one line")
        else:
            out[name] = pose
    if not out:
        raise ScrflowError(f"{path}: none of its {len(given)} names is a query; correct key split.query_poses")
    if unknown:
        log.warning("%s: %d of %d names are no queries: %s", path, len(unknown), len(given), some(unknown))
    log.info("%s: reference poses of %d of %d queries", path, len(out), len(queries))
    return out


def _mapping_views(names: list[str], images: dict[str, View], found: Collection) -> list[View]:
    """The mapping images that have poses; ScrflowError for one without, unless the reader said why it lacks one."""
    views, without = [], []
    for name in names:
        image = images[name]
        if image.cam_from_world is not None:
            views.append(image)
        elif name in found.left_out:
            without.append(name)
        else:
            raise ScrflowError(f"{found.where}: mapping image {name} has no pose; correct the list or the poses")
    if without:
        why = found.left_out[without[0]]
        log.warning("%s: %d mapping images left out, %s: %s", found.where, len(without), why, some(without))
    return views


def _without_queries(model: pycolmap.Reconstruction, mapping: set[str]) -> pycolmap.Reconstruction | None:
    """The model with nothing but the mapping images and their points; None (poses only) for one with camera rigs."""
    if any(frame.rig.num_sensors() > 1 for frame in model.frames.values()):
        log.warning("scene: 3D points of a model with camera rigs are not kept")
        return None
    for image_id in list(model.reg_image_ids()):
        image = model.image(image_id)
        if image.name not in mapping:
            model.deregister_frame(image.frame_id)
    return model
