"""hloc's HDF5 forms of local features and of global descriptors.

Local features: image name -> group with keypoints, descriptors, scores, image_size. Global descriptors: image name ->
group with the dataset ``global_descriptor``. A name with slashes makes nested groups.

``keypoints`` [N, 2] are pixels of the photo as it is stored, distortion and all, with the centre of the top-left pixel
at (0, 0); their attribute ``uncertainty`` is the detector's noise in px. ``descriptors`` are [D, N], ``scores`` [N],
``image_size`` is (width, height). hloc stores floats as float16 by default, which rounds coordinates beyond 1024 px to
whole pixels; this module writes float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from scrflow.core.errors import ScrflowError
from scrflow.storage.untrusted import array_of, held, opened_h5

DATASET = "global_descriptor"
ORIGIN = 0.5  # px, added to hloc's keypoints to make them COLMAP's


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """Local features of one photo."""

    keypoints_px: np.ndarray  # [N, 2] float32, COLMAP's pixels of the photo as it is stored
    descriptors_ND: np.ndarray  # [N, D] float32
    scores: np.ndarray  # [N] float32
    image_size: tuple[int, int]  # width, height of the photo
    uncertainty_px: float = 1.0


@contextlib.contextmanager
def opened(path: Path, what: str) -> Iterator[h5py.File]:
    """An HDF5 file for reading; ScrflowError if it is missing, not HDF5, or found to be damaged in the block."""
    if not Path(path).is_file():
        raise ScrflowError(f"{path}: file of {what} is missing; make it with hloc or with its rule")
    with opened_h5(path, what) as file:
        yield file


def write_features(file: h5py.File, name: str, features: StoredFeatures) -> None:
    """Add one photo to an open file."""
    group = file.create_group(name)
    keypoints = group.create_dataset("keypoints", data=np.asarray(features.keypoints_px, np.float32) - ORIGIN)
    keypoints.attrs["uncertainty"] = float(features.uncertainty_px)
    group.create_dataset("descriptors", data=np.asarray(features.descriptors_ND, np.float32).T)
    group.create_dataset("scores", data=np.asarray(features.scores, np.float32))
    group.create_dataset("image_size", data=np.asarray(features.image_size, np.int64))


def read_keypoints(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Keypoints [N, 2] float32, COLMAP's pixels, of each of ``names``.

    ScrflowError if the file cannot be read, links to other files (scrflow.storage.untrusted), lacks photos, or has
    keypoints that are not finite.
    """
    with opened(path, "local features") as file:
        check_images(file, path, names)
        return {name: _keypoints(file, path, name) for name in names}


def read_features(path: Path, name: str) -> StoredFeatures:
    """The features of one photo. ScrflowError as for ``read_keypoints``, and for shapes that do not fit."""
    with opened(path, "local features") as file:
        check_images(file, path, [name])
        keypoints = _keypoints(file, path, name)
        types = {"descriptors": np.float32, "scores": np.float32, "image_size": np.int64}
        found = {key: array_of(file, f"{name}/{key}", path, dtype) for key, dtype in types.items()}
        missing = [key for key, values in found.items() if values is None]
        if missing:
            raise ScrflowError(
                f"{path}: {name}: no {missing[0]}; extract keypoints, descriptors, scores and image_size"
            )
        descriptors, scores = found["descriptors"], found["scores"]
        size = tuple(int(v) for v in found["image_size"].reshape(-1)[:3])
        uncertainty = float(file[name]["keypoints"].attrs.get("uncertainty", 1.0))
    if descriptors.ndim != 2 or descriptors.shape[1] != len(keypoints) or scores.shape != (len(keypoints),):
        raise ScrflowError(
            f"{path}: {name}: {len(keypoints)} keypoints, descriptors {descriptors.shape}, scores {scores.shape}; "
            "expected descriptors [dim, keypoints] and scores [keypoints]; extract it again"
        )
    if not (np.isfinite(descriptors).all() and np.isfinite(scores).all() and np.isfinite(uncertainty)):
        raise ScrflowError(f"{path}: {name}: a descriptor, a score or the uncertainty is not finite; extract it again")
    if len(size) != 2 or min(size) < 1:
        raise ScrflowError(f"{path}: {name}: image_size is {size}, expected width and height; extract it again")
    return StoredFeatures(keypoints, descriptors.T, scores, size, uncertainty)


def check_images(file: h5py.File, path: Path, names: Sequence[str]) -> None:
    """ScrflowError if the open file lacks the keypoints of an image."""
    missing = [n for n in names if not isinstance(held(file, f"{n}/keypoints", path), h5py.Dataset)]
    if missing:
        raise ScrflowError(
            f"{path}: no keypoints of {missing[0]} ({len(missing)} of {len(names)} images are missing); "
            "names are those of the scene, relative to its image folder"
        )


def _keypoints(file: h5py.File, path: Path, name: str) -> np.ndarray:
    stored = array_of(file, f"{name}/keypoints", path, np.float32)
    if stored is None or stored.ndim != 2 or stored.shape[1] < 2:
        shape = None if stored is None else stored.shape
        raise ScrflowError(f"{path}: {name}: keypoints have shape {shape}, expected [keypoints, 2]; extract it again")
    if not np.isfinite(stored).all():
        raise ScrflowError(f"{path}: {name}: a keypoint is not finite; extract it again")
    return stored[:, :2] + np.float32(ORIGIN)


def write_descriptors(file: h5py.File, descriptors: Mapping[str, np.ndarray]) -> None:
    """Add descriptors [dim] (float32) by image name to an open file."""
    for name, descriptor in descriptors.items():
        file.create_group(name).create_dataset(DATASET, data=np.asarray(descriptor, np.float32))


def read_descriptors(path: Path, names: Iterable[str]) -> np.ndarray:
    """Descriptors [len(names), dim] float32 from a file of hloc's form, in the order of ``names``.

    ScrflowError if the file cannot be read, images are missing, or dimensions differ.
    """
    names = list(names)
    with opened(path, "global descriptors") as f:
        found = [array_of(f, f"{n}/{DATASET}", path, np.float32) for n in names]
    missing = [n for n, row in zip(names, found, strict=True) if row is None]
    if missing:
        raise ScrflowError(
            f"{path}: no {DATASET} for {missing[0]} ({len(missing)} of {len(names)} images are missing); "
            "names are those of the scene, relative to its image folder"
        )
    rows = [row.reshape(-1) for row in found if row is not None]
    for name, row in zip(names, rows, strict=True):
        if row.shape != rows[0].shape:
            raise ScrflowError(
                f"{path}: {name} has {len(row)} dimensions, {names[0]} has {len(rows[0])}; describe all images again"
            )
        if not np.isfinite(row).all():
            raise ScrflowError(f"{path}: {name}: descriptor is not finite; describe the image again")
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)
