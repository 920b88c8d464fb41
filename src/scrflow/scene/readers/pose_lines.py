"""Poses a line each: lists by the names of photos, and trajectories by time (TUM RGB-D)."""

import re
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap
from pydantic import Field
from scipy.spatial.transform import Rotation, Slerp

from scrflow.core.errors import ScrflowError
from scrflow.core.images import image_size
from scrflow.scene.checks import checked_quaternion
from scrflow.scene.colmap_model import View
from scrflow.scene.lists import (
    PhotoNames,
    camera_of_fields,
    centred_camera,
    colmap_camera,
    finite_numbers,
    photos_under,
    pose_of_numbers,
    read_numbers,
)
from scrflow.scene.readers import LINES, MODEL, Collection, Found, Reader
from scrflow.scene.readers.shared import (
    Posed,
    collect,
    files_like,
    first_lines,
    first_rows,
    image_folder,
    numbers_only,
    photo_names,
    rigid,
)
from scrflow.storage.listfile import has_suffix, read_lines, split_name


class PoseListSource(Reader):
    """Lines ``name qw qx qy qz tx ty tz f`` (cam_from_world), as of 7-Scenes' SfM poses; ACE Zero adds a confidence."""

    # pseudo ground truth for 7-Scenes and 12-Scenes (Brachmann et al., ICCV 2021); ACE Zero (ECCV 2024)

    file_keys = ("poses",)
    reader: Literal["poselist"]
    poses: str
    images: str = "."
    principal_point: tuple[float, float] | None = Field(None, description="px; the image centre when not given")
    min_confidence: float = Field(1000, description="ACE Zero: lines with a lower confidence count as no pose")

    @classmethod
    def detect(cls, path: Path) -> Found | None:
        lists = []
        for file in files_like(path, "*.txt"):
            if path.is_dir() and file.parent != path and lists:
                break
            rows = first_rows(file)
            if rows and all(has_suffix(name) and numbers_only(numbers, 8, 9) for name, numbers in rows):
                lists.append((file, photo_names(name for name, _ in rows), len(rows[0][1]) == 9))
        if not lists:
            return None
        file, names, confident = lists[0]
        root = path if path.is_dir() else file.parent
        images = image_folder(names, [file.parent, root], root)
        source = {"reader": "poselist", "poses": file.relative_to(root).as_posix()}
        source["images"] = images.relative_to(root).as_posix()
        others = f" (also {', '.join(f.name for f, *_ in lists[1:])}: name the file to take it)" if lists[1:] else ""
        form = "ACE Zero" if confident else "pose list"
        told = f"{file.name}: lines name {_FORM}{' confidence' if confident else ''}{others}"
        return Found(form, root, source, told, "unit", LINES)

    def read(self, root: Path) -> Collection:
        """All lines of the list whose image is there: published lists cover whole scenes, splits may ask for less."""
        path = root / self.poses
        listed = read_pose_list(path, self.min_confidence)
        if not listed:
            raise ScrflowError(f"{path}: no pose in it; give it lines 'name {_FORM}'")
        image_root = root / self.images
        photos = PhotoNames(image_root)
        images: dict[str, View] = {}
        absent = 0
        for line_name, (cam_from_world, focal) in listed.items():
            name = photos.find(line_name, path)
            if name is None:
                absent += 1
                continue
            if name in images:
                raise ScrflowError(f"{path}: {name} is listed twice, also as {line_name}; remove one line")
            try:
                size = image_size(image_root / name)
            except ScrflowError:
                size = (1, 1)  # a damaged image is named when the images in use are decoded
            camera = centred_camera(focal, size)
            if self.principal_point is not None:
                camera.principal_point_x, camera.principal_point_y = self.principal_point
            images[name] = View(name, camera, cam_from_world)
        if not images:
            raise ScrflowError(
                f"{path}: none of the images that it lists is under {image_root}; correct key source.images"
            )
        unsure = f"confidence under {self.min_confidence:g} in {path.name}"
        left_out = {name: unsure for name, view in images.items() if view.cam_from_world is None}
        return Collection(path, image_root, tuple(images.values()), left_out=left_out, absent=absent)


_FORM = "qw qx qy qz tx ty tz f"


def read_pose_list(path: Path, min_confidence: float = 0) -> dict[str, tuple[np.ndarray | None, float]]:
    """name -> (cam_from_world [3, 4], or None for one of less confidence; focal length in px). ScrflowError for a
    damaged or a double line."""
    first = next((split_name(line)[1] for _, line in read_lines(path)), [])
    form = f"{_FORM} confidence" if len(first) == 9 else _FORM
    out: dict[str, tuple[np.ndarray | None, float]] = {}
    for name, (where, values) in read_numbers(path, form).items():
        sure = len(values) == 8 or values[8] >= min_confidence
        out[name] = pose_of_numbers(values, where) if sure else None, float(values[7])
    return out


class TumSource(Reader):
    """TUM RGB-D: rgb.txt, groundtruth.txt (or another trajectory), poses found by time."""

    # A photo takes the pose of its time: between two poses it is interpolated. The form has no file of intrinsics, so
    # camera.txt (PINHOLE width height fx fy cx cy) or key camera gives them; those of TUM's own three cameras are known
    # by freiburg1, 2 or 3 in the folder's name. Poses are taken as those of the colour camera.

    reader: Literal["tum"]
    trajectory: str = Field("groundtruth.txt", description="lines 'time tx ty tz qx qy qz qw', camera-to-world")
    photos: str = Field("rgb.txt", description="lines 'time file'; without it photos are named by their time")
    camera: str | None = Field(None, description="'MODEL width height params...'; else camera.txt tells it")

    def files(self, root: Path) -> list[Path]:
        return [root / name for name in (self.trajectory, self.photos, CAMERA)]

    @classmethod
    def detect(cls, path: Path) -> Found | None:
        folder = path if path.is_dir() else path.parent
        files = files_like(path, "groundtruth.txt", "*.txt", "*.tum")
        files = [file for file in files if file.parent == folder and _is_trajectory(file)]
        if not files or not _camera(cls(reader="tum"), folder) or not _times_of_photos(folder / "rgb.txt", folder):
            return None
        trajectory = next((file.name for file in files if file.name == "groundtruth.txt"), files[0].name)
        source = {"reader": "tum", **({"trajectory": trajectory} if trajectory != "groundtruth.txt" else {})}
        return Found("TUM RGB-D", folder, source, f"{trajectory}, poses found by time", "m", MODEL)

    def read(self, root: Path) -> Collection:
        """The photos of the list; those whose time has no pose are left out."""
        path, photos = root / self.trajectory, root / self.photos
        camera = _camera(self, root)
        if camera is None:
            raise ScrflowError(f"{path}: nothing tells the intrinsics; {NEEDS_CAMERA}")
        times, rows = _trajectory(path)
        timed = _times_of_photos(photos, root)
        listed = [Posed(name, pose_at(time, times, rows), camera, where) for time, name, where in timed]
        if not listed:
            raise ScrflowError(f"{photos}: no such file, and no photo under {root} is named by its time; put it there")
        return collect(path, root, listed, self.skip_missing)


CAMERA = "camera.txt"
_STAMP = r"\d{9,11}\.\d+|\d{16,19}"  # s, or ns as in EuRoC
_TIMED = "time tx ty tz qx qy qz qw"
_NEAR, _GAP = 0.02, 0.2  # s: from the nearest pose at an end, and between the two that are interpolated
# cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats; there the centre of the first pixel is (0, 0)
_TUM = {
    "1": (517.3, 516.5, 318.6, 255.3, 0.2624, -0.9531, -0.0054, 0.0026, 1.1633),
    "2": (520.9, 521.0, 325.1, 249.7, 0.2312, -0.7849, -0.0033, -0.0001, 0.9172),
    "3": (535.4, 539.2, 320.1, 247.6, 0, 0, 0, 0, 0),
}
NEEDS_CAMERA = f"write its camera into {CAMERA} beside it, as 'PINHOLE width height fx fy cx cy', and run again"


def _is_trajectory(file: Path) -> bool:
    rows = [line.split() for line in first_lines(file)]
    return bool(rows) and all(numbers_only(row, 8) for row in rows)


def _times_of_photos(path: Path, root: Path) -> list[tuple[float, str, str]]:
    """(s, name, where it stands) of the photos of a list, or of those under ``root`` that are named by their time."""
    out = []
    for number, line in read_lines(path) if path.is_file() else ():
        time, *name = line.split(None, 1)
        value, where = finite_numbers([time]), f"{path}: line {number}"
        if value is None or not name or not has_suffix(name[0]):
            raise ScrflowError(f"{where}: expected 'time file', found {line[:80]!r}; correct the line")
        out.append((float(value[0]), name[0], where))
    for name in () if path.is_file() else photos_under(root):
        stem = name.rpartition("/")[2].rpartition(".")[0]
        if re.fullmatch(_STAMP, stem) and "depth" not in name:
            out.append((float(stem) / (1e9 if "." not in stem else 1), name, name))
    return sorted(out)


def _trajectory(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times [N], strictly rising, and the other seven numbers [N, 7]."""
    rows = []
    for number, line in read_lines(path):
        values = finite_numbers(line.replace(",", " ").split())
        if values is None or len(values) != 8:
            raise ScrflowError(f"{path}: line {number}: expected '{_TIMED}', found {line[:80]!r}; correct the line")
        values[4:] = checked_quaternion(values[4:], f"{path}: line {number}")
        rows.append(values)
    if not rows:
        raise ScrflowError(f"{path}: no pose in it; give it lines '{_TIMED}'")
    table = np.stack(rows)
    _, first = np.unique(table[:, 0], return_index=True)
    return table[first, 0], table[first, 1:]


def pose_at(time: float, times: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
    """cam_from_world [3, 4] at a time; None where no pose is near."""
    after = int(np.searchsorted(times, time))
    before = after - 1
    if after < len(times) and times[after] == time:
        centre, turn = rows[after, :3], Rotation.from_quat(rows[after, 3:])
    elif before >= 0 and after < len(times) and times[after] - times[before] <= _GAP:
        share = (time - times[before]) / (times[after] - times[before])
        centre = (1 - share) * rows[before, :3] + share * rows[after, :3]
        turn = Slerp([0, 1], Rotation.from_quat(rows[[before, after], 3:]))(share)
    else:
        near = min((i for i in (before, after) if 0 <= i < len(times)), key=lambda i: abs(times[i] - time))
        if abs(times[near] - time) > _NEAR:
            return None
        centre, turn = rows[near, :3], Rotation.from_quat(rows[near, 3:])
    return rigid(turn.as_matrix().T, centre)


def _camera(source: TumSource, root: Path) -> pycolmap.Camera | None:
    if source.camera is not None:
        return camera_of_fields(source.camera.split(), "source.camera")
    if (root / CAMERA).is_file():
        line = next(iter(read_lines(root / CAMERA)), (1, ""))[1]
        return camera_of_fields(line.split(), f"{root / CAMERA}")
    known = re.search(r"freiburg([123])", root.name)
    if known is None:
        return None
    fx, fy, cx, cy, *distortion = _TUM[known[1]]
    params = [fx, fy, cx + 0.5, cy + 0.5, *distortion, 0, 0, 0]
    return colmap_camera("FULL_OPENCV", (640, 480), params)
