"""hloc's HDF5 form of matches, and its lists of image pairs.

A pair's group is named by both image names, slashes made dashes, joined by a slash (older files: by an underscore), in
either order. ``matches0`` [N] holds for each keypoint of the first image the index in the second, -1 for none;
``matching_scores0`` [N] the confidence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from scrflow.core.errors import ScrflowError
from scrflow.interop.hloc_features import opened
from scrflow.storage.artifact import write_text
from scrflow.storage.listfile import listed, read_lines, split_names
from scrflow.storage.untrusted import array_of, held

NONE = -1  # in matches0


def pair_key(first: str, second: str, separator: str = "/") -> str:
    """The group of a pair of image names."""
    return separator.join(name.replace("/", "-") for name in (first, second))


def write_pairs(path: Path, pairs: Iterable[tuple[str, str]]) -> None:
    """Lines ``first second``."""
    write_text(path, "".join(f"{listed(a)} {listed(b)}\n" for a, b in pairs))


def read_pairs(path: Path, names: Collection[str] | None = None) -> list[tuple[str, str]]:
    """Pairs of image names in the order of the file; ScrflowError for a line that is not two names. ``names``, if
    known, tell where a name with blanks ends."""
    pairs = []
    for number, line in read_lines(path):
        found = [p for p in split_names(line) if names is None or (p[0] in names and p[1] in names)]
        if len(found) != 1:
            raise ScrflowError(
                f"{path}: line {number}: expected two image names, found {len(line.split())} fields; fix the line"
            )
        pairs += found
    return pairs


def write_matches(
    file: h5py.File, first: str, second: str, matches_M2: np.ndarray, count: int, scores_M: np.ndarray | None = None
) -> None:
    """Add the matches (indices in first and second) of a pair to an open file; the first has ``count`` keypoints.

    Scores are 1 by default. ValueError if a keypoint of the first is matched twice, which hloc's form cannot hold.
    """
    matches_M2 = np.asarray(matches_M2, np.int64).reshape(-1, 2)
    if len(np.unique(matches_M2[:, 0])) != len(matches_M2):
        raise ValueError(f"{first}, {second}: a keypoint is matched twice")
    matches0 = np.full(count, NONE, np.int32)
    matches0[matches_M2[:, 0]] = matches_M2[:, 1]
    scores0 = np.zeros(count, np.float16)
    scores0[matches_M2[:, 0]] = 1.0 if scores_M is None else scores_M
    group = file.create_group(pair_key(first, second))
    group.create_dataset("matches0", data=matches0)
    group.create_dataset("matching_scores0", data=scores0)


def read_matches(
    path: Path, keypoints: Mapping[str, int], pairs: Sequence[tuple[str, str]] | None = None
) -> dict[tuple[str, str], np.ndarray]:
    """Matches [M, 2] int64 by pair; ``keypoints``: number of keypoints of each image by name.

    ``pairs`` are required; without it, all pairs of these images that the file holds are read. A pair stored in the
    other order is turned. ScrflowError if the file cannot be read, lacks a pair, or does not fit the keypoints.
    """
    with opened(path, "matches") as file:
        stored = _stored_pairs(file, path, keypoints)
        wanted = pairs if pairs is not None else [pair for pair, (_, turned) in stored.items() if not turned]
        missing = [pair for pair in wanted if pair not in stored]
        if missing:
            a, b = missing[0]
            raise ScrflowError(
                f"{path}: no matches of {a} and {b} ({len(missing)} of {len(wanted)} pairs are missing); "
                "match the same list of pairs again"
            )
        if not wanted:
            raise ScrflowError(f"{path}: no pair of these {len(keypoints)} images; names are those of the scene")
        return {pair: _matches(file, path, *stored[pair], pair, keypoints) for pair in wanted}


def _stored_pairs(file: h5py.File, path: Path, names: Iterable[str]) -> dict[tuple[str, str], tuple[str, bool]]:
    """Pair -> (group, whether it is stored in the other order) for the images ``names``, both orders of each pair."""
    dashed: dict[str, str] = {}
    for name in names:
        other = dashed.setdefault(name.replace("/", "-"), name)
        if other != name:
            raise ScrflowError(f"{path}: {other} and {name} have the same name in hloc's matches; rename one")
    stored: dict[tuple[str, str], tuple[str, bool]] = {}
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
            if a is not None and b is not None and (a, b) not in stored:
                stored[a, b] = (name, False)
                stored[b, a] = (name, True)
    return stored


def _matches(
    file: h5py.File, path: Path, group: str, turned: bool, pair: tuple[str, str], keypoints: Mapping[str, int]
) -> np.ndarray:
    matches0 = array_of(file, f"{group}/matches0", path, np.int64)
    if matches0 is None:
        raise ScrflowError(f"{path}: {group}: no matches0; give hloc's sparse matches (match_features)")
    first, second = pair[::-1] if turned else pair
    if matches0.shape != (keypoints[first],) or (len(matches0) and matches0.max() >= keypoints[second]):
        raise ScrflowError(
            f"{path}: {group}: matches of {matches0.size} keypoints with up to {int(matches0.max(initial=NONE)) + 1}, "
            f"the features have {keypoints[first]} and {keypoints[second]}; match these features again"
        )
    index = np.flatnonzero(matches0 >= 0)
    matches = np.column_stack([index, matches0[index]])
    return matches[:, ::-1].copy() if turned else matches
