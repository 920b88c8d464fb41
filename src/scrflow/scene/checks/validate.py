"""Checks of what a reader found. Each failure is one line that names the file, what was expected, and the mend."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import pycolmap

from scrflow.core.errors import ScrflowError
from scrflow.core.images import check_kind, opened, photo_bytes, rgb
from scrflow.storage.listfile import SUFFIXES, has_suffix

# numbers printed with 6 digits, or poses that were multiplied many times, are off by up to about 1e-4; 1e-3 is room
# for that, while a scaled or sheared matrix is not taken for a rotation
ROTATION_TOLERANCE = 1e-3
QUATERNION_TOLERANCE = 1e-2
LARGEST_SIDE = 1 << 20  # px
_EXIF_ORIENTATION = 0x0112
_MAX_NAME_BYTES = 255  # of a file or folder, on every usual file system


def checked_rotation(R: np.ndarray, where: str) -> np.ndarray:
    """The rotation [3, 3] nearest to ``R`` where that is within tolerance; ScrflowError beginning with ``where``."""
    R = np.asarray(R, np.float64)
    if not np.isfinite(R).all():
        raise ScrflowError(
            f"{where}: pose has a number that is not finite; take the image off the list or mend the pose"
        )
    deviation = float(np.abs(R @ R.T - np.eye(3)).max())
    det = float(np.linalg.det(R))
    if det < 0:
        kind = "a mirrored rotation" if deviation < 0.05 else "mirrored"
        raise ScrflowError(
            f"{where}: 3x3 part of the pose is {kind} (determinant {det:.4f}, expected +1); "
            "an axis has the wrong sign: mend the axes' convention"
        )
    if deviation > ROTATION_TOLERANCE:
        raise ScrflowError(
            f"{where}: 3x3 part of the pose is not a rotation (R R^T differs from 1 by {deviation:.2g}, allowed "
            f"{ROTATION_TOLERANCE:g}; determinant {det:.4f}); remove scale or shear from the pose"
        )
    u, _, vt = np.linalg.svd(R)
    return u @ vt


def checked_pose(pose: np.ndarray, where: str) -> np.ndarray:
    """[3, 4] of a pose [3, 4] or [4, 4], its rotation made exact; ScrflowError beginning with ``where``."""
    pose = np.asarray(pose, np.float64)
    if pose.shape not in ((3, 4), (4, 4)):
        raise ScrflowError(f"{where}: pose has shape {pose.shape}, expected 4x4 or 3x4")
    if not np.isfinite(pose).all():
        raise ScrflowError(
            f"{where}: pose has a number that is not finite; take the image off the list or mend the pose"
        )
    if pose.shape == (4, 4) and np.abs(pose[3] - (0, 0, 0, 1)).max() > 1e-6:
        raise ScrflowError(f"{where}: last row of the pose is {pose[3].tolist()}, expected 0 0 0 1")
    return np.column_stack([checked_rotation(pose[:3, :3], where), pose[:3, 3]])


def checked_quaternion(q_wxyz: np.ndarray, where: str) -> np.ndarray:
    """Unit quaternion [4]; ScrflowError where its length is off by more than the tolerance."""
    q = np.asarray(q_wxyz, np.float64)
    norm = float(np.linalg.norm(q))
    if not abs(norm - 1) <= QUATERNION_TOLERANCE:
        raise ScrflowError(f"{where}: quaternion has length {norm:.4g}, expected 1 (order: qw qx qy qz); mend the line")
    return q / norm


def checked_size(width: float, height: float, where: str) -> tuple[int, int]:
    """Width and height of a camera that a file gives, in whole pixels that pycolmap can hold; ScrflowError beginning
    with ``where``."""
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE):
        raise ScrflowError(
            f"{where}: camera has size {width:.6g}x{height:.6g} px, expected 1 to {LARGEST_SIDE}; mend the intrinsics"
        )
    return round(width), round(height)


def check_camera(camera: pycolmap.Camera, where: str) -> None:
    """Size, number of parameters and focal length; ScrflowError beginning with ``where``."""
    if camera.width <= 0 or camera.height <= 0:
        raise ScrflowError(f"{where}: camera has size {camera.width}x{camera.height} px, expected positive numbers")
    if not camera.verify_params():
        raise ScrflowError(
            f"{where}: camera {camera.model.name} takes {camera.params_info}, found {len(camera.params)} numbers"
        )
    params = np.asarray(camera.params)
    if not np.isfinite(params).all():
        raise ScrflowError(f"{where}: camera has a parameter that is not finite: {params.tolist()}")
    focal = params[list(camera.focal_length_idxs())]
    if not (focal > 0).all():
        raise ScrflowError(
            f"{where}: focal length {focal.tolist()} px, expected a positive number; mend the intrinsics"
        )


def check_name(name: str, where: str) -> None:
    """Image names are relative, stay in their folder, and a line of a list file can hold them."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise ScrflowError(f"{where}: image name {name!r} leads out of the image folder; use a name relative to it")
    check_listable(name, where)


def check_listable(name: str, where: str) -> None:
    """A line of a list file can hold the name (see scrflow.storage.listfile): no control character, no blank at either
    end, nothing that UTF-8 or a file system cannot hold. Other blanks need a photo's suffix behind them."""
    bad = next((c for c in name if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")), None)
    if bad is not None:
        what = unicodedata.name(bad, "") or ascii(bad)
        raise ScrflowError(
            f"{where}: image name {name!a} has a control character or a byte that is no UTF-8 ({what}), which "
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
        raise ScrflowError(f"{where}: image name {name[:40]!r}... is longer than a file's name can be; mend the list")


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
            f"{where}: {len(mapping)} mapping images, expected at least {minimum} (key min_mapping_images); "
            "add images or change the split"
        )
    if not queries:
        raise ScrflowError(f"{where}: no query; give key split.queries or split.every")


def check_image(path: Path, camera: pycolmap.Camera | None) -> str:
    """Decode the image and hold it against its camera; its SHA-256. ScrflowError naming the file."""
    data = photo_bytes(path)
    with opened(path, data) as image:
        size = image.size
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        check_kind(image, path)
        if image.format == "JPEG":
            # decoded at an eighth of its size it is still read to its end, in a third of the time
            image.draft("L", (size[0] // 8, size[1] // 8))
            image.load()
        else:
            rgb(image, path)
    if orientation not in (0, 1):
        raise ScrflowError(
            f"{path}: EXIF orientation {orientation} asks viewers to turn the image, so pixels and camera "
            "may not agree: turn the pixels (mogrify -auto-orient) or, where the camera belongs to the stored pixels, "
            "remove the tag"
        )
    if camera is not None and size != (camera.width, camera.height):
        raise ScrflowError(
            f"{path}: image is {size[0]}x{size[1]} px, its camera is {camera.width}x{camera.height}; "
            "use the images that the camera was calibrated for, or rescale the camera"
        )
    return hashlib.sha256(data).hexdigest()


def check_images(root: Path, cameras: dict[str, pycolmap.Camera | None], threads: int = 2) -> dict[str, str]:
    """SHA-256 of every image (name -> camera in), all decoded and checked; the first failure in order is raised."""
    from scrflow.core.progress import track

    names = list(cameras)
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda name: check_image(root / name, cameras[name]), names)
        return dict(zip(names, track(results, "checking images", total=len(names)), strict=True))


def some(names: Sequence[str], at_most: int = 5) -> str:
    """``a, b and 3 more``."""
    shown = ", ".join(names[:at_most])
    return f"{shown} and {len(names) - at_most} more" if len(names) > at_most else shown
