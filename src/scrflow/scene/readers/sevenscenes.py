"""7-Scenes (Shotton et al., CVPR 2013) as published, with either of its two ground truths; and what it shares with
12-Scenes.

``*.pose.txt`` (KinectFusion) is world_from_cam of the depth camera; photos and depth maps are not registered. As in
ACE, the colour camera has f 525, the principal point at the image's centre, and poses moved by one Kinect's calibration
from depth to colour (within 0.7 mm and 0.002 degrees of the D-SLAM lists of
github.com/tsattler/visloc_pseudo_gt_limitations). Drift remains: on redkitchen the median epipolar error is 0.73 px
with the SfM poses, 2.5 px with these. Prefer ``poses: sfm``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

import numpy as np
import pycolmap
from pydantic import Field

from scrflow.config import Source
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import invert_pose
from scrflow.scene.checks import checked_pose, some
from scrflow.scene.colmap_model import View
from scrflow.scene.lists import centred_camera, read_array
from scrflow.scene.photo_names import PhotoNames
from scrflow.scene.readers import Collection, Found, missing
from scrflow.scene.readers.detection import has
from scrflow.scene.readers.poselist import read_pose_list
from scrflow.storage.listfile import read_lines

log = logging.getLogger("scrflow")


class RoomSource(Source):
    """What the two datasets of rooms share. ``folder`` is where the archive has put a scene's files."""

    texts: ClassVar[tuple[str, ...]]  # files and globs in that folder
    pose_files: ClassVar[str]
    dataset: ClassVar[str]
    folder: str
    poses: Literal["sfm", "dslam"] = Field(
        description="sfm: pseudo ground truth by SfM (Brachmann et al., ICCV 2021); dslam: the published *.pose.txt"
    )
    lists: str

    def unpacked(self, root: Path) -> Path:
        """The scene's folder: ``folder`` under root, or the same below its first part where root is that part."""
        whole = root / self.folder
        return whole if whole.is_dir() else root.joinpath(*PurePosixPath(self.folder).parts[1:])

    def pose_lists(self, root: Path) -> list[Path]:
        """Lists of the SfM poses, mapping and queries, in the first folder that the glob ``lists`` matches."""
        found = (folder for base in (root, root.parent) for folder in sorted(base.glob(self.lists)) if folder.is_dir())
        folder = next(found, root / self.lists)
        return [folder / f"{self.folder.replace('/', '_')}_{part}.txt" for part in ("train", "test")]

    def files(self, root: Path) -> list[Path]:
        folder = self.unpacked(root)
        poses = self.pose_lists(root) if self.poses == "sfm" else sorted(folder.glob(self.pose_files))
        return [*(folder / name for name in self.texts), *poses]


class SevenScenesSource(RoomSource):
    """A scene of 7-Scenes as published: seq-XX/frame-XXXXXX.{color.png,pose.txt}, TrainSplit.txt, TestSplit.txt."""

    texts = ("TrainSplit.txt", "TestSplit.txt")
    pose_files = "seq-*/frame-*.pose.txt"
    dataset = "7scenes"
    reader: Literal["sevenscenes"]
    folder: str = Field(description="chess, fire ...: where the archive has put the files; without it they are in root")
    lists: str = Field(
        "visloc_pseudo_gt_limitations*/pgt/sfm/7scenes",
        description="poses sfm: glob of the folder with FOLDER_train.txt and FOLDER_test.txt, under root or beside it",
    )
    depth_to_colour: bool = Field(
        True,
        description="poses dslam: those of the depth camera become those of the colour camera, as in DSAC* and ACE",
    )


SOURCE = SevenScenesSource
SIZE = (640, 480)
DSLAM_FOCAL_PX = 525.0

# a Kinect, calibrated by LIRIS (projet.liris.cnrs.fr/voir/activities-dataset/kinect-calibration.html)
COLOUR_FROM_DEPTH = np.array(
    [
        [9.9996518012567637e-01, 2.6765126468950343e-03, -7.9041012313000904e-03, -2.5558943178152542e-02],
        [-2.7409311281316700e-03, 9.9996302803027592e-01, -8.1504520778013286e-03, 1.0109636268061706e-04],
        [7.8819942130445332e-03, 8.1718328771890631e-03, 9.9993554558014031e-01, 2.0318321729487039e-03],
    ]
)


def detect(path: Path) -> Found | None:
    files = ("TrainSplit.txt", "TestSplit.txt", "seq-*/*.pose.txt")
    if not has(path, *files):
        return None
    lists = SevenScenesSource(reader="sevenscenes", folder=path.name, poses="sfm").pose_lists(path)
    poses = "sfm" if all(p.is_file() for p in lists) else "dslam"
    source = {"reader": "sevenscenes", "folder": path.name, "poses": poses}
    return Found("7-Scenes", path, source, ", ".join(files), "m")


def read(source: SevenScenesSource, root: Path, sfm_model: Path | None = None) -> Collection:
    """All frames of TrainSplit.txt (mapped) and TestSplit.txt (queries). Those without a pose are left out, with a
    warning."""
    folder = source.unpacked(root)
    mapping, queries = (_frames(folder, name) for name in source.texts)
    camera = centred_camera(DSLAM_FOCAL_PX, SIZE)

    def published(name: str) -> tuple[pycolmap.Camera, np.ndarray | None]:
        pose = read_frame_pose(folder / name.replace(".color.png", ".pose.txt"))
        if pose is not None and source.depth_to_colour:
            moved = COLOUR_FROM_DEPTH[:, :3] @ pose
            pose = np.column_stack([moved[:, :3], moved[:, 3] + COLOUR_FROM_DEPTH[:, 3]])
        return camera, pose

    return posed_frames(source, root, mapping, queries, SIZE, published)


def _frames(folder: Path, split: str) -> list[str]:
    """Names of the frames of the sequences that a split file lists: ``sequence1`` is the folder seq-01."""
    names = []
    for number, line in read_lines(folder / split):
        match = re.fullmatch(r"sequence(\d+)", line)
        if match is None:
            raise ScrflowError(
                f"{folder / split}: line {number}: {line!r}, expected 'sequence1' or the like; correct the line"
            )
        sequence = f"seq-{int(match[1]):02d}"
        found = sorted((folder / sequence).glob("frame-*.color.png"))
        if not found:
            raise ScrflowError(f"{folder / sequence}: no frame-*.color.png in it; unpack {sequence}.zip there")
        names += [f"{sequence}/{path.name}" for path in found]
    if not names:
        raise ScrflowError(f"{folder / split}: no sequence in it; unpack the dataset again")
    return names


def posed_frames(
    source: RoomSource,
    root: Path,
    mapping: Sequence[str],
    queries: Sequence[str],
    size: tuple[int, int],
    published: Callable[[str], tuple[pycolmap.Camera, np.ndarray | None]],
) -> Collection:
    """The frames that have a pose, in the SfM lists or, with ``poses: dslam``, by ``published`` (camera and pose of a
    name). A warning tells how many have none."""
    folder = source.unpacked(root)
    listed = _read_pose_lists(source, root) if source.poses == "sfm" else {}
    if source.poses == "sfm":
        absent = len(missing(source, folder, listed, folder))
    else:
        folders = {folder / PurePosixPath(name).parent for name in (*mapping, *queries)}
        posed = [path for path in folder.glob(source.pose_files) if path.parent in folders]
        absent = len(posed) - len(mapping) - len(queries)
        if absent > 0:
            log.warning("%s: %d of %d poses have no photo; they are left out", folder, absent, len(posed))
    images = {}
    for name in sorted((*mapping, *queries)):
        if source.poses == "dslam":
            camera, pose = published(name)
        elif name in listed:
            camera, pose = centred_camera(listed[name][1], size), listed[name][0]
        else:
            continue
        if pose is not None:
            images[name] = View(name, camera, pose)
    why = "which the pose lists do not name" if source.poses == "sfm" else "whose pose is not finite"
    for kind, names in (("mapping", mapping), ("query", queries)):
        lost = [name for name in names if name not in images]
        if lost:
            total = len(mapping) + len(queries)
            log.warning("%s: %d %s of %d frames left out, %s: %s", folder, len(lost), kind, total, why, some(lost))
    split = tuple(n for n in mapping if n in images), tuple(n for n in queries if n in images)
    return Collection(folder, folder, tuple(images.values()), split=split, absent=max(absent, 0))


def _read_pose_lists(source: RoomSource, root: Path) -> dict[str, tuple[np.ndarray, float]]:
    """name -> (cam_from_world [3, 4], focal length in px) of the lists of SfM poses (Brachmann et al., ICCV 2021)."""
    out: dict[str, tuple[np.ndarray, float]] = {}
    paths, photos = source.pose_lists(root), PhotoNames(source.unpacked(root))
    for path in paths:
        if not path.is_file():
            raise ScrflowError(
                f"{path}: pose list is missing; github.com/tsattler/visloc_pseudo_gt_limitations has it in "
                f"pgt/sfm/{source.dataset}, or correct key source.lists"
            )
        for listed, found in read_pose_list(path).items():
            name = photos.find(listed, path) or listed
            image = source.unpacked(root) / name
            if name in out:
                raise ScrflowError(f"{path}: {name} also in another of {', '.join(map(str, paths))}; remove one")
            if not (image.is_file() or source.skip_missing):
                raise ScrflowError(
                    f"{image}: image is missing; {path} lists it; unpack the dataset again, or set "
                    "source.skip_missing: true"
                )
            out[name] = found
    return out


def read_frame_pose(path: Path) -> np.ndarray | None:
    """cam_from_world [3, 4] of a file with the 4x4 world_from_cam; None where tracking was lost (not finite)."""
    world_from_cam = read_array(path, (4, 4))
    return invert_pose(checked_pose(world_from_cam, str(path))) if np.isfinite(world_from_cam).all() else None
