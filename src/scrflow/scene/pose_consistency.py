"""Poses held against the photos: matches of a few pairs must fit the epipolar geometry of their poses. A usual
mistake (axes, direction, order, focal length) that fits far better is named."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import poselib
import pycolmap
from PIL import Image

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import invert_pose, quaternion_from_rotation, rays_from_pixels, rotation_from_quaternion
from scrflow.core.images import opened, rgb
from scrflow.scene.colmap_model import View

log = logging.getLogger("scrflow")

_GROUPS = 5  # places in the source's order that photos are taken from
_STEPS = (0, 1, 3, 7)  # of a group: neighbours, and photos further off
_LONG_SIDE = 400  # px
_FEATURES = 400  # a photo
_RATIO = 0.85
_FILTER_PX = 1.0  # RANSAC of the fundamental matrix, at the long side above
_FIT_PX = 2.0  # from the epipolar line; poses of trackers are off by one at this size
_MIN_MATCHES = 25  # a pair
_MIN_SHIFT_PX = 12.0  # median way of a pair's matches: less fits any poses
_MIN_PAIRS = 6
# Share of the pairs that fit (over _FIT of their matches do): correct poses have 1.00 on redkitchen, fox and herzjesu
# and 0.41 on the demo, whose facades repeat; poses with a mistake at most 0.23
_FIT = 0.6
_CLEARLY, _TIMES = 0.25, 2.0  # a mistake is named from this share on, and that many times what the given poses have
_EXPECTED = 0.3


@dataclass(frozen=True, eq=False)
class _Photo:
    keypoints: np.ndarray  # [N, 2] px of the small photo
    descriptors: np.ndarray  # [N, 128] float32, unit length
    rays: np.ndarray  # [N, 2] on the plane z = 1; NaN where the lens cannot be inverted
    focal: float  # px of the small photo


@dataclass(frozen=True, eq=False)
class _Pair:
    """Matches of two photos, by their indices: ``rays`` [2, M, 3] with z = 1, ``focal`` px a unit of that plane."""

    first: int
    second: int
    rays: np.ndarray
    focal: float


def check_poses_by_photos(posed: Sequence[View], used: Collection[str], root: Path, where: str) -> None:
    """ScrflowError when a usual mistake explains the photos where the poses do not; a warning when nothing does.

    A mistake of convention affects all poses alike, so a handful of pairs are matched (RootSIFT, mutual nearest
    neighbours, LO-RANSAC of a fundamental matrix), and each hypothesis counts the pairs whose matches fit its epipolar
    geometry. ``posed``: images with poses, in the source's order; ``used``: names that may be read under ``root``.
    """
    chosen = _chosen([i for i, view in enumerate(posed) if view.name in used])
    options = pycolmap.FeatureExtractionOptions(use_gpu=False, num_threads=1)
    options.sift.max_num_features, options.sift.first_octave, options.sift.max_num_orientations = _FEATURES, 0, 1
    extractor = pycolmap.FeatureExtractor.create(options, pycolmap.Device.cpu)
    photos = [_described(root / posed[i].name, posed[i].camera, extractor) for i in chosen]
    pairs = [p for a in range(len(photos)) for b in range(a + 1, len(photos)) if (p := _matched(photos, a, b))]
    if len(pairs) < _MIN_PAIRS:
        log.debug("%s: %d of %d photos' pairs match, too few to check the poses", where, len(pairs), len(photos))
        return
    given, fits = _fits(np.stack([view.cam_from_world for view in posed]), chosen, pairs)
    best = max(fits, key=fits.__getitem__)
    log.debug(
        "%s: poses fit %.0f %% of %d pairs of %d photos, with another convention at most %.0f %% (%s)",
        *(where, 100 * given, len(pairs), len(photos), 100 * fits[best], best),
    )
    told = f"poses fit {given:.0%} of {len(pairs)} pairs of photos that match"
    if fits[best] >= _CLEARLY and fits[best] >= _TIMES * given:
        told += f", but {fits[best]:.0%} if they are {best}"
        raise ScrflowError(f"{where}: {told}: {_FIXES[best]} (or set check_poses: false)")
    if given < _EXPECTED:
        log.warning(
            "%s: %s, expected over %.0f %%, and no usual mistake explains it; are poses, intrinsics and names of "
            "these photos? (A place that repeats itself looks so, too.)",
            *(where, told, 100 * _EXPECTED),
        )


Undo = Callable[[np.ndarray], np.ndarray]  # poses [V, 3, 4] as given -> as they should have been


def _opengl(poses: np.ndarray) -> np.ndarray:
    return np.diag((1.0, -1.0, -1.0)) @ poses


def _mirrored(*signs: float) -> Undo:
    """World and cameras in a left-handed frame: S R S, S t."""
    S = np.diag(signs)
    return lambda poses: np.concatenate([S @ poses[:, :, :3] @ S, S @ poses[:, :, 3:]], 2)


def _reordered(poses: np.ndarray) -> np.ndarray:
    """Quaternions x y z w that were read as w x y z."""
    q = np.stack([quaternion_from_rotation(R) for R in poses[:, :, :3]])
    return np.concatenate([rotation_from_quaternion(q[:, [3, 0, 1, 2]]), poses[:, :, 3:]], 2)


_LEFT_HANDED = {axis: _mirrored(*(-1.0 if a == axis else 1.0 for a in "xyz")) for axis in "xyz"}
# what was given for cam_from_world with OpenCV axes -> how to undo it, and what to do about it
MISTAKES: dict[str, tuple[Undo, str]] = {
    "camera-to-world (the inverse)": (invert_pose, "give world-to-camera: R^T and -R^T t of what is there"),
    "poses with OpenGL axes (y up, z backward)": (_opengl, "negate the second and the third row of each pose"),
    "camera-to-world with OpenGL axes (y up, z backward)": (
        lambda p: _opengl(invert_pose(p)),
        "invert the poses and negate the second and the third row, or use the reader nerfstudio",
    ),
    "quaternions in the order x y z w": (_reordered, "write them as qw qx qy qz"),
    "quaternions in the order x y z w, camera-to-world": (
        lambda p: invert_pose(_reordered(p)),
        "write them as qw qx qy qz, of world-to-camera",
    ),
    "camera centres in place of translations": (
        lambda p: np.concatenate([p[:, :, :3], -p[:, :, :3] @ p[:, :, 3:]], 2),
        "give t = -R c, where c is the centre",
    ),
    "rotations camera-to-world with translations world-to-camera": (
        lambda p: np.concatenate([np.swapaxes(p[:, :, :3], 1, 2), p[:, :, 3:]], 2),
        "transpose the rotations",
    ),
    **{
        f"poses in a left-handed frame (the {axis} axis mirrored)": (undo, f"mirror {axis} of world and cameras")
        for axis, undo in _LEFT_HANDED.items()
    },
    "camera-to-world in a left-handed frame (the y axis mirrored)": (
        lambda p: _LEFT_HANDED["y"](invert_pose(p)),
        "mirror y of world and cameras, then invert the poses",
    ),
}
_SHIFTS = {"those of the image before each": 1, "those of the image after each": -1}  # where the right pose is
_FOCALS = {  # what the focal length is to be multiplied by, and what the intrinsics are of
    "with a focal length of half the right one": (2.0, "half"),
    "with a focal length of twice the right one": (0.5, "twice"),
}
_FIXES = (
    {name: fix for name, (_, fix) in MISTAKES.items()}
    | dict.fromkeys(_SHIFTS, "the names are shifted by one against the poses, correct the list")
    | {name: f"the intrinsics are of images of {of} the size, rescale them" for name, (_, of) in _FOCALS.items()}
)


def _fits(poses: np.ndarray, chosen: Sequence[int], pairs: Sequence[_Pair]) -> tuple[float, dict[str, float]]:
    """Share of the pairs that fit ``poses`` [V, 3, 4] as given, and with each mistake undone."""
    given = poses[list(chosen)]
    fits = {name: _share(undo(given), pairs) for name, (undo, _) in MISTAKES.items()}
    fits |= {name: _share(poses[(np.array(chosen) + by) % len(poses)], pairs) for name, by in _SHIFTS.items()}
    fits |= {name: _share(given, pairs, by) for name, (by, _) in _FOCALS.items()}
    return _share(given, pairs), fits


def _share(poses: np.ndarray, pairs: Sequence[_Pair], focal: float = 1.0) -> float:
    return float(np.mean([_agreeing(poses[p.first], poses[p.second], p, focal) >= _FIT for p in pairs]))


def _agreeing(first: np.ndarray, second: np.ndarray, pair: _Pair, focal: float) -> float:
    """Share of the pair's matches whose Sampson distance is small and whose point is in front of both cameras."""
    R = second[:, :3] @ first[:, :3].T
    t = second[:, 3] - R @ first[:, 3]
    a, b = pair.rays / (focal, focal, 1.0)
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    line_b, line_a = a @ (cross @ R).T, b @ (cross @ R)
    norm = np.sqrt((line_a[:, :2] ** 2).sum(1) + (line_b[:, :2] ** 2).sum(1))
    near = np.abs((b * line_b).sum(1)) * pair.focal * focal < _FIT_PX * norm
    # depths d of d_a R a + t = d_b b by least squares; of their denominator, which is positive, only the sign counts
    Ra = a @ R.T
    aa, ab, bb, at, bt = (Ra**2).sum(1), (Ra * b).sum(1), (b**2).sum(1), Ra @ t, b @ t
    return float((near & (ab * bt - bb * at > 0) & (aa * bt - ab * at > 0)).mean())


def _chosen(usable: Sequence[int]) -> list[int]:
    """Indices of the photos to match: groups spread over ``usable``."""
    last = len(usable) - 1
    starts = np.linspace(0, max(0, last - _STEPS[-1]), _GROUPS).round().astype(int)
    return sorted({usable[min(last, start + step)] for start in starts for step in _STEPS}) if usable else []


def _described(path: Path, camera: pycolmap.Camera, extractor: pycolmap.FeatureExtractor) -> _Photo:
    scale = min(1.0, _LONG_SIDE / max(camera.width, camera.height))
    size = (max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))
    with opened(path) as image:
        image.draft("L", size)
        grey = rgb(image, path).convert("L").resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    found, descriptors = extractor.extract_from_uint8_array(np.ascontiguousarray(grey))
    keypoints = np.array([[k.x, k.y] for k in found], np.float64).reshape(-1, 2)
    d = np.asarray(descriptors.data, np.float32).reshape(len(keypoints), 128)
    d /= np.maximum(np.linalg.norm(d, axis=1, keepdims=True), 1e-9)
    rays = rays_from_pixels(camera, keypoints * (np.array([camera.width, camera.height]) / size))
    return _Photo(keypoints, d, rays, camera.mean_focal_length() * scale)


def _matched(photos: Sequence[_Photo], first: int, second: int) -> _Pair | None:
    """Matches that a fundamental matrix holds together; None for too few, or for photos from one place."""
    a, b = photos[first], photos[second]
    if min(len(a.keypoints), len(b.keypoints)) < _MIN_MATCHES:
        return None
    similarity = a.descriptors @ b.descriptors.T
    j = similarity.argmax(1)
    mutual = similarity.argmax(0)[j] == np.arange(len(j))
    best, next_best = (np.sqrt(np.maximum(0, 2 - 2 * np.partition(similarity, -k, axis=1)[:, -k])) for k in (1, 2))
    finite = np.isfinite(a.rays).all(1) & np.isfinite(b.rays[j]).all(1)
    i = np.flatnonzero(mutual & (best < _RATIO * next_best) & finite)
    if len(i) < _MIN_MATCHES:
        return None
    x, y = a.keypoints[i], b.keypoints[j[i]]
    if np.median(np.linalg.norm(x - y, axis=1)) < _MIN_SHIFT_PX:
        return None
    ransac = {"max_epipolar_error": _FILTER_PX, "seed": 0, "min_iterations": 100, "max_iterations": 1000}
    _, found = poselib.estimate_fundamental(x, y, ransac, {})
    i = i[np.array(found["inliers"], bool)]
    if len(i) < _MIN_MATCHES:
        return None
    ones = np.ones((len(i), 1))
    rays = np.stack([np.hstack([a.rays[i], ones]), np.hstack([b.rays[j[i]], ones])])
    return _Pair(first, second, rays, (a.focal + b.focal) / 2)
