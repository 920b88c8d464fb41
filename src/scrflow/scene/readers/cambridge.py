"""Cambridge Landmarks: lists of poses (dataset_train.txt, dataset_test.txt) and a VisualSFM model for the intrinsics.

A list has three lines of header, then ``seq1/frame00001.png X Y Z W P Q R``: camera centre, rotation world to camera
(w x y z). The poses are those of the lists. Focal length and radial distortion of each image are from
``reconstruction.nvm``, whose names end in .jpg where the files are PNG.

As in the ACE line of work (nianticlabs/ace, datasets/setup_cambridge.py), images without a camera in the model, or more
than 10 000 m away, are left out of both splits; here they are named in a warning.
"""

from __future__ import annotations

import logging
from pathlib import Path, PurePosixPath

import numpy as np

from scrflow.config import CambridgeSource
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pose_error, rotation_from_quaternion
from scrflow.scene.checks.validate import check_unique, checked_quaternion, some
from scrflow.scene.model import View
from scrflow.scene.nvm_file import read_nvm
from scrflow.scene.readers.base import Collection, SourceImage
from scrflow.scene.readers.nvm import image_size, model_of_nvm, poses_of, radial_camera
from scrflow.storage.listfile import split_name

log = logging.getLogger("scrflow")

MODEL = "reconstruction.nvm"
LISTS = ("dataset_train.txt", "dataset_test.txt")  # mapping, queries
_HEADER_LINES = 3
_FAR = 10_000.0
# list and model print the same pose with 6 digits and more
_AGREE = (0.05, 0.1)  # m, degrees


def read(source: CambridgeSource, root: Path, sfm_model: Path | None = None) -> Collection:
    """Both splits; names are like ``seq1/frame00001.png``. 3D points are those that two mapping images see."""
    folder = source.dataset(root)
    lists = [_read_list(folder / name) for name in LISTS]
    listed = {**lists[0], **lists[1]}
    check_unique([name for poses in lists for name in poses], f"{folder / LISTS[0]} and {LISTS[1]}")
    path = folder / MODEL
    nvm = read_nvm(path, source.points)
    row = {str(PurePosixPath(name).with_suffix("")): i for i, name in enumerate(nvm.names)}
    row_of = {name: row.get(str(PurePosixPath(name).with_suffix(""))) for name in listed}
    left_out = _left_out(listed, row_of, folder)
    kept = [name for name in listed if name not in left_out]
    if not kept:
        raise ScrflowError(f"{path}: has none of the {len(listed)} images of {LISTS[0]} and {LISTS[1]}; copy it again")
    _compare(listed, poses_of(nvm, path), {name: row_of[name] for name in kept}, folder)

    images = {}
    for name in kept:
        i = row_of[name]
        camera = radial_camera(*image_size(folder / name), nvm.focal[i], nvm.radial[i], f"{path}: {name}")
        images[name] = SourceImage(name, camera, listed[name])
    mapping, queries = (tuple(name for name in poses if name in images) for poses in lists)
    model = None
    if source.points and mapping:
        views = [View(name, images[name].camera, images[name].cam_from_world) for name in mapping]
        index = np.full(len(nvm.names), -1)
        index[[row_of[name] for name in mapping]] = np.arange(len(mapping))
        model = model_of_nvm(nvm, views, index, path)
    return Collection(folder, folder, tuple(images.values()), split=(mapping, queries), model=model)


def _read_list(path: Path) -> dict[str, np.ndarray]:
    """name -> cam_from_world [3, 4]."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ScrflowError(
            f"{path}: no such file; the dataset's folder has {LISTS[0]}, {LISTS[1]}, {MODEL} and seq*/"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ScrflowError(f"{path}: cannot be read as text ({error}); copy it again") from None
    if (
        not lines
        or not lines[0].startswith("Visual Landmark Dataset")
        or any(len(split_name(line)[1]) == 7 for line in lines[:3] if line.strip())
    ):
        raise ScrflowError(
            f"{path}: expected three lines of header, the first 'Visual Landmark Dataset V1'; copy it again"
        )
    out: dict[str, np.ndarray] = {}
    for number, line in enumerate(lines[_HEADER_LINES:], start=_HEADER_LINES + 1):
        if not line.strip():
            continue
        name, fields = split_name(line.strip())
        where = f"{path}: line {number}: {name}"
        try:
            values = np.array([float(v) for v in fields])
        except ValueError:
            values = np.empty(0)
        if values.shape != (7,) or not np.isfinite(values).all():
            raise ScrflowError(f"{where}: expected 'name x y z qw qx qy qz' with finite numbers; copy the list again")
        if name in out:
            raise ScrflowError(f"{where}: listed twice; remove one")
        R = rotation_from_quaternion(checked_quaternion(values[3:], where))
        out[name] = np.column_stack([R, -R @ values[:3]])
    if not out:
        raise ScrflowError(f"{path}: no image in it; copy the list again")
    return out


def _left_out(listed: dict[str, np.ndarray], row_of: dict[str, int | None], folder: Path) -> set[str]:
    absent = [name for name in listed if row_of[name] is None]
    far = [name for name in listed if row_of[name] is not None and np.abs(listed[name][:, 3]).max() > _FAR]
    for names, why in ((absent, f"not in {MODEL}"), (far, f"pose over {_FAR:g} m away")):
        if names:
            log.warning("%s: left out %d of %d images, %s: %s", folder, len(names), len(listed), why, some(names))
    return {*absent, *far}


def _compare(listed: dict[str, np.ndarray], modelled: np.ndarray, row_of: dict[str, int], folder: Path) -> None:
    """Poses of lists and model should be the same; a few that differ are told, half of them is another model."""
    errors = {name: pose_error(listed[name], modelled[i]) for name, i in row_of.items()}
    apart = [name for name, (t, r) in errors.items() if t > _AGREE[0] or r > _AGREE[1]]
    if not apart:
        return
    text = f"{len(apart)} of {len(errors)} images have another pose in {MODEL} than in the lists (over {_AGREE[0]:g} m "
    text += f"or {_AGREE[1]:g} degrees): {some(apart)}"
    if 2 * len(apart) > len(errors):
        raise ScrflowError(f"{folder}: {text}; lists and model are not of one reconstruction, copy them again")
    log.warning("%s: %s; the lists' are taken", folder, text)
