"""The DSAC* layout: a folder a split, each with rgb/, poses/ and calibration/, one file an image in each.

Poses are 4x4 camera-to-world in text; a calibration is a 3x3 matrix or a focal length alone. Files belong together by
their order when sorted.
"""

from pathlib import Path
from typing import Literal

import pycolmap

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import invert_pose
from scrflow.core.images import image_size
from scrflow.scene.checks import checked_pose
from scrflow.scene.colmap_model import View
from scrflow.scene.lists import centred_camera, colmap_camera, read_array
from scrflow.scene.readers import Collection, Reader


class DsacSource(Reader):
    """DSAC* layout: one folder a split, each with rgb/, poses/ (4x4 camera-to-world), calibration/ (3x3 or a focal)."""

    form = "DSAC*"
    layout = ("train/rgb", "train/poses", "train/calibration", "test/rgb", "test/calibration")
    reader: Literal["dsac"]
    mapping: str = "train"
    queries: str = "test"

    def files(self, root: Path) -> list[Path]:
        folders = [root / part / kind for part in (self.mapping, self.queries) for kind in ("poses", "calibration")]
        return [path for folder in folders for path in sorted(folder.glob("*"))]

    def read(self, root: Path) -> Collection:
        """Both splits; names are like ``train/rgb/0001.png``. Poses of queries are withheld if they have no folder."""
        withheld = not (root / self.queries / "poses").is_dir()
        splits = [
            _read_split(self, root, split, posed)
            for split, posed in ((self.mapping, True), (self.queries, not withheld))
        ]
        mapping, queries = (tuple(image.name for image in images) for images in splits)
        images = tuple(splits[0] + splits[1])
        listed = sum(len(_files(root / split / "calibration")) for split in (self.mapping, self.queries))
        return Collection(root, root, images, split=(mapping, queries), absent=listed - len(images))


def _read_split(source: DsacSource, root: Path, split: str, posed: bool) -> list[View]:
    photos, calibrations = (_files(root / split / kind) for kind in ("rgb", "calibration"))
    poses = _files(root / split / "poses") if posed else photos
    if source.skip_missing:
        stems = {_stem(photo) for photo in photos}
        poses, calibrations = ([file for file in files if _stem(file) in stems] for files in (poses, calibrations))
    for kind, files in (("poses", poses), ("calibration", calibrations)):
        if len(files) != len(photos):
            raise ScrflowError(
                f"{root / split / kind}: {len(files)} files for {len(photos)} images in rgb/; give each image "
                "one, or set source.skip_missing: true for files without an image"
            )
    out = []
    for photo, pose, calibration in zip(photos, poses, calibrations, strict=True):
        for other in (pose, calibration):
            if _stem(photo) != _stem(other):
                raise ScrflowError(f"{other}: does not belong to {photo.name}; name files alike")
        cam_from_world = invert_pose(checked_pose(read_array(pose, (4, 4)), str(pose))) if posed else None
        out.append(View(photo.relative_to(root).as_posix(), _camera(calibration, photo), cam_from_world))
    return out


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ScrflowError(f"{folder}: no such folder; each split has rgb/, poses/ and calibration/ (DSAC*)")
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    if not files:
        raise ScrflowError(f"{folder}: no files in it; unpack the dataset again")
    return files


def _stem(path: Path) -> str:
    """What is common to ``seq-01-frame-000000.color.png``, ``...pose.txt`` and ``...calibration.txt``."""
    stem = path.stem
    for ending in (".color", ".rgb", ".pose", ".calibration", "_color", "_pose", "_calibration"):
        stem = stem.removesuffix(ending)
    return stem


def _camera(calibration: Path, image: Path) -> pycolmap.Camera:
    size = image_size(image)
    values = read_array(calibration, (3, 3), (1,))
    if values.shape == (1,):
        return centred_camera(values[0], size)
    (fx, skew, cx), (_, fy, cy), _ = values
    if abs(skew) > 1e-6 * abs(fx) or values[[1, 2, 2], [0, 0, 1]].any() or values[2, 2] != 1:
        raise ScrflowError(
            f"{calibration}: not a calibration matrix [fx 0 cx; 0 fy cy; 0 0 1]; correct it (skew is not supported)"
        )
    return colmap_camera("PINHOLE", size, [fx, fy, cx, cy])
