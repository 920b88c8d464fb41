"""hloc's HDF5 files of local features, global descriptors and matches, and its lists of image pairs.

Local features: image name -> group with ``keypoints`` [N, 2], pixels of the photo as it is stored with the centre of
the top-left pixel at (0, 0), and their attribute ``uncertainty`` (the detector's noise in px); ``descriptors`` [D, N];
``scores`` [N]; ``image_size`` (width, height). Global descriptors: image name -> group with ``global_descriptor``.
Floats are float32 here: hloc's float16 rounds coordinates beyond 1024 px to whole pixels.

Matches: a pair's group is named by both image names, slashes made dashes, joined by a slash (older files: by an
underscore), in either order. ``matches0`` [N] holds for each keypoint of the first image the index in the second, -1
for none; ``matching_scores0`` [N] the confidence.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from scrflow.core.errors import ScrflowError, damage_reported
from scrflow.storage.artifact import write_text
from scrflow.storage.listfile import listed
from scrflow.storage.untrusted import array_of, held

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
    """The open file; ScrflowError if it is missing, not HDF5, or found to be damaged in the block."""
    if not Path(path).is_file():
        raise ScrflowError(f"{path}: file of {what} is missing; make it with hloc or with its rule")
    with damage_reported(path, f"not an HDF5 file of {what}", "make it again"), h5py.File(path, "r") as file:
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
    """Keypoints [N, 2] float32, COLMAP's pixels, by name; ScrflowError if they are missing, not finite, or behind a
    link to another file."""
    with opened(path, "local features") as file:
        missing = [n for n in names if not isinstance(held(file, f"{n}/keypoints", path), h5py.Dataset)]
        _check_all("keypoints of", missing, names, path)
        return {name: _keypoints(file, path, name) for name in names}


def _check_all(what: str, missing: Sequence[str], names: Sequence[str], path: Path) -> None:
    if missing:
        raise ScrflowError(
            f"{path}: no {what} {missing[0]} ({len(missing)} of {len(names)} images are missing); names are those of "
            "the scene, relative to its image folder"
        )


def _keypoints(file: h5py.File, path: Path, name: str) -> np.ndarray:
    stored = array_of(file, f"{name}/keypoints", path, np.float32)
    if stored.ndim != 2 or stored.shape[1] < 2:
        raise ScrflowError(
            f"{path}: {name}: keypoints have shape {stored.shape}, expected [keypoints, 2]; extract it again"
        )
    if not np.isfinite(stored).all():
        raise ScrflowError(f"{path}: {name}: a keypoint is not finite; extract it again")
    return stored[:, :2] + np.float32(ORIGIN)


def write_descriptors(file: h5py.File, descriptors: Mapping[str, np.ndarray]) -> None:
    """Add descriptors [dim] (float32) by image name to an open file."""
    for name, descriptor in descriptors.items():
        file.create_group(name).create_dataset(DATASET, data=np.asarray(descriptor, np.float32))


def read_descriptors(path: Path, names: Iterable[str]) -> np.ndarray:
    """Descriptors [len(names), dim] float32; ScrflowError if images are missing or dimensions differ."""
    names = list(names)
    with opened(path, "global descriptors") as f:
        found = [array_of(f, f"{n}/{DATASET}", path, np.float32) for n in names]
    missing = [n for n, row in zip(names, found, strict=True) if row is None]
    _check_all(f"{DATASET} for", missing, names, path)
    rows = [row.reshape(-1) for row in found if row is not None]
    for name, row in zip(names, rows, strict=True):
        if row.shape != rows[0].shape:
            raise ScrflowError(
                f"{path}: {name} has {len(row)} dimensions, {names[0]} has {len(rows[0])}; describe all images again"
            )
        if not np.isfinite(row).all():
            raise ScrflowError(f"{path}: {name}: descriptor is not finite; describe the image again")
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


NONE = -1  # in matches0


def write_pairs(path: Path, pairs: Iterable[tuple[str, str]]) -> None:
    """Lines ``first second``."""
    write_text(path, "".join(f"{listed(a)} {listed(b)}\n" for a, b in pairs))


def write_matches(file: h5py.File, first: str, second: str, matches_M2: np.ndarray, count: int) -> None:
    """Add the matches (indices in first and second) of a pair to an open file; the first has ``count`` keypoints.
    ValueError if a keypoint of the first is matched twice, which hloc's form cannot hold."""
    matches_M2 = np.asarray(matches_M2, np.int64).reshape(-1, 2)
    if len(np.unique(matches_M2[:, 0])) != len(matches_M2):
        raise ValueError(f"{first}, {second}: a keypoint is matched twice")
    matches0 = np.full(count, NONE, np.int32)
    matches0[matches_M2[:, 0]] = matches_M2[:, 1]
    scores0 = np.zeros(count, np.float16)
    scores0[matches_M2[:, 0]] = 1.0
    group = file.create_group("/".join(name.replace("/", "-") for name in (first, second)))
    group.create_dataset("matches0", data=matches0)
    group.create_dataset("matching_scores0", data=scores0)


def read_matches(path: Path, keypoints: Mapping[str, int]) -> dict[tuple[str, str], np.ndarray]:
    """Matches [M, 2] int64 of all pairs of these images in the file; ``keypoints``: their number by image name.
    ScrflowError if there is no pair, or for matches that do not fit the keypoints."""
    with opened(path, "matches") as file:
        stored = _stored_pairs(file, path, keypoints)
        if not stored:
            raise ScrflowError(f"{path}: no pair of these {len(keypoints)} images; names are those of the scene")
        return {pair: _matches(file, path, group, pair, keypoints) for pair, group in stored.items()}


def _stored_pairs(file: h5py.File, path: Path, names: Iterable[str]) -> dict[tuple[str, str], str]:
    """Pair -> group for the images ``names``; each pair in the order that it is stored in."""
    dashed: dict[str, str] = {}
    for name in names:
        other = dashed.setdefault(name.replace("/", "-"), name)
        if other != name:
            raise ScrflowError(f"{path}: {other} and {name} have the same name in hloc's matches; rename one")
    stored: dict[tuple[str, str], str] = {}
    for key in file:
        group = held(file, key, path)
        if not isinstance(group, h5py.Group):
            continue
        if "matches0" in group:  # the older form: a_b, not a/b
            found = [(dashed.get(key[:i]), dashed.get(key[i + 1 :]), key) for i, c in enumerate(key) if c == "_"]
        else:
            found = [(dashed.get(key), dashed.get(second), f"{key}/{second}") for second in group]
        for a, b, name in found:
            # the first group of a pair counts, as in hloc
            if a is not None and b is not None and (b, a) not in stored:
                stored.setdefault((a, b), name)
    return stored


def _matches(
    file: h5py.File, path: Path, group: str, pair: tuple[str, str], keypoints: Mapping[str, int]
) -> np.ndarray:
    matches0 = array_of(file, f"{group}/matches0", path, np.int64)
    if matches0 is None:
        raise ScrflowError(f"{path}: {group}: no matches0; give hloc's sparse matches (match_features)")
    first, second = pair
    if matches0.shape != (keypoints[first],) or (len(matches0) and matches0.max() >= keypoints[second]):
        raise ScrflowError(
            f"{path}: {group}: matches of {matches0.size} keypoints with up to {int(matches0.max(initial=NONE)) + 1}, "
            f"the features have {keypoints[first]} and {keypoints[second]}; match these features again"
        )
    index = np.flatnonzero(matches0 >= 0)
    return np.column_stack([index, matches0[index]])
