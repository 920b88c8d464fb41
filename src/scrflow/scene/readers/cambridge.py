"""Cambridge Landmarks: lists of poses (dataset_train.txt, dataset_test.txt) and a VisualSFM model for the intrinsics.

A list has three lines of header, then ``seq1/frame00001.png X Y Z W P Q R``: camera centre, rotation world to camera (w
x y z). As in ACE (nianticlabs/ace, datasets/setup_cambridge.py), images without a camera in the model, or over 10 000 m
away, are left out.
"""

import logging
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from pydantic import Field

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pose_error, rotation_from_quaternion
from scrflow.core.images import image_size
from scrflow.scene.checks import check_unique, checked_quaternion, some
from scrflow.scene.colmap_model import View
from scrflow.scene.lists import PhotoNames, read_numbers
from scrflow.scene.readers import Collection, Reader, missing
from scrflow.scene.readers.nvm import model_of_nvm, poses_of, radial_camera, read_nvm
from scrflow.storage.listfile import read_lines, split_name

log = logging.getLogger("scrflow")


class CambridgeSource(Reader):
    """Cambridge Landmarks: dataset_train.txt, dataset_test.txt, reconstruction.nvm and a folder a sequence."""

    form, layout = "Cambridge Landmarks", ("dataset_train.txt", "dataset_test.txt", "reconstruction.nvm")
    reader: Literal["cambridge"]
    folder: str = Field(".", description="where the archive has put the files; without it they are in root itself")
    points: bool = Field(True, description="keep the model's 3D points")

    def dataset(self, root: Path) -> Path:
        """The folder with the lists."""
        return root / self.folder if (root / self.folder).is_dir() else root

    def files(self, root: Path) -> list[Path]:
        return [self.dataset(root) / name for name in self.layout]

    def has_points(self, root: Path) -> bool:
        return self.points

    def read(self, root: Path) -> Collection:
        """Both splits; names are like ``seq1/frame00001.png``. 3D points are those that two mapping images see."""
        folder = self.dataset(root)
        lists = [_read_list(folder / name) for name in LISTS]
        listed = {**lists[0], **lists[1]}
        check_unique([name for poses in lists for name in poses], f"{folder / LISTS[0]} and {LISTS[1]}")
        path = folder / MODEL
        nvm = read_nvm(path, self.points)
        row = {_stem(name): i for i, name in enumerate(nvm.names)}
        row_of = {name: row[_stem(name)] for name in listed if _stem(name) in row}
        far = [name for name in row_of if np.abs(listed[name][:, 3]).max() > _FAR]
        absent = [name for name in listed if name not in row_of]
        for names, why in ((absent, f"not in {MODEL}"), (far, f"pose over {_FAR:g} m away")):
            if names:
                log.warning("%s: left out %d of %d images, %s: %s", folder, len(names), len(listed), why, some(names))
        gone = missing(self, folder, listed, folder)
        kept = {name: i for name, i in row_of.items() if name not in far and name not in gone}
        if not kept:
            raise ScrflowError(
                f"{path}: has none of the {len(listed)} images of {LISTS[0]} and {LISTS[1]}; copy it again"
            )
        _compare(listed, poses_of(nvm, path), kept, folder)

        images = {}
        for name, i in kept.items():
            camera = radial_camera(*image_size(folder / name), nvm.focal[i], nvm.radial[i], f"{path}: {name}")
            images[name] = View(name, camera, listed[name])
        mapping, queries = (tuple(name for name in poses if name in images) for poses in lists)
        model = None
        if self.points and mapping:
            index = np.full(len(nvm.names), -1)
            index[[kept[name] for name in mapping]] = np.arange(len(mapping))
            model = model_of_nvm(nvm, [images[name] for name in mapping], index, path)
        split = (mapping, queries)
        return Collection(folder, folder, tuple(images.values()), split=split, model=model, absent=len(gone))


*LISTS, MODEL = CambridgeSource.layout  # mapping, queries
_HEADER_LINES = 3
_FAR = 10_000.0
# list and model print the same pose with 6 digits and more
_AGREE = (0.05, 0.1)  # m, degrees


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _read_list(path: Path) -> dict[str, np.ndarray]:
    """name -> cam_from_world [3, 4]."""
    lines = dict(read_lines(path))
    header = [lines[n] for n in range(1, _HEADER_LINES + 1) if n in lines]
    if not lines.get(1, "").startswith("Visual Landmark Dataset") or any(len(split_name(h)[1]) == 7 for h in header):
        raise ScrflowError(
            f"{path}: expected three lines of header, the first 'Visual Landmark Dataset V1'; copy the list again"
        )
    out: dict[str, np.ndarray] = {}
    photos = PhotoNames(path.parent)
    for listed, (where, values) in read_numbers(path, "x y z qw qx qy qz", _HEADER_LINES).items():
        name = photos.find(listed, where) or listed
        R = rotation_from_quaternion(checked_quaternion(values[3:], where))
        out[name] = np.column_stack([R, -R @ values[:3]])
    if not out:
        raise ScrflowError(f"{path}: no image in it; copy the list again")
    return out


def _compare(listed: dict[str, np.ndarray], modelled: np.ndarray, row_of: dict[str, int], folder: Path) -> None:
    """Lists and model must have the same poses: a warning for a few that differ, ScrflowError for half of them."""
    errors = {name: pose_error(listed[name], modelled[i]) for name, i in row_of.items()}
    apart = [name for name, (t, r) in errors.items() if t > _AGREE[0] or r > _AGREE[1]]
    if not apart:
        return
    text = (
        f"{len(apart)} of {len(errors)} images have another pose in {MODEL} than in the lists (over {_AGREE[0]:g} m "
        f"or {_AGREE[1]:g} degrees): {some(apart)}"
    )
    if 2 * len(apart) > len(errors):
        raise ScrflowError(f"{folder}: {text}; lists and model are not of one reconstruction, copy them again")
    log.warning("%s: %s; the lists' are taken", folder, text)
