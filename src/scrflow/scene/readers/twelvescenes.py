"""12-Scenes (Valentin et al., 3DV 2016) as published, with either of its two ground truths.

``*.pose.txt`` is world_from_cam of the colour camera. The first sequence of split.txt is the test set (DSAC++). Frames
without a pose are left out, as in the published evaluations.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap
from pydantic import Field

from scrflow.core.errors import ScrflowError
from scrflow.scene.checks import checked_size
from scrflow.scene.lists import finite_numbers
from scrflow.scene.readers import Collection, Found
from scrflow.scene.readers.detection import has
from scrflow.scene.readers.sevenscenes import RoomSource, posed_frames, read_frame_pose
from scrflow.storage.listfile import read_lines


class TwelveScenesSource(RoomSource):
    """A scene of 12-Scenes as published: data/frame-XXXXXX.{color.jpg,pose.txt}, info.txt, split.txt."""

    texts = ("info.txt", "split.txt")
    pose_files = "data/frame-*.pose.txt"
    dataset = "12scenes"
    reader: Literal["twelvescenes"]
    folder: str = Field(
        pattern=r"^\w+/\w+$", description="apt1/kitchen ...: where the archive has put the scene; else root/kitchen"
    )
    lists: str = Field(
        "visloc_pseudo_gt_limitations*/pgt/sfm/12scenes",
        description="poses sfm: glob of the folder with apt1_kitchen_train.txt and so on, under root or beside it",
    )


SOURCE = TwelveScenesSource

_SEQUENCE = re.compile(r"sequence(\d{1,9})\s+\[frames=(\d{1,9})\]\s+\[start=(\d{1,9})\s*;\s*end=(\d{1,9})\]")
_FRAME = re.compile(r"frame-(\d{1,9})\.color\.jpg")


def detect(path: Path) -> Found | None:
    files = ("info.txt", "split.txt", "data/*.pose.txt")
    source = {"reader": "twelvescenes", "folder": f"{path.parent.name}/{path.name}", "poses": "dslam"}
    return Found("12-Scenes", path.parent, source, ", ".join(files), "m") if has(path, *files) else None


def read(source: TwelveScenesSource, root: Path, sfm_model: Path | None = None) -> Collection:
    """All posed frames.

    With D-SLAM poses the camera is that of info.txt, with SfM poses the list's focal length and the image's centre.
    """
    folder = source.unpacked(root)
    info = folder / "info.txt"
    numbers = _info(info)
    width, height = (float(numbers(key, 1)[0]) for key in ("m_colorWidth", "m_colorHeight"))
    size = checked_size(width, height, str(info))
    camera = _camera(numbers("m_calibrationColorIntrinsic", 16), size, info) if source.poses == "dslam" else None
    first, last = _test_range(folder / "split.txt")
    names = {f"data/{p.name}": int(m[1]) for p in sorted(folder.glob("data/*")) if (m := _FRAME.fullmatch(p.name))}
    if not names:
        raise ScrflowError(f"{folder / 'data'}: no frame-*.color.jpg in it; unpack the dataset there")
    queries = [name for name, number in names.items() if first <= number <= last]
    mapping = [name for name, number in names.items() if not first <= number <= last]

    def published(name: str) -> tuple[pycolmap.Camera, np.ndarray | None]:
        return camera, read_frame_pose(folder / name.replace(".color.jpg", ".pose.txt"))

    return posed_frames(source, root, mapping, queries, size, published)


def _test_range(path: Path) -> tuple[int, int]:
    """First and last frame of the first sequence, from its line ``sequence0 [frames=357]  [start=0 ; end=356]``."""
    first = next((line for _, line in read_lines(path)), "")
    match = _SEQUENCE.fullmatch(first)
    if match is None:
        raise ScrflowError(
            f"{path}: line 1 is {first[:80]!r}, expected 'sequence0 [frames=N]  [start=0 ; end=M]'; correct it"
        )
    frames, start, end = (int(match[i]) for i in (2, 3, 4))
    if end - start + 1 != frames:
        raise ScrflowError(f"{path}: line 1: frames {start} to {end} are not {frames}; unpack the dataset again")
    return start, end


def _info(path: Path) -> Callable[[str, int], np.ndarray]:
    """What gives the numbers of a key of info.txt, from its lines ``key = value``."""
    pairs = (line.partition("=") for _, line in read_lines(path))
    values = {key.strip(): value.strip() for key, equals, value in pairs if equals}

    def numbers(key: str, count: int) -> np.ndarray:
        found = finite_numbers(values.get(key, "").split())
        if found is None or len(found) != count:
            raise ScrflowError(f"{path}: {key} is {values.get(key)!r}, expected {count} numbers; correct it")
        return found

    return numbers


def _camera(matrix: np.ndarray, size: tuple[int, int], path: Path) -> pycolmap.Camera:
    """The camera of the 16 numbers of m_calibrationColorIntrinsic. The extrinsics are not read, here or elsewhere."""
    K = matrix.reshape(4, 4)
    rest = K.copy()
    rest[[0, 1, 0, 1], [0, 1, 2, 2]] = [1, 1, 0, 0]
    if np.abs(rest - np.eye(4)).max() > 1e-6:
        raise ScrflowError(f"{path}: m_calibrationColorIntrinsic is not [fx 0 cx 0; 0 fy cy 0; ...]; correct it")
    params = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
    return pycolmap.Camera(model="PINHOLE", width=size[0], height=size[1], params=params)
