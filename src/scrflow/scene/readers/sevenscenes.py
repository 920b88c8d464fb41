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
from typing import Literal

import numpy as np
import pycolmap
from pydantic import Field

from scrflow.config import Source
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import invert_pose
from scrflow.scene.checks import checked_pose, some
from scrflow.scene.colmap_model import View
from scrflow.scene.lists import read_array
from scrflow.scene.readers import Collection
from scrflow.scene.readers.poselist import read_pose_list
from scrflow.storage.listfile import read_lines


def unpacked_folder(root: Path, folder: str) -> Path:
    """``folder`` under root, or the same below its first part where root is that part."""
    return root / folder if (root / folder).is_dir() else root.joinpath(*PurePosixPath(folder).parts[1:])


def sfm_pose_lists(lists: str, root: Path, scene: str) -> list[Path]:
    """SCENE_train.txt and SCENE_test.txt in the first folder, under root or else beside it, that the glob matches."""
    found = (folder for base in (root, root.parent) for folder in sorted(base.glob(lists)) if folder.is_dir())
    folder = next(found, root / lists)
    return [folder / f"{scene}_{part}.txt" for part in ("train", "test")]


class SevenScenesSource(Source):
    """A scene of 7-Scenes as published: seq-XX/frame-XXXXXX.{color.png,pose.txt}, TrainSplit.txt, TestSplit.txt."""

    reader: Literal["sevenscenes"]
    folder: str = Field(description="chess, fire ...: where the archive has put the files; without it they are in root")
    poses: Literal["sfm", "dslam"] = Field(
        description="sfm: pseudo ground truth by SfM (Brachmann et al., ICCV 2021); dslam: the published *.pose.txt"
    )
    lists: str = Field(
        "visloc_pseudo_gt_limitations*/pgt/sfm/7scenes",
        description="poses sfm: glob of the folder with FOLDER_train.txt and FOLDER_test.txt, under root or beside it",
    )
    depth_to_colour: bool = Field(
        True,
        description="poses dslam: those of the depth camera become those of the colour camera, as in DSAC* and ACE",
    )

    def dataset(self, root: Path) -> Path:
        """The folder with the sequences."""
        return unpacked_folder(root, self.folder)

    def pose_lists(self, root: Path) -> list[Path]:
        """Lists of the SfM poses, mapping and queries."""
        return sfm_pose_lists(self.lists, root, self.folder)

    def files(self, root: Path) -> list[Path]:
        folder = self.dataset(root)
        poses = self.pose_lists(root) if self.poses == "sfm" else sorted(folder.glob("seq-*/frame-*.pose.txt"))
        return [folder / "TrainSplit.txt", folder / "TestSplit.txt", *poses]


SOURCE = SevenScenesSource
log = logging.getLogger("scrflow")
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


def read(source: SevenScenesSource, root: Path, sfm_model: Path | None = None) -> Collection:
    """All frames of TrainSplit.txt (mapped) and TestSplit.txt (queries). Those without pose are left out with a
    warning."""
    folder = source.dataset(root)
    mapping, queries = (_frames(folder, name) for name in ("TrainSplit.txt", "TestSplit.txt"))

    def published_pose(name: str) -> np.ndarray | None:
        pose = read_frame_pose(folder / name.replace(".color.png", ".pose.txt"))
        if pose is None or not source.depth_to_colour:
            return pose
        moved = COLOUR_FROM_DEPTH[:, :3] @ pose
        return np.column_stack([moved[:, :3], moved[:, 3] + COLOUR_FROM_DEPTH[:, 3]])

    if source.poses == "sfm":
        listed = read_pose_lists(source.pose_lists(root), folder, "7scenes")
        return posed_frames(folder, mapping, queries, lambda n: sfm_image(listed, n, SIZE), NOT_LISTED)
    camera = pycolmap.Camera.create_from_model_name(0, "SIMPLE_PINHOLE", DSLAM_FOCAL_PX, *SIZE)
    return posed_frames(folder, mapping, queries, lambda n: (camera, published_pose(n)), NOT_FINITE)


def _frames(folder: Path, split: str) -> list[str]:
    """Names of the frames of the sequences that a split file lists: ``sequence1`` is the folder seq-01."""
    names = []
    for number, line in read_lines(folder / split):
        match = re.fullmatch(r"sequence(\d+)", line)
        if match is None:
            raise ScrflowError(f"{folder / split}: line {number}: {line!r}, expected 'sequence1' or the like")
        sequence = f"seq-{int(match[1]):02d}"
        found = sorted((folder / sequence).glob("frame-*.color.png"))
        if not found:
            raise ScrflowError(f"{folder / sequence}: no frame-*.color.png in it; unpack {sequence}.zip there")
        names += [f"{sequence}/{path.name}" for path in found]
    if not names:
        raise ScrflowError(f"{folder / split}: no sequence in it; unpack the dataset again")
    return names


NOT_LISTED = "which the pose lists do not name"
NOT_FINITE = "whose pose is not finite"


def posed_frames(
    folder: Path,
    mapping: Sequence[str],
    queries: Sequence[str],
    image: Callable[[str], tuple[pycolmap.Camera, np.ndarray | None]],
    why: str,
) -> Collection:
    """The frames that have a pose; ``image`` gives camera and pose of a name. A warning says ``why`` others do not."""
    images = {}
    for name in sorted((*mapping, *queries)):
        camera, pose = image(name)
        if pose is not None:
            images[name] = View(name, camera, pose)
    for kind, names in (("mapping", mapping), ("query", queries)):
        lost = [name for name in names if name not in images]
        if lost:
            total = len(mapping) + len(queries)
            log.warning("%s: %d %s of %d frames left out, %s: %s", folder, len(lost), kind, total, why, some(lost))
    split = tuple(n for n in mapping if n in images), tuple(n for n in queries if n in images)
    return Collection(folder, folder, tuple(images.values()), split=split)


def read_pose_lists(paths: Sequence[Path], folder: Path, dataset: str) -> dict[str, tuple[np.ndarray, float]]:
    """name -> (cam_from_world [3, 4], focal length in px) of several lists of SfM poses (Brachmann et al., ICCV
    2021)."""
    out: dict[str, tuple[np.ndarray, float]] = {}
    for path in paths:
        if not path.is_file():
            raise ScrflowError(
                f"{path}: pose list is missing; github.com/tsattler/visloc_pseudo_gt_limitations has it in "
                f"pgt/sfm/{dataset}, or correct key source.lists"
            )
        for name, found in read_pose_list(path).items():
            if name in out:
                raise ScrflowError(f"{path}: {name} also in another of {', '.join(map(str, paths))}; remove one")
            if not (folder / name).is_file():
                raise ScrflowError(f"{folder / name}: image is missing; {path} lists it; unpack the dataset again")
            out[name] = found
    return out


def sfm_image(
    listed: dict[str, tuple[np.ndarray, float]], name: str, size: tuple[int, int]
) -> tuple[pycolmap.Camera, np.ndarray | None]:
    """Camera (principal point at the centre) and pose of a frame that the lists name, pose None of another."""
    pose, focal = listed.get(name, (None, 1.0))
    width, height = size
    params = [focal, width / 2, height / 2]
    return pycolmap.Camera(model="SIMPLE_PINHOLE", width=width, height=height, params=params), pose


def read_frame_pose(path: Path) -> np.ndarray | None:
    """cam_from_world [3, 4] of a file with the 4x4 world_from_cam; None where tracking was lost (not finite)."""
    world_from_cam = read_array(path, (4, 4))
    return invert_pose(checked_pose(world_from_cam, str(path))) if np.isfinite(world_from_cam).all() else None
