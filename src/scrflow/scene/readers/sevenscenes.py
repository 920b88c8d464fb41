"""7-Scenes (Shotton et al., CVPR 2013) as published, with either of its two ground truths.

``*.pose.txt`` (KinectFusion) is world_from_cam of the depth camera, whose focal length is 585 px; photos and depth maps
are not registered. The set-up of ACE takes the colour camera at f 525, the principal point at the image's centre, and
the poses moved by one Kinect's calibration from depth to colour; so does this reader. (A calibration of the dataset's
own camera is not published. The D-SLAM lists of github.com/tsattler/visloc_pseudo_gt_limitations hold the same:
within 0.7 mm and 0.002 degrees of this reader's poses on 210 frames of redkitchen.)

It is no finer calibration. On 54 pairs of redkitchen's seq-01 (XFeat matches, pairs 5 cm or more apart) the median
epipolar error is 0.73 px with the SfM poses, 2.49 px with the raw D-SLAM poses at f 525, 2.54 px with this calibration
and 5.0 px with f 585; the best rigid transform and focal length fitted on 54 other pairs come to 2.2 px. No
constant transform takes away the rest (drift of the trajectory, it seems): prefer ``poses: sfm``.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pycolmap

from scrflow.config import SevenScenesSource
from scrflow.core.errors import ScrflowError
from scrflow.scene.readers.base import Collection, SourceImage
from scrflow.scene.readers.frames import read_frame_pose, read_lists, report_left_out
from scrflow.storage.listfile import read_lines

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
    """All frames of the sequences of TrainSplit.txt (mapped) and TestSplit.txt (queries); names are like
    ``seq-01/frame-000000.color.png``. Frames without pose are left out with a warning."""
    folder = source.dataset(root)
    splits = [_frames(folder, _sequences(folder / name)) for name in ("TrainSplit.txt", "TestSplit.txt")]
    if source.poses == "sfm":
        listed = read_lists(
            source.pose_lists(root), "github.com/tsattler/visloc_pseudo_gt_limitations has them in pgt/sfm/7scenes"
        )
        _check_images_there(folder, listed, source.pose_lists(root))
    images: dict[str, SourceImage] = {}
    for name in (*splits[0], *splits[1]):
        if source.poses == "sfm":
            pose, focal = listed.get(name, (None, 0.0))
        else:
            pose = read_frame_pose(folder / name.replace(".color.png", ".pose.txt"))
            focal = DSLAM_FOCAL_PX
            if pose is not None and source.depth_to_colour:
                pose = _compose(COLOUR_FROM_DEPTH, pose)
        if pose is not None:
            params = [focal, SIZE[0] / 2, SIZE[1] / 2]
            camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=SIZE[0], height=SIZE[1], params=params)
            images[name] = SourceImage(name, camera, pose)
    mapping, queries = (tuple(n for n in names if n in images) for names in splits)
    report_left_out(
        folder,
        "which the pose lists do not name" if source.poses == "sfm" else "whose pose is not finite",
        {
            "mapping": [n for n in splits[0] if n not in images],
            "query": [n for n in splits[1] if n not in images],
        },
        len(splits[0]) + len(splits[1]),
    )
    return Collection(folder, folder, tuple(images.values()), split=(mapping, queries))


def _sequences(path: Path) -> list[str]:
    """Folders ``seq-01`` of the lines ``sequence1``."""
    out = []
    for number, line in read_lines(path):
        match = re.fullmatch(r"sequence(\d+)", line)
        if match is None:
            raise ScrflowError(f"{path}: line {number}: {line!r}, expected 'sequence1' or the like")
        out.append(f"seq-{int(match[1]):02d}")
    if not out:
        raise ScrflowError(f"{path}: no sequence in it; unpack the dataset again")
    return out


def _frames(folder: Path, sequences: list[str]) -> list[str]:
    names = []
    for sequence in sequences:
        found = sorted((folder / sequence).glob("frame-*.color.png"))
        if not found:
            raise ScrflowError(f"{folder / sequence}: no frame-*.color.png in it; unpack {sequence}.zip there")
        names += [f"{sequence}/{path.name}" for path in found]
    return names


def _check_images_there(folder: Path, listed: dict[str, tuple[np.ndarray, float]], lists: list[Path]) -> None:
    for name in listed:
        if not (folder / name).is_file():
            paths = " or ".join(map(str, lists))
            raise ScrflowError(f"{folder / name}: image is missing; {paths} lists it; unpack the dataset again")


def _compose(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The pose [3, 4] of ``b``, then ``a``."""
    return np.column_stack([a[:, :3] @ b[:, :3], a[:, :3] @ b[:, 3] + a[:, 3]])
