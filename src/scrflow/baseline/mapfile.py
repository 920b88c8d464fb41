"""map.h5: one file with all that localizing a query by matching needs.

``names`` of the I mapping images; ``xyz`` [P, 3] float32, the points; of the O observations, ordered by image,
``start`` [I + 1] int64 (rows of image i: start[i] to start[i + 1]), ``point`` [O] int32, ``descriptors`` [O, D] uint8
or float16; for LightGlue ``pixels`` [O, 2] float32 and ``sizes`` [I, 2] int32; in ``retrieval`` the quantised index and
what describes a query. Attributes: the stamp, whose config says how to localize, ``format``, and ``weights`` (JSON,
name to SHA-256).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import torch

from scrflow.baseline.matching import PhotoFeatures
from scrflow.config import BaselineMapStage
from scrflow.core.errors import ScrflowError
from scrflow.features.retrieval.search import Retriever
from scrflow.map.format import check_index, stage_config
from scrflow.storage.artifact import Stamp, create_h5, open_h5, read_stamp
from scrflow.storage.untrusted import check_whole

KIND = "baseline-map"
FORMAT = 1
_FIX = "delete it and run again (rule map_baseline)"
_DTYPES = {"uint8": np.dtype(np.uint8), "fp16": np.dtype(np.float16)}


@dataclass(frozen=True, eq=False)
class BaselineMap:
    """A map in memory; the module's docstring has the shapes."""

    config: BaselineMapStage
    names: tuple[str, ...]
    xyz: np.ndarray
    start: np.ndarray
    point: np.ndarray
    descriptors: np.ndarray
    pixels: np.ndarray | None
    sizes: np.ndarray | None
    retriever: Retriever
    weights: Mapping[str, str] = field(default_factory=dict)

    def image(self, row: int) -> tuple[PhotoFeatures, np.ndarray]:
        """Features of a mapping image that observe a point, and the points [n] (rows of ``xyz``)."""
        part = slice(int(self.start[row]), int(self.start[row + 1]))
        pixels = np.zeros((part.stop - part.start, 2), np.float32) if self.pixels is None else self.pixels[part]
        size = (0, 0) if self.sizes is None else (int(self.sizes[row, 0]), int(self.sizes[row, 1]))
        return PhotoFeatures(pixels, self.descriptors[part], size), self.point[part]


def write_map(path: Path, result: BaselineMap, weights: Mapping[str, str], stamp: Stamp) -> None:
    """Write the file; ``weights``: SHA-256 of the published weights that made it, by name."""
    with create_h5(path, stamp) as f:
        f.attrs["format"] = FORMAT
        f.attrs["weights"] = json.dumps(weights, sort_keys=True)
        f["names"] = list(result.names)
        for name in ("xyz", "start", "point", "descriptors", "pixels", "sizes"):
            values = getattr(result, name)
            if values is not None:
                f[name] = values
        retrieval = f.create_group("retrieval")  # created implicitly it would contain the time
        for name, tensor in result.retriever.tensors().items():
            retrieval[name] = tensor.numpy()


def load_map(path: Path) -> BaselineMap:
    """The map of a file; ScrflowError if it is damaged, of another version, or its parts do not fit together."""
    stamp = read_stamp(path, KIND)
    config = stage_config(BaselineMapStage, path, stamp, _FIX)
    with open_h5(path, KIND) as f:
        try:
            if f.attrs.get("format") != FORMAT:
                raise ScrflowError(f"{path}: map format {f.attrs.get('format')}, this scrflow reads {FORMAT}; {_FIX}")
            check_whole(f, path)
            result = _read(f, config)
            _check(result)
        except (KeyError, ValueError, TypeError, OSError, RuntimeError, AttributeError, IndexError) as error:
            raise ScrflowError(f"{path}: not a whole map: {' '.join(str(error).split())}; {_FIX}") from None
    return result


def _read(f: h5py.File, config: BaselineMapStage) -> BaselineMap:
    names = tuple(f["names"].asstr()[:].tolist())
    tensors: dict[str, torch.Tensor] = {}

    def take(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            tensors[name] = torch.from_numpy(item[:])

    f["retrieval"].visititems(take)
    whole = config.matcher.kind == "lightglue"
    return BaselineMap(
        config=config,
        names=names,
        **{name: f[name][:] for name in ("xyz", "start", "point", "descriptors")},
        pixels=f["pixels"][:] if whole else None,
        sizes=f["sizes"][:] if whole else None,
        retriever=Retriever.from_tensors(tensors, {"retrieval_names": json.dumps(names)}),
        weights=json.loads(f.attrs["weights"]),
    )


def _check(m: BaselineMap) -> None:
    """ValueError that names the first part that does not fit."""
    images, observations = len(m.names), len(m.point)
    wanted = {"xyz": (len(m.xyz), 3), "start": (images + 1,), "point": (observations,)}
    wanted["descriptors"] = (observations, *m.descriptors.shape[1:2])
    if m.pixels is not None:
        wanted |= {"pixels": (observations, 2), "sizes": (images, 2)}
    for name, shape in wanted.items():
        if getattr(m, name).shape != shape:
            raise ValueError(f"{name} is {list(getattr(m, name).shape)}, not {list(shape)}")
    if m.descriptors.dtype != _DTYPES[m.config.features.descriptors]:
        raise ValueError(f"descriptors are {m.descriptors.dtype}, not {m.config.features.descriptors}")
    if m.start[0] != 0 or m.start[-1] != observations or (np.diff(m.start) < 0).any():
        raise ValueError(f"start does not divide the {observations} observations")
    if observations and (m.point.min() < 0 or m.point.max() >= len(m.xyz)):
        raise ValueError(f"an observation is of none of the {len(m.xyz)} points")
    if not np.isfinite(m.xyz).all():
        raise ValueError("xyz has numbers that are not finite")
    for name in ("pixels", "descriptors"):
        values = getattr(m, name)
        if values is not None and values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"{name} have numbers that are not finite")
    index = {f"retrieval.{name}": tensor for name, tensor in m.retriever.tensors().items()}
    if any(tensor.is_floating_point() and not tensor.isfinite().all() for tensor in index.values()):
        raise ValueError("the index has numbers that are not finite")
    check_index(m.config.retrieval, m.config.retrieval_parts, index, images)
    if index:
        raise ValueError(f"{next(iter(index))} is not known")
