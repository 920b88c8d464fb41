"""Features, pairs and matches in a COLMAP database, for SfM and for triangulation: SIFT, or hloc's files.

COLMAP's matcher cannot use several threads (see ``colmap_process.match``), so several processes match instead, each in
a copy of the database. Of many photos, those are matched whose VLAD (Jegou et al., CVPR 2010) over the SIFT descriptors
is alike, with residuals normalised within each cluster (Arandjelovic and Zisserman, CVPR 2013).
"""

import contextlib
import logging
import queue
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pycolmap

from scrflow.core.errors import ScrflowError
from scrflow.core.images import opened
from scrflow.core.progress import meter
from scrflow.interop.hloc_files import read_keypoints, read_matches, write_pairs
from scrflow.scene.photo_files import COLMAP_UNREAD
from scrflow.sfm.colmap_process import Colmap, colmap

log = logging.getLogger("scrflow")

PAIRS_A_STEP = 64  # COLMAP keeps the search trees of the photos of one step in memory
_IMAGES_A_STEP = 4
_TABLES = ("matches", "two_view_geometries")
CLUSTERS = 64
_LEARN_ON = 50_000  # descriptors; some 800 a cluster, beyond which the centroids hardly move
_PER_IMAGE = 2_000  # the first (strongest) of an image; enough for its VLAD


def extract_sift(
    database: Path, image_root: Path, names: Sequence[str], max_features: int, max_image_size: int, threads: int
) -> None:
    """Extract RootSIFT (L1 root) of images that are in the database; keypoints in pixels of the stored image.

    The result does not depend on ``threads``. ScrflowError when COLMAP cannot read an image, OSError when the disk is
    full.
    """
    check_readable(image_root, names)
    with colmap(database, f"{database}: SIFT features") as process, meter("SIFT features", len(names)) as step:
        for at in range(0, len(names), _IMAGES_A_STEP):
            some = list(names[at : at + _IMAGES_A_STEP])
            process(
                "extract",
                image_root=str(image_root),
                names=some,
                max_features=max_features,
                max_image_size=max_image_size,
                threads=threads,
            )
            for name in some:
                step(name)


def check_readable(image_root: Path, names: Sequence[str]) -> None:
    """ScrflowError for a format that pycolmap's wheel cannot read: it would skip the image with a line in the log."""
    for name in names:
        with opened(image_root / name) as image:
            form = image.format
        if form in COLMAP_UNREAD:
            raise ScrflowError(
                f"{image_root / name}: COLMAP does not read {form}, and structure from motion and triangulation need "
                f"its SIFT; convert the photos to JPEG by scrflow upright {image_root} OUT"
            )


def match_pairs(database: Path, pairs: Sequence[tuple[str, str]], threads: int, seed: int, verify: bool) -> None:
    """Match each pair of image names by mutual nearest neighbours with the ratio test; with ``verify`` estimate the
    two-view geometries by RANSAC. Up to ``threads`` processes run; the result does not depend on their number.

    ScrflowError when one of the processes is killed, OSError when the disk is full.
    """
    with (
        tempfile.TemporaryDirectory(dir=database.parent) as folder,
        plain_names(database, pairs) as pairs,
        meter("matching pairs", len(pairs)) as step,
    ):
        lists = []
        for at in range(0, len(pairs), PAIRS_A_STEP):
            some = pairs[at : at + PAIRS_A_STEP]
            lists.append((Path(folder, f"{at}.txt"), len(some)))
            lists[-1][0].write_text("".join(f"{a} {b}\n" for a, b in some), encoding="utf-8")
        processes = max(1, min(threads, len(lists)))
        copies = [Path(folder, f"{k}.db") for k in range(processes)] if processes > 1 else []
        for copy in copies:
            shutil.copyfile(database, copy)
        # the processes are left before the pool: when one fails, the others end and no thread waits for them
        with ThreadPoolExecutor(processes) as pool, contextlib.ExitStack() as stack:
            idle: queue.SimpleQueue[Colmap] = queue.SimpleQueue()
            for each in copies or [database]:
                idle.put(stack.enter_context(colmap(each, f"{database}: matching pairs")))

            def matched(listed: Path, count: int) -> int:
                process = idle.get()
                try:
                    process("match", listed=str(listed), seed=seed, verify=verify)
                finally:
                    idle.put(process)
                return count

            futures = [pool.submit(matched, *some) for some in lists]
            try:
                for future in futures:
                    for _ in range(future.result()):
                        step("")
            finally:
                for future in futures:
                    future.cancel()
        _collect(database, copies)


def _collect(database: Path, copies: Sequence[Path]) -> None:
    """Take over what the processes wrote to their copies."""
    with contextlib.closing(sqlite3.connect(database)) as whole:
        for copy in copies:
            whole.execute("ATTACH DATABASE ? AS part", (str(copy),))
            with whole:
                for table in _TABLES:
                    whole.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM part.{table}")
            whole.execute("DETACH DATABASE part")


def import_matches(
    database: Path, names: Sequence[str], features: Path, matches: Path, seed: int, verify: bool
) -> list[tuple[str, str]]:
    """Write hloc's keypoints and matches of images that are in the database; with ``verify`` two-view geometries too.

    Keypoints are moved by half a pixel to COLMAP's origin. Without ``verify`` the caller checks the matches. Returns
    the pairs, sorted. ScrflowError when a file is damaged, lacks an image, or holds no pair of these images.
    """
    keypoints = read_keypoints(features, names)
    found = read_matches(matches, {name: len(k) for name, k in keypoints.items()})
    with pycolmap.Database.open(database) as db:
        ids = {name: db.read_image_with_name(name).image_id for name in names}
        for name, points in keypoints.items():
            db.write_keypoints(ids[name], points)
        for (a, b), indices in found.items():
            db.write_matches(ids[a], ids[b], indices)
    pairs = sorted(found)
    log.info("hloc: %d images, %d pairs, %d matches", len(names), len(pairs), sum(map(len, found.values())))
    if verify:
        # COLMAP's mapper skips a pair whose two-view geometry has no configuration
        with (
            tempfile.TemporaryDirectory(dir=database.parent) as folder,
            plain_names(database, pairs) as plain,
            colmap(database, f"{database}: verifying matches") as process,
        ):
            listed = Path(folder) / "pairs.txt"
            write_pairs(listed, plain)
            process("verify", listed=str(listed), seed=seed)
    return pairs


def retrieval_pairs(database: Path, names: Sequence[str], count: int, seed: int) -> list[tuple[str, str]]:
    """Each image with its ``count`` most alike, every pair once, sorted."""
    similarity = vlad_similarity(_descriptors(database, names), seed)
    return nearest_pairs(names, -similarity, count)


def nearest_pairs(names: Sequence[str], distance_NN: np.ndarray, count: int) -> list[tuple[str, str]]:
    """Each image with its ``count`` nearest of finite distance; every pair once, sorted."""
    distance = np.array(distance_NN, np.float64)
    np.fill_diagonal(distance, np.inf)
    pairs = set()
    for i, row in enumerate(distance):
        for j in np.argsort(row, kind="stable")[:count]:
            if np.isfinite(row[j]):
                pairs.add((min(i, int(j)), max(i, int(j))))
    return [(names[i], names[j]) for i, j in sorted(pairs)]


def vlad_similarity(descriptors: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Cosine similarity [N, N] of the images' VLAD, from their local descriptors [n_i, D]."""
    # one thread: sums in another order would give other pairs on another machine
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        everything = np.concatenate([d for d in descriptors if len(d)] or [np.zeros((0, 128), np.float32)])
        if len(everything) == 0:
            return np.zeros((len(descriptors), len(descriptors)))
        clusters = min(CLUSTERS, len(everything))
        rng = np.random.default_rng(seed)
        learn = everything[np.sort(rng.permutation(len(everything))[:_LEARN_ON])]
        kmeans = faiss.Kmeans(learn.shape[1], clusters, niter=15, seed=seed, min_points_per_centroid=1)
        kmeans.train(np.ascontiguousarray(learn, np.float32))
        vlad = np.stack([_vlad(d, kmeans) for d in descriptors])
    finally:
        faiss.omp_set_num_threads(threads)
    vlad -= vlad.mean(0)  # what all images share says nothing about any of them
    vlad /= np.maximum(np.linalg.norm(vlad, axis=1, keepdims=True), 1e-12)
    return vlad @ vlad.T


def _vlad(descriptors: np.ndarray, kmeans: faiss.Kmeans) -> np.ndarray:
    """[clusters * D], unit length."""
    centroids = kmeans.centroids.reshape(-1, descriptors.shape[1])
    residuals = np.zeros_like(centroids, np.float64)
    if len(descriptors):
        nearest = kmeans.index.search(np.ascontiguousarray(descriptors, np.float32), 1)[1][:, 0]
        np.add.at(residuals, nearest, descriptors - centroids[nearest])
    residuals /= np.maximum(np.linalg.norm(residuals, axis=1, keepdims=True), 1e-12)
    flat = residuals.ravel()
    return flat / max(np.linalg.norm(flat), 1e-12)


def _descriptors(database: Path, names: Sequence[str]) -> list[np.ndarray]:
    """RootSIFT descriptors [n, 128] float32 of each image, unit length."""
    out = []
    with pycolmap.Database.open(database) as db:
        for name in names:
            found = db.read_descriptors(db.read_image_with_name(name).image_id)
            data = np.asarray(found.data, np.float32)[:_PER_IMAGE]
            out.append(data / np.maximum(np.linalg.norm(data, axis=1, keepdims=True), 1e-12))
    return out


@contextlib.contextmanager
def plain_names(database: Path, pairs: Sequence[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """The pairs under names that COLMAP's lists of pairs can hold: COLMAP reads a name up to the first blank.

    Inside the block, images with other names are renamed in the database.
    """
    names = {name for pair in pairs for name in pair}
    if not any(any(c.isspace() for c in name) or name.startswith("#") for name in names):
        yield list(pairs)
        return
    plain = {}
    with pycolmap.Database.open(database) as db:
        for image in db.read_all_images():
            plain[image.name] = f"image-{image.image_id}"
            _rename(db, image, plain[image.name])
    try:
        yield [(plain[a], plain[b]) for a, b in pairs]
    finally:
        own = {new: old for old, new in plain.items()}
        with pycolmap.Database.open(database) as db:
            for image in db.read_all_images():
                _rename(db, image, own[image.name])


def _rename(db: pycolmap.Database, image: pycolmap.Image, name: str) -> None:
    image.name = name
    db.update_image(image)


# ------------------------------------------------------------------- did the camera move, or only turn?

# share of the longer side. Rotated views have 0.001 at most; every photo of redkitchen, fox, South Building and
# Herz-Jesus has 0.003 or more to one of its neighbours
LEAST_PARALLAX = 0.002
_FOCAL_SIDES = np.geomspace(0.4, 2.5, 9)  # focal length / longer side
_ROUNDS = 6  # of the reweighted fit
_NOISE = 6e-4  # of the longer side: smaller residuals weigh equally
Pair = tuple[
    np.ndarray, np.ndarray
]  # matching points [M, 2] of two photos, from the image centre, over the longer side


def rotation_residuals(pairs: Sequence[Pair]) -> np.ndarray:
    """Median residual [P] of each pair's matches under its best rotation, as a share of the longer side. The focal
    length is unknown: all pairs share the one that fits them best."""
    if not pairs:
        return np.zeros(0)
    errors = np.array([[_residual(x, y, focal) for focal in _FOCAL_SIDES] for x, y in pairs])
    return errors[:, errors.mean(0).argmin()]


def _residual(x_M2: np.ndarray, y_M2: np.ndarray, focal: float) -> float:
    """Median residual of the rotation with the least sum of residuals (Kabsch, iteratively reweighted)."""
    p, q = (np.column_stack([points, np.full(len(points), focal)]) for points in (x_M2, y_M2))
    p, q = (rays / np.linalg.norm(rays, axis=1, keepdims=True) for rays in (p, q))
    weights, error = np.ones(len(p)), np.zeros(len(p))
    for _ in range(_ROUNDS):
        u, _, vt = np.linalg.svd((q * weights[:, None]).T @ p)
        R = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
        error = np.linalg.norm(q - p @ R.T, axis=1) * focal
        weights = 1 / np.maximum(error, _NOISE)
    return float(np.median(error))
