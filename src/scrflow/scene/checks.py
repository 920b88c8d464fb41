"""Checks of what a reader found: names, cameras, poses, photos, depths. Each error names the file and the fix."""

import hashlib
import logging
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import pycolmap
from PIL import ExifTags

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_centre, pixels_from_rays, rays_from_pixels
from scrflow.core.images import check_kind, opened, photo_bytes, rgb
from scrflow.core.progress import track
from scrflow.storage.listfile import SUFFIXES, has_suffix

log = logging.getLogger("scrflow")


def some(names: Sequence[str], at_most: int = 5) -> str:
    """``a, b and 3 more``."""
    shown = ", ".join(names[:at_most])
    return f"{shown} and {len(names) - at_most} more" if len(names) > at_most else shown


def check_unused(folder: Path) -> None:
    """ScrflowError for a new folder that is there already, unless it is empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ScrflowError(f"{folder}: already exists; remove it or name another folder")


_MAX_NAME_BYTES = 255  # of a file or folder, on every usual file system


def check_name(name: str, where: str) -> None:
    """Image names are relative, stay in their folder, and a line of a list file can hold them."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise ScrflowError(f"{where}: image name {name!r} leads out of the image folder; use a name relative to it")
    check_listable(name, where)


def check_listable(name: str, where: str) -> None:
    """A line of a list file can hold the name (scrflow.storage.listfile)."""
    bad = next((c for c in name if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")), None)
    if bad is not None:
        what = unicodedata.name(bad, "") or ascii(bad)
        raise ScrflowError(
            f"{where}: image name {name!a} has a control character or a byte that is not UTF-8 ({what}), which "
            "list files cannot hold; rename the image"
        )
    if name[0].isspace() or name[-1].isspace() or name[0] == "\ufeff":
        raise ScrflowError(f"{where}: image name {name!r} begins or ends with a blank; rename the image")
    if any(c.isspace() for c in name) and not has_suffix(name):
        raise ScrflowError(
            f"{where}: image name {name!r} has a blank and no suffix of a photo ({', '.join(sorted(SUFFIXES))}), so "
            "list files cannot tell where it ends; rename the image"
        )
    if max(len(part.encode()) for part in PurePosixPath(name).parts) > _MAX_NAME_BYTES:
        raise ScrflowError(f"{where}: image name {name[:40]!r}... is longer than a file name can be; correct the list")


def check_unique(names: Iterable[str], where: str) -> None:
    """ScrflowError naming an image that is there more than once."""
    double = [name for name, count in Counter(names).items() if count > 1]
    if double:
        raise ScrflowError(f"{where}: {some(double)} listed more than once; remove the repeats")


def check_split(mapping: Sequence[str], queries: Sequence[str], where: str, minimum: int) -> None:
    """No query is mapped, and enough images are."""
    both = sorted(set(mapping) & set(queries))
    if both:
        raise ScrflowError(f"{where}: {some(both)} both mapping image and query; take it out of one list")
    if len(mapping) < minimum:
        raise ScrflowError(
            f"{where}: {len(mapping)} mapping images, expected at least {minimum} (key min_mapping_images); add images"
        )
    if not queries:
        raise ScrflowError(f"{where}: no query; give key split.queries or split.every")


# numbers printed with 6 digits are off by up to 1e-4; a scaled or sheared matrix by more
ROTATION_TOLERANCE = 1e-3
QUATERNION_TOLERANCE = 1e-2
_ONE_PLACE = 1e-9  # of the numbers' size: rounding of float64 and of 12 printed digits
_FAR = 1e4  # times the median distance of the cameras; a survey's lone camera is some 100 times off
_OFFSET = 2e3  # times that distance. A head works in float32: positions are then rounded by 1e-4 of the scene's extent


def checked_pose(pose: np.ndarray, where: str) -> np.ndarray:
    """[3, 4] of a pose [3, 4] or [4, 4], with the nearest rotation; ScrflowError for what is no pose."""
    pose = np.asarray(pose, np.float64)
    if pose.shape not in ((3, 4), (4, 4)):
        raise ScrflowError(f"{where}: pose has shape {pose.shape}, expected 4x4 or 3x4; correct it")
    if not np.isfinite(pose).all():
        raise ScrflowError(f"{where}: pose has a number that is not finite; correct it or the list")
    if pose.shape == (4, 4) and np.abs(pose[3] - (0, 0, 0, 1)).max() > 1e-6:
        raise ScrflowError(f"{where}: last row of the pose is {pose[3].tolist()}, expected 0 0 0 1; correct it")
    R = pose[:3, :3]
    deviation = float(np.abs(R @ R.T - np.eye(3)).max())
    det = float(np.linalg.det(R))
    if det < 0:
        kind = "a mirrored rotation" if deviation < 0.05 else "mirrored"
        raise ScrflowError(f"{where}: 3x3 part of the pose is {kind} (determinant {det:.4f}); correct an axis' sign")
    if deviation > ROTATION_TOLERANCE:
        raise ScrflowError(
            f"{where}: 3x3 part of the pose is not a rotation (R R^T differs from 1 by {deviation:.2g}, allowed "
            f"{ROTATION_TOLERANCE:g}; determinant {det:.4f}); remove scale or shear from the pose"
        )
    u, _, vt = np.linalg.svd(R)
    return np.column_stack([u @ vt, pose[:3, 3]])


def checked_quaternion(q_wxyz: np.ndarray, where: str) -> np.ndarray:
    """Unit quaternion [4]; ScrflowError where its length is off by more than the tolerance."""
    norm = float(np.linalg.norm(q_wxyz))
    if not abs(norm - 1) <= QUATERNION_TOLERANCE:
        raise ScrflowError(f"{where}: quaternion has length {norm:.4g}, expected 1; correct it (order: qw qx qy qz)")
    return q_wxyz / norm


def check_placement(names: Sequence[str], cam_from_world_V34: np.ndarray, where: str) -> None:
    """ScrflowError when all mapping cameras stand in one place (no depth can be learnt), one is far from the others, or
    float32 cannot hold their offset from the origin. A warning names images with equal poses."""
    centres = camera_centre(cam_from_world_V34)
    middle = np.median(centres, axis=0)
    distance = np.linalg.norm(centres - middle, axis=1)
    offset = float(np.linalg.norm(middle))
    moved = distance > _ONE_PLACE * offset
    if not moved.any():
        raise ScrflowError(
            f"{where}: all {len(centres)} mapping cameras stand in one place; correct their translations or add photos"
        )
    extent = float(np.median(distance[moved]))
    far = [names[i] for i in np.flatnonzero(distance > _FAR * extent)]
    if far:
        raise ScrflowError(
            f"{where}: camera of {some(far)} is {distance.max():.3g} from the others, which are {extent:.3g} apart "
            "(median); correct its pose or take the image off the list"
        )
    if offset > _OFFSET * extent:
        raise ScrflowError(
            f"{where}: the cameras stand {offset:.3g} from the origin and {extent:.3g} from each other (median); "
            "single precision cannot hold that: subtract one offset from all positions (geographic coordinates?)"
        )
    _, first, of = np.unique(cam_from_world_V34, axis=0, return_index=True, return_inverse=True)
    repeats = [names[i] for i in np.flatnonzero(first[of.ravel()] != np.arange(len(names)))]
    if repeats:
        log.warning(
            "%s: %d mapping images have exactly the pose of another one: %s; is a line copied?",
            *(where, len(repeats), some(repeats)),
        )


LARGEST_SIDE = 1 << 20  # px
# focal length / longer side: a fisheye has 0.2 and more, a phone 0.8, a telephoto lens of 600 mm 17
_FOCAL_SIDES = (0.1, 100.0)
_NORMALISED = 2.5  # px; a focal length told in widths of the image is under it, one in mm over it (phones: 4 to 6)
_PIXEL_ASPECT = 2.0  # fx / fy; anamorphic video has 1.33
_GRID = 25  # pixels a side, those of the border among them
_BACK_PX = 0.5  # a pixel and its way through the undistortion and back
_LOST = {False: 0.1, True: 0.5}  # of the grid, of a fisheye: half its picture may be beyond 90 degrees, or black


def checked_size(width: float, height: float, where: str) -> tuple[int, int]:
    """Width and height of a camera, in whole pixels that pycolmap can hold; ScrflowError otherwise."""
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE):
        raise ScrflowError(
            f"{where}: camera has size {width:.6g}x{height:.6g} px, expected 1 to {LARGEST_SIDE}; correct it"
        )
    return round(width), round(height)


def check_intrinsics(camera: pycolmap.Camera, where: str) -> None:
    """ScrflowError for a camera that no photo has; a warning where part of its image has no rays."""
    size, takes = f"{camera.width}x{camera.height}", f"{camera.model.name} takes {camera.params_info}"
    if camera.width <= 0 or camera.height <= 0:
        raise ScrflowError(f"{where}: camera has size {size} px, expected positive numbers; correct it")
    if not camera.verify_params():
        raise ScrflowError(f"{where}: camera {takes}, found {len(camera.params)} numbers; correct it")
    params = np.asarray(camera.params, np.float64)
    if not np.isfinite(params).all():
        raise ScrflowError(f"{where}: camera has a parameter that is not finite: {params.tolist()}; correct it")
    focal = params[list(camera.focal_length_idxs())]
    longer, told = max(camera.width, camera.height), " ".join(f"{f:g}" for f in focal)
    if not (focal > 0).all():
        raise ScrflowError(f"{where}: focal length {focal.tolist()} px, expected a positive number; correct it")
    if focal.min() < _FOCAL_SIDES[0] * longer:
        guess, fix = "millimetres", "in px it is mm / width of the sensor in mm * width of the image in px"
        if focal.max() < _NORMALISED:
            guess, fix = "a share of the width", f"in px it would be {focal[0] * camera.width:g}"
        raise ScrflowError(f"{where}: focal length {told} px for an image of {size} looks like {guess}; {fix}")
    if focal.max() > _FOCAL_SIDES[1] * longer:
        raise ScrflowError(
            f"{where}: focal length {told} px for an image of {size} shows under half a degree; correct it"
        )
    if focal.max() > _PIXEL_ASPECT * focal.min():
        raise ScrflowError(
            f"{where}: focal lengths {told} px differ by more than {_PIXEL_ASPECT:g} times ({takes}); correct one"
        )
    x, y = params[list(camera.principal_point_idxs())]
    if not (0 <= x <= camera.width and 0 <= y <= camera.height):
        raise ScrflowError(
            f"{where}: principal point {x:g}, {y:g} px lies outside the image of {size} ({takes}); correct it"
        )
    if x <= 1 or y <= 1:
        raise ScrflowError(
            f"{where}: principal point {x:g}, {y:g} is at the edge of {size} px ({takes}); give it in px"
        )
    share = lost_share(camera)
    if share > _LOST["FISHEYE" in camera.model.name]:
        raise ScrflowError(
            f"{where}: distortion cannot be inverted over {share:.0%} of the image ({camera.model.name} "
            f"{params.tolist()}); correct the intrinsics, or their order ({camera.params_info})"
        )
    if share:
        log.warning("%s: distortion cannot be inverted over %.0f %% of the image, at its border", where, 100 * share)


def lost_share(camera: pycolmap.Camera) -> float:
    """Share of a grid over the image whose pixels have no ray: the undistortion fails, or the lens model folds over."""
    x, y = np.meshgrid(np.linspace(0, camera.width, _GRID), np.linspace(0, camera.height, _GRID))
    pixels = np.column_stack([x.ravel(), y.ravel()])
    rays = rays_from_pixels(camera, pixels)
    good = np.isfinite(rays).all(1)
    rays, pixels = rays[good], pixels[good]
    step = 1e-5
    around = [pixels_from_rays(camera, rays + shift) for shift in ((0, 0), (step, 0), (0, step))]
    (ax, ay), (bx, by) = ((moved - around[0]).T for moved in around[1:])
    right = (np.linalg.norm(around[0] - pixels, axis=1) <= _BACK_PX) & (ax * by - ay * bx > 0)
    return 1 - int(right.sum()) / _GRID**2


def check_image(path: Path, camera: pycolmap.Camera | None) -> str:
    """SHA-256 of an image that decodes and has its camera's size; ScrflowError otherwise."""
    data = photo_bytes(path)
    with opened(path, data) as image:
        size = image.size
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        check_kind(image, path)
        if image.format == "JPEG":
            # decoded at an eighth of its size it is still read to its end, in a third of the time
            image.draft("L", (size[0] // 8, size[1] // 8))
            image.load()
        else:
            rgb(image, path)
    if orientation not in (0, 1):
        raise ScrflowError(
            f"{path}: EXIF orientation {orientation} turns the image for viewers; turn the pixels or remove the tag"
        )
    if camera is not None and size != (camera.width, camera.height):
        raise ScrflowError(
            f"{path}: image is {size[0]}x{size[1]} px, its camera is {camera.width}x{camera.height}; rescale either"
        )
    return hashlib.sha256(data).hexdigest()


def check_images(root: Path, cameras: dict[str, pycolmap.Camera | None], threads: int = 2) -> dict[str, str]:
    """SHA-256 of every image (name -> camera in), all checked; the first failure in order is raised."""
    names = list(cameras)
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda name: check_image(root / name, cameras[name]), names)
        return dict(zip(names, track(results, "checking images", total=len(names)), strict=True))


DEPTH_IMAGES = 200  # this many, evenly chosen, are enough to measure depths by
_DEPTH_SHARES = (0.01, 0.99)  # quantiles; beyond are wrong matches and the sky
_LEAST_DEPTHS = 50  # observations


def observed_depths(model: pycolmap.Reconstruction, images: int | None = None) -> np.ndarray:
    """Depths [M] of the observations in all images, or in ``images`` evenly chosen ones; negative behind the camera."""
    ids = sorted(model.reg_image_ids()) if images else model.reg_image_ids()
    depths = [np.zeros(0)]
    for image_id in ids[:: max(1, len(ids) // images)] if images else ids:
        image = model.image(image_id)
        seen = [p.point3D_id for p in image.points2D if p.has_point3D()]
        if seen:
            pose = image.cam_from_world().matrix()
            depths.append(np.array([model.point3D(i).xyz for i in seen]) @ pose[2, :3] + pose[2, 3])
    return np.concatenate(depths)


def median_depth(model: pycolmap.Reconstruction, images: int | None = None) -> float:
    """Median of the observed depths; 0 without points."""
    depths = observed_depths(model, images)
    return float(np.median(depths)) if len(depths) else 0.0


def measured_range(depths: np.ndarray) -> tuple[float, float] | None:
    """(near, far) that hold 98 % of the depths, to two digits outwards; None where there are too few."""
    depths = depths[depths > 0]
    if len(depths) < _LEAST_DEPTHS:
        return None
    near, far = np.quantile(depths, _DEPTH_SHARES)
    return _outwards(near, math.floor), _outwards(far, math.ceil)


def _outwards(value: float, rounded) -> float:
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{rounded(value / step) * step:.2g}")


def doubt(given: tuple[float, float], depths: np.ndarray) -> str | None:
    """Why a given range does not fit the points: many lie outside it, or it ends far beyond them. None if it fits."""
    measured = measured_range(depths)
    if measured is None:
        return None
    depths = depths[depths > 0]
    outside = float(((depths < given[0]) | (depths > given[1])).mean())
    if outside <= 0.2 and given[1] <= 10 * measured[1]:
        return None
    return (
        f"depth_range {given[0]:g} to {given[1]:g} leaves out {outside:.0%} of the depths of the 3D points, of which "
        f"98 % lie from {measured[0]:g} to {measured[1]:g}; correct the key, or leave it out and it is measured"
    )
