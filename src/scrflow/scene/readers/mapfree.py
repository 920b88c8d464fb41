"""A scene of the Map-free relocalization dataset (github.com/nianticlabs/map-free-reloc, README, "Organization").

``intrinsics.txt`` has lines ``frame fx fy cx cy width height``, ``poses.txt`` lines ``frame qw qx qy qz tx ty tz``
(cam_from_world, metric), frames are ``seq0/frame_00000.jpg`` and so on, with gaps. Scenes of the training set have two
whole sequences in one world. Those of the validation set have one frame in seq0, which is the world, and seq1; in those
of the test set the poses of seq1 are withheld: all their numbers are 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap

from scrflow.config import MapFreeSource
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import rotation_from_quaternion
from scrflow.scene.checks.validate import checked_quaternion, checked_size
from scrflow.scene.readers.base import Collection, SourceImage
from scrflow.storage.listfile import read_lines, split_name


def read(source: MapFreeSource, root: Path, sfm_model: Path | None = None) -> Collection:
    """The frames of both sequences; names are like ``seq0/frame_00000.jpg``. A mapping frame without a pose is
    left out; a query without one has no reference."""
    folder = root / source.scene
    path = folder / "poses.txt"
    poses = _table(path, "qw qx qy qz tx ty tz")
    images: dict[str, SourceImage] = {}
    intrinsics = folder / "intrinsics.txt"
    for name, (number, (fx, fy, cx, cy, *size)) in _table(intrinsics, "fx fy cx cy width height").items():
        width, height = checked_size(*size, f"{intrinsics}: line {number}: {name}")
        if [width, height] != size:
            raise ScrflowError(
                f"{intrinsics}: line {number}: {name}: size {size[0]:g}x{size[1]:g} is not of whole pixels"
            )
        camera = pycolmap.Camera(model="PINHOLE", width=width, height=height, params=[fx, fy, cx, cy])
        images[name] = SourceImage(name, camera, _pose(name, poses, path))

    mapping, queries = (_frames(images, sequence, folder) for sequence in (source.mapping, source.queries))
    queries = queries[:: source.query_every]
    left_out = {name: "without a pose in poses.txt" for name in mapping if images[name].cam_from_world is None}
    if len(left_out) == len(mapping):
        raise ScrflowError(f"{path}: no pose of a frame of {source.mapping}; mend key source.mapping")
    return Collection(
        where=path,
        image_root=folder,
        images=tuple(images[name] for name in dict.fromkeys((*mapping, *queries))),
        split=(mapping, queries),
        left_out=left_out,
    )


def _frames(images: dict[str, SourceImage], sequence: str, folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(name for name in images if name.split("/")[0] == sequence))
    if not names:
        there = ", ".join(sorted({name.split("/")[0] for name in images})) or "none"
        raise ScrflowError(f"{folder / 'intrinsics.txt'}: no frames of sequence {sequence!r}; there are {there}")
    return names


def _pose(name: str, poses: dict[str, tuple[int, np.ndarray]], path: Path) -> np.ndarray | None:
    """cam_from_world [3, 4]; None where there is none, or where it is withheld."""
    if name not in poses or not poses[name][1].any():
        return None
    number, values = poses[name]
    rotation = rotation_from_quaternion(checked_quaternion(values[:4], f"{path}: line {number}: {name}"))
    return np.column_stack([rotation, values[4:]])


def _table(path: Path, form: str) -> dict[str, tuple[int, np.ndarray]]:
    """frame -> (line number, numbers) of lines ``frame numbers...``, as many as ``form`` has."""
    out: dict[str, tuple[int, np.ndarray]] = {}
    for number, line in read_lines(path):
        name, fields = split_name(line)
        try:
            values = np.array([float(f) for f in fields])
        except ValueError:
            values = np.empty(0)
        if len(values) != len(form.split()) or not np.isfinite(values).all():
            raise ScrflowError(f"{path}: line {number}: expected 'frame {form}' with finite numbers")
        if name in out:
            raise ScrflowError(f"{path}: line {number}: {name} is listed twice; remove one line")
        out[name] = (number, values)
    return out
