"""hloc's HDF5 form of global descriptors: image name -> group with the dataset ``global_descriptor``.

A name with slashes makes nested groups, as in hloc.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import h5py
import numpy as np

from scrflow.core.errors import ScrflowError
from scrflow.storage.untrusted import array_of, opened_h5

DATASET = "global_descriptor"


def write_descriptors(file: h5py.File, descriptors: Mapping[str, np.ndarray]) -> None:
    """Add descriptors [dim] (float32) by image name to an open file."""
    for name, descriptor in descriptors.items():
        file.create_group(name).create_dataset(DATASET, data=np.asarray(descriptor, np.float32))


def read_descriptors(path: Path, names: Iterable[str]) -> np.ndarray:
    """Descriptors [len(names), dim] float32 from a file of hloc's form, in the order of ``names``.

    ScrflowError if the file cannot be read, images are missing, or dimensions differ.
    """
    names = list(names)
    if not Path(path).is_file():
        raise ScrflowError(f"{path}: file of global descriptors is missing; make it with hloc's extract_features")
    with opened_h5(path, "global descriptors") as f:
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
