"""12-Scenes (Valentin et al., 3DV 2016) as published, with either of its two ground truths.

``*.pose.txt`` is world_from_cam of the colour camera (depth maps are registered to it). The first sequence of split.txt
is the test set, all others are mapped (DSAC++ and everyone since). Frames that D-SLAM lost have infinite poses, and the
lists of SfM poses lack some frames: both are left out, as in the published evaluations.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pycolmap

from scrflow.config import TwelveScenesSource
from scrflow.core.errors import ScrflowError
from scrflow.scene.checks.validate import checked_size
from scrflow.scene.readers.base import Collection, SourceImage
from scrflow.scene.readers.frames import read_frame_pose, read_lists, report_left_out

_SEQUENCE = re.compile(r"sequence(\d{1,9})\s+\[frames=(\d{1,9})\]\s+\[start=(\d{1,9})\s*;\s*end=(\d{1,9})\]")
_FRAME = re.compile(r"frame-(\d{1,9})\.color\.jpg")


def read(source: TwelveScenesSource, root: Path, sfm_model: Path | None = None) -> Collection:
    """All posed frames; names are like ``data/frame-000000.color.jpg``.

    With D-SLAM poses the camera is that of info.txt (PINHOLE, its defaults: the authors did not calibrate), with SfM
    poses the list's focal length and the image's centre.
    """
    folder = source.dataset(root)
    info = _info(folder / "info.txt")
    first, last = _test_range(folder / "split.txt")
    names = {f"data/{p.name}": int(m[1]) for p in sorted(folder.glob("data/*")) if (m := _FRAME.fullmatch(p.name))}
    if not names:
        raise ScrflowError(f"{folder / 'data'}: no frame-*.color.jpg in it; unpack the dataset there")
    width, height = (_number(info, folder / "info.txt", key) for key in ("m_colorWidth", "m_colorHeight"))
    checked_size(width, height, str(folder / "info.txt"))
    if source.poses == "sfm":
        listed = read_lists(
            source.pose_lists(root), "github.com/tsattler/visloc_pseudo_gt_limitations has them in pgt/sfm/12scenes"
        )
        missing = [name for name in listed if name not in names]
        if missing:
            raise ScrflowError(
                f"{folder / missing[0]}: image is missing; {' or '.join(map(str, source.pose_lists(root)))} lists it; "
                "unpack the dataset again"
            )
    else:
        published = _camera(info, folder / "info.txt", width, height)
    images: dict[str, SourceImage] = {}
    for name in names:
        if source.poses == "sfm" and name in listed:
            pose, focal = listed[name]
            camera = pycolmap.Camera(
                model="SIMPLE_PINHOLE", width=width, height=height, params=[focal, width / 2, height / 2]
            )
            images[name] = SourceImage(name, camera, pose)
        elif source.poses == "dslam":
            pose = read_frame_pose(folder / name.replace(".color.jpg", ".pose.txt"))
            if pose is not None:
                images[name] = SourceImage(name, published, pose)
    queries = [name for name, number in names.items() if first <= number <= last]
    mapping = [name for name, number in names.items() if not first <= number <= last]
    report_left_out(
        folder,
        "which the pose lists do not name" if source.poses == "sfm" else "whose pose is not finite",
        {"mapping": [n for n in mapping if n not in images], "query": [n for n in queries if n not in images]},
        len(names),
    )
    split = tuple(n for n in mapping if n in images), tuple(n for n in queries if n in images)
    return Collection(folder, folder, tuple(images.values()), split=split)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise ScrflowError(f"{path}: no such file; unpack the dataset there, or mend key source.folder") from None
    except (UnicodeDecodeError, OSError) as error:
        raise ScrflowError(f"{path}: cannot be read as text ({error})") from None


def _test_range(path: Path) -> tuple[int, int]:
    """First and last frame of the first sequence, from its line ``sequence0 [frames=357]  [start=0 ; end=356]``."""
    lines = [line.strip() for line in _lines(path) if line.strip()]
    match = _SEQUENCE.fullmatch(lines[0]) if lines else None
    if match is None:
        raise ScrflowError(
            f"{path}: line 1 is {(lines or [''])[0][:80]!r}, expected 'sequence0 [frames=357]  [start=0 ; end=356]'"
        )
    frames, start, end = (int(match[i]) for i in (2, 3, 4))
    if end - start + 1 != frames:
        raise ScrflowError(f"{path}: line 1: frames {start} to {end} are not {frames}; unpack the dataset again")
    return start, end


def _info(path: Path) -> dict[str, str]:
    """The lines ``key = value``."""
    pairs = (line.partition("=") for line in _lines(path))
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def _numbers(info: dict[str, str], path: Path, key: str, count: int) -> list[float]:
    try:
        values = [float(v) for v in info.get(key, "").split()]
    except ValueError:
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        raise ScrflowError(f"{path}: {key} is {info.get(key)!r}, expected {count} numbers; unpack the dataset again")
    return values


def _number(info: dict[str, str], path: Path, key: str) -> int:
    return int(_numbers(info, path, key, 1)[0])


def _camera(info: dict[str, str], path: Path, width: int, height: int) -> pycolmap.Camera:
    """m_calibrationColorIntrinsic, a 4x4 matrix. The extrinsics there are not read, by anyone."""
    K = np.reshape(_numbers(info, path, "m_calibrationColorIntrinsic", 16), (4, 4))
    rest = K.copy()
    rest[[0, 1, 0, 1], [0, 1, 2, 2]] = [1, 1, 0, 0]
    if np.abs(rest - np.eye(4)).max() > 1e-6:
        raise ScrflowError(f"{path}: m_calibrationColorIntrinsic is not [fx 0 cx 0; 0 fy cy 0; 0 0 1 0; 0 0 0 1]")
    return pycolmap.Camera(model="PINHOLE", width=width, height=height, params=[K[0, 0], K[1, 1], K[0, 2], K[1, 2]])
