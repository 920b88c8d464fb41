"""Structure from motion: poses and intrinsics of bare photos.

The output folder is a COLMAP model (the largest component) with ``sfm.json``. An SfM model has no scale of its own; the
config may give it one (scrflow.sfm.alignment), or fix the median depth of its points.
"""

import hashlib
import itertools
import logging
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pycolmap

from scrflow.config import SfmConfig, SfmStage, Source, Split
from scrflow.core.errors import ScrflowError, full_disk_reported
from scrflow.core.images import image_size
from scrflow.core.progress import meter
from scrflow.pipeline.stages import code_of
from scrflow.scene.checks import check_images, check_name, check_unique, median_depth, some
from scrflow.scene.colmap_model import MODEL_DIGEST, figures, write_binary_model
from scrflow.scene.lists import PhotoNames, read_photo_list
from scrflow.scene.photo_files import FOCAL_FACTOR, every_nth, list_photos
from scrflow.sfm.alignment import align, read_targets
from scrflow.sfm.colmap_process import colmap, quiet_pycolmap
from scrflow.sfm.matching import (
    LEAST_PARALLAX,
    check_readable,
    extract_sift,
    import_matches,
    match_pairs,
    retrieval_pairs,
    rotation_residuals,
)
from scrflow.storage.artifact import Stamp, atomic_dir, folder_digest, sha256_file, write_json

log = logging.getLogger("scrflow")

DATABASE = "database.db"
_PAIRS_JUDGED = 200  # by parallax, where SfM fails
PRINCIPAL_POINT_FROM = 10  # registered images a camera
MAX_PRINCIPAL_SHIFT = 0.05  # of width or height


def run_sfm(config: SfmStage, root: Path, out: Path, threads: int) -> None:
    """Register the photos under ``root`` and write the model and ``sfm.json`` to the folder ``out``.

    The same seed gives the same bytes, whatever ``threads`` is. ScrflowError where a photo is damaged, where photos of
    one camera differ in size, or where fewer than ``sfm.min_registered`` of the photos register (it names the others).
    """
    root = Path(root)
    folder = root / config.source.images
    names = photos_to_register(config.source, config.split, root)
    for name in names:
        check_name(name, str(folder))
    sha256 = check_images(folder, dict.fromkeys(names), threads)
    if config.source.single_camera:
        _check_one_size(folder, names)
    targets = read_targets(config.sfm, root, folder, names)
    with atomic_dir(out) as temporary, full_disk_reported(out):
        work = temporary / "work"
        work.mkdir()
        model = _reconstruct(config, folder, names, work, threads)
        _check_registered(model, names, config.sfm, folder, work / DATABASE)
        model = refine_principal_points(model)
        aligned = {}
        if targets is not None:
            aligned["alignment"] = align(model, targets, config.seed)
        elif config.sfm.median_depth is not None:
            scale = config.sfm.median_depth / median_depth(model)
            model.transform(pycolmap.Sim3d(scale, pycolmap.Rotation3d(), np.zeros(3)))
        shutil.rmtree(work)
        write_binary_model(model, temporary)
        images = hashlib.sha256("".join(f"{n} {s}\n" for n, s in sorted(sha256.items())).encode()).hexdigest()[:16]
        inputs = {"images": images}
        if config.sfm.features == "hloc":
            inputs |= {
                key: sha256_file(Path(getattr(config.sfm, key)))[:16] for key in ("hloc_features", "hloc_matches")
            }
        if config.sfm.positions not in (None, "gps"):
            inputs["positions"] = sha256_file(root / config.sfm.positions)[:16]
        stamp = Stamp.make("sfm", config, code_of("reconstruct_scene", config), **inputs)
        registered = sorted(model.image(i).name for i in model.reg_image_ids())
        # a model from a cache must be of these photos: the scene stage compares the digests
        report = {**summary(model, names), **aligned, "sha256": {name: sha256[name] for name in registered}}
        write_json(temporary / "sfm.json", {**report, MODEL_DIGEST: folder_digest(temporary)}, stamp)
    log.info(
        "sfm: %(registered)d of %(images)d photos registered, %(points)d points, mean reprojection error "
        "%(mean_reprojection_error_px).2f px, mean track %(mean_track_length).1f",
        report,
    )


def summary(model: pycolmap.Reconstruction, names: list[str]) -> dict:
    """What sfm.json says of the model."""
    registered = {model.image(i).name for i in model.reg_image_ids()}
    return {
        "images": len(names),
        "registered": len(registered),
        "not_registered": [n for n in names if n not in registered],
        "cameras": len({model.image(i).camera_id for i in model.reg_image_ids()}),
        **figures(model),
        "median_depth": round(median_depth(model), 6),
    }


def refine_principal_points(model: pycolmap.Reconstruction) -> pycolmap.Reconstruction:
    """The model after a last bundle adjustment with the principal point free, where many images share each camera.

    The mapper holds it at the image centre, as a few images cannot tell it from a rotation. On Strecha's Herz-Jesus-P25
    (7 px off centre) this takes the rotation error against the laser from 0.34 to 0.045 degrees. After a shift of more
    than MAX_PRINCIPAL_SHIFT of the side, which is not plausible, the model stays as it was.
    """
    shared = Counter(model.image(i).camera_id for i in model.reg_image_ids())
    if min(shared.values()) < PRINCIPAL_POINT_FROM:
        return model
    refined = pycolmap.Reconstruction(model)
    options = pycolmap.BundleAdjustmentOptions(refine_principal_point=True, print_summary=False)
    options.ceres.solver_options.num_threads = 1
    problem = pycolmap.BundleAdjustmentConfig()
    for image_id in refined.reg_image_ids():
        problem.add_image(image_id)
    problem.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    pycolmap.create_default_bundle_adjuster(options, problem, refined).solve()
    refined.update_point_3d_errors()
    for camera in refined.cameras.values():
        x, y = camera.principal_point_x, camera.principal_point_y
        shift = max(abs(x / camera.width - 0.5), abs(y / camera.height - 0.5))
        log.info("sfm: principal point %.1f, %.1f px", x, y)
        if shift > MAX_PRINCIPAL_SHIFT:
            log.warning("sfm: a principal point %.0f %% off the centre is not plausible; it stays there", 100 * shift)
            return model
    return refined


def photos_to_register(source: Source, split: Split, root: Path) -> list[str]:
    """All photos, or those that are not queries where queries stay out of SfM."""
    folder = root / source.images
    names = list_photos(folder)
    if split.every is not None:
        mapping, _ = every_nth(names, split.every)
        return names if source.queries_in_sfm else mapping
    if split.mapping is None and not split.queries:
        return names
    photos, skip = PhotoNames(names), source.skip_missing
    queries = [name for listed in split.queries.values() for name in read_photo_list(root / listed, photos, skip)]
    check_unique(queries, f"{root}: lists of split.queries")
    if split.mapping is not None:
        mapping = list(read_photo_list(root / split.mapping, photos, skip))
    else:
        mapping = [name for name in names if name not in set(queries)]
    wanted = sorted({*mapping, *queries} if source.queries_in_sfm else mapping)
    gone = [name for name in wanted if name not in set(names)]
    if gone:
        raise ScrflowError(f"{folder / gone[0]}: image is missing; a list of the split names it")
    return wanted


def _check_one_size(folder: Path, names: list[str]) -> None:
    sizes: dict[tuple[int, int], list[str]] = {}
    for name in names:
        sizes.setdefault(image_size(folder / name), []).append(name)
    if len(sizes) > 1:
        common = max(sizes, key=lambda s: len(sizes[s]))
        odd = next(n for size, listed in sizes.items() if size != common for n in listed)
        raise ScrflowError(
            f"{folder / odd}: size differs from the {common[0]}x{common[1]} px of most photos; photos of one camera "
            "have one size: set source.single_camera: false, or leave it out"
        )


def _reconstruct(config: SfmStage, folder: Path, names: list[str], work: Path, threads: int) -> pycolmap.Reconstruction:
    """The largest component; ``work`` is a folder for the database and the mapper's own output."""
    quiet_pycolmap()
    database = work / DATABASE
    sfm, source = config.sfm, config.source
    check_readable(folder, names)
    with colmap(database, f"{database}: cameras of the photos") as process:
        process(
            "register",
            image_root=str(folder),
            names=names,
            single_camera=source.single_camera,
            camera_model=source.camera_model,
            focal_factor=FOCAL_FACTOR,
        )
    if sfm.features == "hloc":
        features, matches = Path(sfm.hloc_features), Path(sfm.hloc_matches)
        pairs = import_matches(database, names, features, matches, config.seed, verify=True)
    else:
        extract_sift(database, folder, names, sfm.max_features, sfm.max_image_size, threads)
        if len(names) <= sfm.exhaustive_up_to:
            pairs = list(itertools.combinations(names, 2))
        else:
            pairs = retrieval_pairs(database, names, sfm.retrieval_pairs, config.seed)
        log.info("sfm: %d photos, %d pairs to match", len(names), len(pairs))
        match_pairs(database, pairs, threads, config.seed, verify=True)
    models = _map(sfm, config.seed, database, folder, work / "models", len(names))
    if not models:
        _check_parallax(database, folder)
        raise ScrflowError(
            f"{folder}: no two photos could be registered; they need overlap, texture and parallax "
            f"({len(pairs)} pairs matched; key sfm.max_features, sfm.mapper)"
        )
    sizes = sorted((m.num_reg_images() for m in models), reverse=True)
    if len(sizes) > 1:
        log.warning("sfm: the photos fall into %d models of %s images; the largest is kept", len(sizes), sizes)
    return max(models, key=lambda m: (m.num_reg_images(), m.num_points3D()))


def _map(
    sfm: SfmConfig, seed: int, database: Path, folder: Path, out: Path, total: int
) -> list[pycolmap.Reconstruction]:
    """Components found by the mapper. One thread and a fixed seed: more threads give other bytes every time."""
    out.mkdir()
    if sfm.mapper == "global":
        options = pycolmap.GlobalPipelineOptions(random_seed=seed, num_threads=1)
        options.mapper.random_seed = seed
        options.mapper.num_threads = 1
        log.info("sfm: global mapping")
        found = pycolmap.global_mapping(database, folder, out, options)
        return [found[k] for k in sorted(found)]
    options = pycolmap.IncrementalPipelineOptions(random_seed=seed, num_threads=1)
    options.min_model_size = min(options.min_model_size, max(3, total // 2))  # small sets are models too
    with meter("registering photos", total) as step:

        def first_two() -> None:
            step("")
            step("")

        found = pycolmap.incremental_mapping(
            database, folder, out, options, initial_image_pair_callback=first_two, next_image_callback=lambda: step("")
        )
    return [found[k] for k in sorted(found)]


def _check_parallax(database: Path, folder: Path) -> None:
    """ScrflowError where the camera only turned between most photos that match."""
    with pycolmap.Database.open(database) as db:
        geometries = list(zip(*db.read_two_view_geometries(), strict=True))
        pairs = []
        for pair_id, geometry in geometries[:: -(-len(geometries) // _PAIRS_JUDGED) or 1]:
            points = []
            ids = pycolmap.pair_id_to_image_pair(pair_id)
            for image_id, rows in zip(ids, np.asarray(geometry.inlier_matches).T, strict=True):
                camera = db.read_camera(db.read_image(image_id).camera_id)
                size = np.array([camera.width, camera.height])
                points.append((db.read_keypoints(image_id)[rows, :2] - size / 2) / size.max())
            pairs.append(tuple(points))
    turned = rotation_residuals(pairs) < LEAST_PARALLAX
    if len(turned) and turned.mean() > 0.5:
        raise ScrflowError(
            f"{folder}: the camera only turned, so there is no parallax to measure depths by: a rotation explains "
            f"the matches of {turned.sum()} of {len(turned)} pairs within {100 * LEAST_PARALLAX:g} % of the image; "
            "walk sideways between photos"
        )


def _check_registered(
    model: pycolmap.Reconstruction, names: list[str], sfm: SfmConfig, folder: Path, database: Path
) -> None:
    registered = {model.image(i).name for i in model.reg_image_ids()}
    missing = [n for n in names if n not in registered]
    if len(registered) < sfm.min_registered * len(names):
        _check_parallax(database, folder)
        raise ScrflowError(
            f"{folder}: SfM registered {len(registered)} of {len(names)} photos, expected {sfm.min_registered:.0%} "
            f"(key sfm.min_registered); not registered: {some(missing, 20)}; add photos between them, leave them out, "
            "or raise sfm.max_features"
        )
    if missing:
        log.warning("sfm: not registered: %s", some(missing, 20))
