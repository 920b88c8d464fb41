"""12-Scenes (Valentin et al., 3DV 2016) as published, with either of its two ground truths.

``*.pose.txt`` is world_from_cam of the colour camera. The first sequence of split.txt is the test set (DSAC++). Frames
without a pose are left out, as in the published evaluations.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap
from pydantic import Field

from scrflow.config import Source
from scrflow.core.errors import ScrflowError
from scrflow.scene.checks import checked_size
from scrflow.scene.lists import finite_numbers
from scrflow.scene.readers import Collection
from scrflow.scene.readers.sevenscenes import (
    NOT_FINITE,
    NOT_LISTED,
    posed_frames,
    read_frame_pose,
    read_pose_lists,
    sfm_image,
    sfm_pose_lists,
    unpacked_folder,
)
from scrflow.storage.listfile import read_lines


class TwelveScenesSource(Source):
    """A scene of 12-Scenes as published: data/frame-XXXXXX.{color.jpg,pose.txt}, info.txt, split.txt."""

    reader: Literal["twelvescenes"]
    folder: str = Field(
        pattern=r"^\w+/\w+$", description="apt1/kitchen ...: where the archive has put the scene; else root/kitchen"
    )
    poses: Literal["sfm", "dslam"] = Field(
        description="sfm: pseudo ground truth by SfM (Brachmann et al., ICCV 2021); dslam: the published *.pose.txt"
    )
    lists: str = Field(
        "visloc_pseudo_gt_limitations*/pgt/sfm/12scenes",
        description="poses sfm: glob of the folder with apt1_kitchen_train.txt and so on, under root or beside it",
    )

    def dataset(self, root: Path) -> Path:
        """The folder with info.txt and data/."""
        return unpacked_folder(root, self.folder)

    def pose_lists(self, root: Path) -> list[Path]:
        """Lists of the SfM poses, mapping and queries."""
        return sfm_pose_lists(self.lists, root, self.folder.replace("/", "_"))

    def files(self, root: Path) -> list[Path]:
        folder = self.dataset(root)
        poses = self.pose_lists(root) if self.poses == "sfm" else sorted(folder.glob("data/frame-*.pose.txt"))
        return [folder / "info.txt", folder / "split.txt", *poses]


SOURCE = TwelveScenesSource

_SEQUENCE = re.compile(r"sequence(\d{1,9})\s+\[frames=(\d{1,9})\]\s+\[start=(\d{1,9})\s*;\s*end=(\d{1,9})\]")
_FRAME = re.compile(r"frame-(\d{1,9})\.color\.jpg")


def read(source: TwelveScenesSource, root: Path, sfm_model: Path | None = None) -> Collection:
    """All posed frames.

    With D-SLAM poses the camera is that of info.txt, with SfM poses the list's focal length and the image's centre.
    """
    folder = source.dataset(root)
    info = _Info(folder / "info.txt")
    first, last = _test_range(folder / "split.txt")
    names = {f"data/{p.name}": int(m[1]) for p in sorted(folder.glob("data/*")) if (m := _FRAME.fullmatch(p.name))}
    if not names:
        raise ScrflowError(f"{folder / 'data'}: no frame-*.color.jpg in it; unpack the dataset there")
    queries = [name for name, number in names.items() if first <= number <= last]
    mapping = [name for name, number in names.items() if not first <= number <= last]
    size = info.size()
    if source.poses == "sfm":
        listed = read_pose_lists(source.pose_lists(root), folder, "12scenes")
        return posed_frames(folder, mapping, queries, lambda n: sfm_image(listed, n, size), NOT_LISTED)
    camera = info.camera(size)

    def image(name: str) -> tuple[pycolmap.Camera, np.ndarray | None]:
        return camera, read_frame_pose(folder / name.replace(".color.jpg", ".pose.txt"))

    return posed_frames(folder, mapping, queries, image, NOT_FINITE)


def _test_range(path: Path) -> tuple[int, int]:
    """First and last frame of the first sequence, from its line ``sequence0 [frames=357]  [start=0 ; end=356]``."""
    lines = read_lines(path) or [(1, "")]
    match = _SEQUENCE.fullmatch(lines[0][1])
    if match is None:
        raise ScrflowError(
            f"{path}: line 1 is {lines[0][1][:80]!r}, expected 'sequence0 [frames=N]  [start=0 ; end=M]'"
        )
    frames, start, end = (int(match[i]) for i in (2, 3, 4))
    if end - start + 1 != frames:
        raise ScrflowError(f"{path}: line 1: frames {start} to {end} are not {frames}; unpack the dataset again")
    return start, end


class _Info:
    """The lines ``key = value`` of info.txt."""

    def __init__(self, path: Path):
        pairs = (line.partition("=") for _, line in read_lines(path))
        self.path, self.values = path, {key.strip(): value.strip() for key, equals, value in pairs if equals}

    def numbers(self, key: str, count: int) -> np.ndarray:
        found = finite_numbers(self.values.get(key, "").split())
        if found is None or len(found) != count:
            raise ScrflowError(f"{self.path}: {key} is {self.values.get(key)!r}, expected {count} numbers")
        return found

    def size(self) -> tuple[int, int]:
        width, height = (float(self.numbers(key, 1)[0]) for key in ("m_colorWidth", "m_colorHeight"))
        return checked_size(width, height, str(self.path))

    def camera(self, size: tuple[int, int]) -> pycolmap.Camera:
        """m_calibrationColorIntrinsic, a 4x4 matrix. The extrinsics are not read, here or elsewhere."""
        K = self.numbers("m_calibrationColorIntrinsic", 16).reshape(4, 4)
        rest = K.copy()
        rest[[0, 1, 0, 1], [0, 1, 2, 2]] = [1, 1, 0, 0]
        if np.abs(rest - np.eye(4)).max() > 1e-6:
            raise ScrflowError(f"{self.path}: m_calibrationColorIntrinsic is not [fx 0 cx 0; 0 fy cy 0; ...]")
        params = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
        return pycolmap.Camera(model="PINHOLE", width=size[0], height=size[1], params=params)
