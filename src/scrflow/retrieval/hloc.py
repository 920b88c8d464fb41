"""hloc's HDF5 form of global descriptors: image name -> group with the dataset ``global_descriptor``.

A name with slashes makes nested groups, as h5py does by itself and hloc relies on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import h5py
import numpy as np

from scrflow.errors import ScrflowError

DATASET = "global_descriptor"


def write_descriptors(file: h5py.File, descriptors: Mapping[str, np.ndarray]) -> None:
    """Add descriptors [dim] (float32) by image name to an open file."""
    for name, descriptor in descriptors.items():
        file.create_group(name).create_dataset(DATASET, data=np.asarray(descriptor, np.float32))


def read_descriptors(path: Path, names: Iterable[str]) -> np.ndarray:
    """Descriptors [len(names), dim] float32 from a file of hloc's form, in the order of ``names``.

    ScrflowError when the file cannot be read, names are missing (the first and how many), or dimensions differ.
    """
    names = list(names)
    if not Path(path).is_file():
        raise ScrflowError(f"{path}: file of global descriptors is missing; make it with hloc's extract_features")
    try:
        with h5py.File(path, "r") as f:
            missing = [n for n in names if not isinstance(f.get(f"{n}/{DATASET}"), h5py.Dataset)]
            if missing:
                raise ScrflowError(
                    f"{path}: no {DATASET} for {missing[0]} ({len(missing)} of {len(names)} images are missing); "
                    "names are those of the scene, relative to its image folder"
                )
            rows = [np.asarray(f[f"{n}/{DATASET}"], np.float32).reshape(-1) for n in names]
    except OSError as error:
        raise ScrflowError(f"{path}: not an HDF5 file ({error})") from None
    for name, row in zip(names, rows, strict=True):
        if row.shape != rows[0].shape:
            raise ScrflowError(f"{path}: {name} has {len(row)} dimensions, {names[0]} has {len(rows[0])}")
        if not np.isfinite(row).all():
            raise ScrflowError(f"{path}: {name}: descriptor is not finite")
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)
