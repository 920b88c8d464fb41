"""The training buffer: local encodings of plain and augmented copies of the mapping images, in HDF5 shards.

A shard holds the copies of a contiguous range of the images: columns ``descriptor`` f16 [N, d], ``pixel`` f32 [N, 2]
(undistorted, in the pinhole image of the view) and ``view`` i32 [N], and a table of the views, that is, copies of
images. A sample depends on its image and copy alone, not on the number of shards.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scrflow.config import BufferStage
from scrflow.core.errors import ScrflowError
from scrflow.pipeline.stages import code_of
from scrflow.storage.artifact import Stamp, create_h5, open_h5

# fill_shard imports what it alone needs: training reads a buffer without pycolmap and without an encoder

SAMPLE_DEPTH = "sample-depth"  # kind of the file with the samples' depths (scrflow.depths)
_COLUMNS, _TABLES = ("descriptor", "pixel", "view"), ("image", "plain", "K", "cam_from_world")
_GATHER_ROWS = 1 << 13  # rows of a mapped file that are read before its pages are given back


def shard_range(images: int, shards: int, shard: int) -> range:
    """Rows of the mapping images in a shard; ValueError outside 0..shards-1."""
    if not 0 <= shard < shards:
        raise ValueError(f"shard {shard} of {shards}")
    return range(images * shard // shards, images * (shard + 1) // shards)


def fill_shard(config: BufferStage, scene: Path, pca: Path, shard: int, out: Path, threads: int) -> None:
    """Encode every copy of the shard's images and write the shard; ScrflowError for an image without any keypoint."""
    from scrflow.core.progress import track
    from scrflow.core.seeds import numpy_generator
    from scrflow.features.encoders import build_encoder
    from scrflow.features.pca import load_pca
    from scrflow.features.views import Augmentation, encode_view, rolled_pose
    from scrflow.scene.model import load_scene

    s, projection, settings = load_scene(scene), load_pca(pca), config.buffer
    encoder = build_encoder(config.extractor)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in (*_COLUMNS, *_TABLES)}
    views = 0
    for row in track(shard_range(len(s.mapping), config.shards, shard), f"buffer shard {shard}"):
        mapped = s.mapping[row]
        photo = s.photo(mapped.name)
        found = 0
        for copy in range(settings.copies(len(s.mapping))):
            rng = numpy_generator(config.seed, "buffer", mapped.name, copy)
            plain = copy < settings.plain_copies
            augmentation = None if plain else Augmentation.draw(settings.augment, rng)
            view = encode_view(
                photo, mapped.camera, encoder, config.extractor.short_side, settings.samples_per_copy, augmentation
            )
            found += len(view.pixels)
            columns["descriptor"].append(projection(view.descriptors).half().numpy())
            columns["pixel"].append(view.pixels.astype(np.float32))
            columns["view"].append(np.full(len(view.pixels), views, np.int32))
            columns["image"].append(np.array([row], np.int32))
            columns["plain"].append(np.array([plain]))
            columns["K"].append(view.K[None])
            columns["cam_from_world"].append(rolled_pose(mapped.cam_from_world, view.roll)[None])
            views += 1
        if not found:
            raise ScrflowError(f"{s.image_path(mapped.name)}: no keypoint found; take the image off the mapping list")
    code = code_of("fill_buffer", config)
    stamp = Stamp.make("buffer", config, code, scene=scene / "scene.json", pca=pca, shard=str(shard))
    with create_h5(out, stamp) as f:
        for name, parts in columns.items():
            f[name] = np.concatenate(parts) if parts else np.zeros(0)
        f.attrs["names"] = [v.name for v in s.mapping]


@dataclass(frozen=True)
class Views:
    """The copies of mapping images that samples are of."""

    image: Tensor  # [V] int64, row of the mapping image
    plain: Tensor  # [V] bool, not augmented
    K: Tensor  # [V, 3, 3] float64
    cam_from_world: Tensor  # [V, 3, 4] float64
    names: tuple[str, ...]  # of the mapping images

    def centres(self) -> Tensor:
        """Camera centres [V, 3] float64."""
        R, t = self.cam_from_world[:, :, :3], self.cam_from_world[:, :, 3:]
        return -(R.transpose(1, 2) @ t)[:, :, 0]


@dataclass(frozen=True)
class Buffer(Views):
    """All samples of a scene, in memory: one shard for training."""

    descriptor: Tensor  # [N, d] float16
    pixel: Tensor  # [N, 2] float32
    view: Tensor  # [N] int64; ascending where the depths of samples are looked for
    depth: Tensor | None = None  # [N] float32, NaN where unknown
    relative_sigma: Tensor | None = None  # [N] float32, of the depth for 1 px of noise
    matches: Tensor | None = None  # [N, M] int, other samples of the same 3D point, -1 for none

    paths = ("samples",)

    @property
    def first_row(self) -> tuple[int, int]:
        """Rows before the shard, and all rows."""
        return 0, len(self.view)

    @property
    def rows(self) -> int:
        """Number of samples."""
        return len(self.view)

    @property
    def dim(self) -> int:
        """Of a descriptor."""
        return self.descriptor.shape[1]

    def rays(self) -> Tensor:
        """Points [N, 3] float64 of the samples on the plane z = 1 of their view's camera."""
        K = self.K[self.view]
        xy = (self.pixel.double() - K[:, :2, 2]) / torch.stack([K[:, 0, 0], K[:, 1, 1]], 1)
        return torch.cat([xy, torch.ones(len(xy), 1, dtype=torch.float64)], 1)

    @property
    def match_count(self) -> int:
        """M, the places for matches of a sample."""
        return 0 if self.matches is None else self.matches.shape[1]

    def read(self, shard: int, start: int, stop: int, depth: bool = False, matches: bool = False) -> dict[str, Tensor]:
        """Columns of rows start..stop of a shard; ``matches`` are rows of the whole buffer."""
        names = (*_COLUMNS, *(("depth", "relative_sigma") if depth else ()), *(("matches",) if matches else ()))
        return {name: getattr(self, name)[start:stop] for name in names}

    def descriptors(self, rows: Tensor) -> Tensor:
        """Descriptors [n, d] float16 of any rows [n]."""
        return self.descriptor[rows]

    def close(self) -> None:
        """Nothing to close."""


@dataclass(frozen=True)
class BufferFiles(Views):
    """A buffer whose samples stay on disk. Its rows are numbered through the shards in their order."""

    paths: tuple[Path, ...]
    first_row: tuple[int, ...]  # [shards + 1] rows before each shard, and all rows
    first_view: tuple[int, ...]  # [shards + 1] views likewise
    dim: int  # of a descriptor
    depth: Path | None = None  # the samples' depths and matches
    match_count: int = 0  # M, the places for matches of a sample
    _columns: dict[Path, dict[str, _Column]] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def open(cls, shards: Sequence[Path], depth: Path | None = None) -> BufferFiles:
        """Read the tables of all shards; ScrflowError when shards and ``depth`` are not of the same, whole buffer."""
        paths = tuple(sorted(shards, key=lambda p: int(p.stem.rsplit("-", 1)[1])))
        tables: dict[str, list[np.ndarray]] = {name: [] for name in _TABLES}
        first_row, first_view, names, dim = [0], [0], None, 0
        for path in paths:
            with open_h5(path, "buffer") as f:
                here = tuple(f.attrs["names"])
                if names not in (None, here):
                    raise ScrflowError(
                        f"{path}: made from other mapping images than the shards before it; run again from the scene"
                    )
                names, views = here, len(f["image"])
                if views:
                    for key, parts in tables.items():
                        parts.append(f[key][:])
                    dim = f["descriptor"].shape[1]
                first_row.append(first_row[-1] + (len(f["view"]) if views else 0))
                first_view.append(first_view[-1] + views)
        joined = {key: torch.from_numpy(np.concatenate(parts)) for key, parts in tables.items() if parts}
        if not joined or len(torch.unique(joined["image"])) != len(names or ()):
            raise ScrflowError(
                f"{shards[0].parent}: the buffer's shards do not hold every mapping image; delete them and run again"
            )
        joined["image"] = joined["image"].long()
        match_count = 0
        if depth is not None:
            with open_h5(depth, SAMPLE_DEPTH) as f:
                match_count = f["matches"].shape[1]
                if len(f["depth"]) != first_row[-1]:
                    raise ScrflowError(
                        f"{depth}: for a buffer of {len(f['depth'])} samples, this one has {first_row[-1]}; "
                        "delete it and run again"
                    )
        return cls(
            **joined,
            names=names or (),
            paths=paths,
            first_row=tuple(first_row),
            first_view=tuple(first_view),
            dim=dim,
            depth=depth,
            match_count=match_count,
        )

    @property
    def rows(self) -> int:
        """Number of samples."""
        return self.first_row[-1]

    def load(self) -> Buffer:
        """All samples, in memory."""
        shards = [s for s in range(len(self.paths)) if self.first_row[s + 1] > self.first_row[s]]
        parts = [self.read(shard, 0, self.first_row[shard + 1] - self.first_row[shard]) for shard in shards]
        self.close()
        columns = {name: torch.cat([part[name] for part in parts]) for name in _COLUMNS}
        columns["view"] = columns["view"].long()
        return Buffer(**{name: getattr(self, name) for name in (*_TABLES, "names")}, **columns)

    def read(self, shard: int, start: int, stop: int, depth: bool = False, matches: bool = False) -> dict[str, Tensor]:
        """Columns of rows start..stop of a shard, on the CPU; ``matches`` are rows of the whole buffer."""
        held = self._opened(self.paths[shard], "buffer", _COLUMNS)
        rows = {name: held[name].rows(start, stop) for name in _COLUMNS}
        rows["view"] = rows["view"].int() + self.first_view[shard]
        names = (*(("depth", "relative_sigma") if depth else ()), *(("matches",) if matches else ()))
        if names:
            held = self._opened(self.depth, SAMPLE_DEPTH, ("depth", "relative_sigma", "matches"))
            first = self.first_row[shard]
            rows |= {name: held[name].rows(first + start, first + stop) for name in names}
        return rows

    def descriptors(self, rows: Tensor) -> Tensor:
        """Descriptors [n, d] float16 of any rows [n], whatever their shard."""
        found = torch.empty(len(rows), self.dim, dtype=torch.float16)
        shard = torch.searchsorted(torch.tensor(self.first_row), rows, right=True) - 1
        for number in torch.unique(shard).tolist():
            column = self._opened(self.paths[number], "buffer", _COLUMNS)["descriptor"]
            chosen = torch.nonzero(shard == number).flatten()
            found[chosen] = column.gather(rows[chosen] - self.first_row[number])
        return found

    def _opened(self, path: Path, kind: str, names: tuple[str, ...]) -> dict[str, _Column]:
        with self._lock:  # each stream has a thread of its own
            if path not in self._columns:
                with open_h5(path, kind) as f:
                    self._columns[path] = {name: _Column(path, f[name], name) for name in names}
            return self._columns[path]

    def close(self) -> None:
        """Close the files."""
        for columns in self._columns.values():
            for column in columns.values():
                column.close()
        self._columns.clear()


class _Column:
    """A column of an HDF5 file, read at its place in the file: for small ranges in half of the time that HDF5 takes."""

    def __init__(self, path: Path, data, name: str):
        self._shape, self._dtype, self._offset = data.shape, data.dtype, data.id.get_offset()
        self._row_bytes = self._dtype.itemsize * math.prod(self._shape[1:])
        self._fd = os.open(path, os.O_RDONLY)
        end = os.fstat(self._fd).st_size
        if self._offset is None or self._offset + self._row_bytes * len(data) > end:
            os.close(self._fd)
            raise ScrflowError(f"{path}: {name} does not lie in the file in one piece; delete it and run again")
        self._path, self._name = path, name
        self._mapped: tuple[mmap.mmap, Tensor] | None = None

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start..stop."""
        values = np.empty((stop - start, *self._shape[1:]), self._dtype)
        rest, place = memoryview(values).cast("B"), self._offset + start * self._row_bytes
        while len(rest):
            count = os.preadv(self._fd, [rest], place)  # at most 2 GiB
            if count == 0:
                raise ScrflowError(f"{self._path}: ends within {self._name}; delete it and run again")
            rest, place = rest[count:], place + count
        return torch.from_numpy(values)

    def gather(self, rows: Tensor) -> Tensor:
        """Single rows [n] int64, in any order; the file's pages are given back, as they count as memory of the
        training."""
        if self._mapped is None:
            held = mmap.mmap(self._fd, 0, access=mmap.ACCESS_COPY)  # torch takes none that is read-only
            held.madvise(mmap.MADV_RANDOM)
            flat = np.frombuffer(held, self._dtype, math.prod(self._shape), self._offset)
            self._mapped = held, torch.from_numpy(flat.reshape(self._shape))
        held, column = self._mapped
        order = torch.argsort(rows)
        found = torch.empty(len(rows), *self._shape[1:], dtype=column.dtype)
        for part in order.split(_GATHER_ROWS):
            found[part] = column.index_select(0, rows[part])
            held.madvise(mmap.MADV_DONTNEED)
        return found

    def close(self) -> None:
        """Close the file; its mapping goes with the last tensor on it."""
        os.close(self._fd)
        self._mapped = None


def load_buffer(shards: Sequence[Path]) -> Buffer:
    """All shards of a scene, in memory. ScrflowError when shards are missing or of different mapping images."""
    return BufferFiles.open(shards).load()
