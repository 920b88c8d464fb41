"""7-Scenes (Shotton et al., CVPR 2013) and 12-Scenes (Valentin et al., 3DV 2016) as published, with either of the two
ground truths of each.

Of 7-Scenes ``*.pose.txt`` (KinectFusion) is world_from_cam of the depth camera; photos and depth maps are not
registered. As in ACE, the colour camera has f 525, the principal point at the image's centre, and poses moved by one
Kinect's calibration from depth to colour (within 0.7 mm and 0.002 degrees of the D-SLAM lists of
github.com/tsattler/visloc_pseudo_gt_limitations). Drift remains: on redkitchen the median epipolar error is 0.73 px
with the SfM poses, 2.5 px with these. Prefer ``poses: sfm``.

Of 12-Scenes ``*.pose.txt`` is world_from_cam of the colour camera. The first sequence of split.txt is the test set
(DSAC++). Frames without a pose are left out, as in the published evaluations.
"""

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

import numpy as np
import pycolmap
from pydantic import Field

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import compose, invert_pose
from scrflow.scene.checks import checked_pose, checked_size, some
from scrflow.scene.colmap_model import View
from scrflow.scene.lists import PhotoNames, centred_camera, colmap_camera, finite_numbers, read_array
from scrflow.scene.readers import Collection, Found, Reader, has, missing
from scrflow.scene.readers.pose_lines import read_pose_list
from scrflow.storage.listfile import read_lines

log = logging.getLogger("scrflow")


class RoomSource(Reader):
    """What the two datasets share. ``folder`` is where the archive has put a scene's files."""

    texts: ClassVar[tuple[str, ...]]  # files in that folder
    pose_files: ClassVar[str]
    suffix: ClassVar[str]  # that a photo has in place of .pose.txt
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

    def published_pose(self, path: Path) -> np.ndarray | None:
        """cam_from_world [3, 4] of a file with the 4x4 world_from_cam; None where tracking was lost (not finite)."""
        world_from_cam = read_array(path, (4, 4))
        return invert_pose(checked_pose(world_from_cam, str(path))) if np.isfinite(world_from_cam).all() else None

    def posed_frames(
        self,
        root: Path,
        mapping: Sequence[str],
        queries: Sequence[str],
        size: tuple[int, int],
        camera: pycolmap.Camera | None,
    ) -> Collection:
        """The frames that have a pose: in the SfM lists, with the focal lengths there, or with ``poses: dslam`` the
        published one and ``camera``. A warning tells how many have none."""
        folder, sfm = self.unpacked(root), self.poses == "sfm"
        listed = self._listed(root) if sfm else {}
        if sfm:
            absent = len(missing(self, folder, listed, folder))
        else:
            folders = {folder / PurePosixPath(name).parent for name in (*mapping, *queries)}
            posed = [path for path in folder.glob(self.pose_files) if path.parent in folders]
            absent = len(posed) - len(mapping) - len(queries)
            if absent > 0:
                log.warning("%s: %d of %d poses have no photo; they are left out", folder, absent, len(posed))
        images = {}
        for name in sorted((*mapping, *queries)):
            if not sfm:
                pose = self.published_pose(folder / name.replace(self.suffix, ".pose.txt"))
            elif name in listed:
                pose, camera = listed[name][0], centred_camera(listed[name][1], size)
            else:
                continue
            if pose is not None:
                images[name] = View(name, camera, pose)
        why = "which the pose lists do not name" if sfm else "whose pose is not finite"
        for kind, names in (("mapping", mapping), ("query", queries)):
            lost = [name for name in names if name not in images]
            if lost:
                total = len(mapping) + len(queries)
                log.warning("%s: %d %s of %d frames left out, %s: %s", folder, len(lost), kind, total, why, some(lost))
        split = tuple(n for n in mapping if n in images), tuple(n for n in queries if n in images)
        return Collection(folder, folder, tuple(images.values()), split=split, absent=max(absent, 0))

    def _listed(self, root: Path) -> dict[str, tuple[np.ndarray, float]]:
        """name -> (cam_from_world [3, 4], focal length in px) of the lists of SfM poses."""
        out: dict[str, tuple[np.ndarray, float]] = {}
        paths, folder = self.pose_lists(root), self.unpacked(root)
        photos = PhotoNames(folder)
        for path in paths:
            if not path.is_file():
                raise ScrflowError(
                    f"{path}: pose list is missing; github.com/tsattler/visloc_pseudo_gt_limitations has it in "
                    f"pgt/sfm/{self.dataset}, or correct key source.lists"
                )
            for listed, found in read_pose_list(path).items():
                name = photos.find(listed, path) or listed
                if name in out:
                    raise ScrflowError(f"{path}: {name} also in another of {', '.join(map(str, paths))}; remove one")
                if not ((folder / name).is_file() or self.skip_missing):
                    raise ScrflowError(
                        f"{folder / name}: image is missing; {path} lists it; unpack the dataset again, or set "
                        "source.skip_missing: true"
                    )
                out[name] = found
        return out


class SevenScenesSource(RoomSource):
    """A scene of 7-Scenes as published: seq-XX/frame-XXXXXX.{color.png,pose.txt}, TrainSplit.txt, TestSplit.txt."""

    form, layout = "7-Scenes", ("TrainSplit.txt", "TestSplit.txt", "seq-*/*.pose.txt")
    texts = ("TrainSplit.txt", "TestSplit.txt")
    pose_files = "seq-*/frame-*.pose.txt"
    suffix = ".color.png"
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

    @classmethod
    def detect(cls, path: Path) -> Found | None:
        if not has(path, *cls.layout):
            return None
        lists = cls(reader="sevenscenes", folder=path.name, poses="sfm").pose_lists(path)
        poses = "sfm" if all(p.is_file() for p in lists) else "dslam"
        source = {"reader": "sevenscenes", "folder": path.name, "poses": poses}
        return Found(cls.form, path, source, ", ".join(cls.layout), "m")

    def read(self, root: Path) -> Collection:
        """All frames of TrainSplit.txt (mapped) and TestSplit.txt (queries). Those without a pose are left out, with a
        warning."""
        mapping, queries = (_frames(self.unpacked(root), name) for name in self.texts)
        return self.posed_frames(root, mapping, queries, _SIZE, centred_camera(_DSLAM_FOCAL_PX, _SIZE))

    def published_pose(self, path: Path) -> np.ndarray | None:
        pose = super().published_pose(path)
        return compose(_COLOUR_FROM_DEPTH, pose) if pose is not None and self.depth_to_colour else pose


_SIZE = (640, 480)
_DSLAM_FOCAL_PX = 525.0
# a Kinect, calibrated by LIRIS (projet.liris.cnrs.fr/voir/activities-dataset/kinect-calibration.html)
_COLOUR_FROM_DEPTH = np.array(
    [
        [9.9996518012567637e-01, 2.6765126468950343e-03, -7.9041012313000904e-03, -2.5558943178152542e-02],
        [-2.7409311281316700e-03, 9.9996302803027592e-01, -8.1504520778013286e-03, 1.0109636268061706e-04],
        [7.8819942130445332e-03, 8.1718328771890631e-03, 9.9993554558014031e-01, 2.0318321729487039e-03],
    ]
)


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


class TwelveScenesSource(RoomSource):
    """A scene of 12-Scenes as published: data/frame-XXXXXX.{color.jpg,pose.txt}, info.txt, split.txt."""

    form, layout = "12-Scenes", ("info.txt", "split.txt", "data/*.pose.txt")
    texts = ("info.txt", "split.txt")
    pose_files = "data/frame-*.pose.txt"
    suffix = ".color.jpg"
    dataset = "12scenes"
    reader: Literal["twelvescenes"]
    folder: str = Field(
        pattern=r"^\w+/\w+$", description="apt1/kitchen ...: where the archive has put the scene; else root/kitchen"
    )
    lists: str = Field(
        "visloc_pseudo_gt_limitations*/pgt/sfm/12scenes",
        description="poses sfm: glob of the folder with apt1_kitchen_train.txt and so on, under root or beside it",
    )

    @classmethod
    def detect(cls, path: Path) -> Found | None:
        source = {"reader": "twelvescenes", "folder": f"{path.parent.name}/{path.name}", "poses": "dslam"}
        found = Found(cls.form, path.parent, source, ", ".join(cls.layout), "m")
        return found if has(path, *cls.layout) else None

    def read(self, root: Path) -> Collection:
        """All posed frames.

        With D-SLAM poses the camera is that of info.txt, with SfM poses the list's focal length and the image's centre.
        """
        folder = self.unpacked(root)
        info = folder / "info.txt"
        numbers = _info(info)
        width, height = (float(numbers(key, 1)[0]) for key in ("m_colorWidth", "m_colorHeight"))
        size = checked_size(width, height, str(info))
        camera = _camera(numbers("m_calibrationColorIntrinsic", 16), size, info) if self.poses == "dslam" else None
        first, last = _test_range(folder / "split.txt")
        names = {f"data/{p.name}": int(m[1]) for p in sorted(folder.glob("data/*")) if (m := _FRAME.fullmatch(p.name))}
        if not names:
            raise ScrflowError(f"{folder / 'data'}: no frame-*.color.jpg in it; unpack the dataset there")
        queries = [name for name, number in names.items() if first <= number <= last]
        mapping = [name for name, number in names.items() if not first <= number <= last]
        return self.posed_frames(root, mapping, queries, size, camera)


_SEQUENCE = re.compile(r"sequence(\d{1,9})\s+\[frames=(\d{1,9})\]\s+\[start=(\d{1,9})\s*;\s*end=(\d{1,9})\]")
_FRAME = re.compile(r"frame-(\d{1,9})\.color\.jpg")


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
    return colmap_camera("PINHOLE", size, params)
