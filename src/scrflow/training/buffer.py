"""The training buffer: local encodings of plain and augmented copies of the mapping images, in HDF5 shards.

A shard holds the copies of a contiguous range of the images: columns ``descriptor`` f16 [N, d], ``pixel`` f32 [N, 2]
(undistorted, in the pinhole image of the view) and ``view`` i32 [N], and a table of the views, that is, copies of
images. A sample depends on its image and copy alone, not on the number of shards.
"""

from __future__ import annotations

import math
import mmap
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import torch
from torch import Tensor

from scrflow.config import BufferConfig, BufferStage
from scrflow.core.errors import ScrflowError
from scrflow.core.seeds import numpy_generator
from scrflow.pipeline.stages import code_of
from scrflow.storage.artifact import Stamp, create_h5, open_h5

if TYPE_CHECKING:
    from PIL.Image import Image

    from scrflow.features.views import PhotoCopy
    from scrflow.scene.model import Scene

# fill_shard imports what it alone needs: training reads a buffer without pycolmap and without an encoder

SAMPLE_DEPTH = "sample-depth"  # kind of the file with the samples' depths (scrflow.depths)
COLUMNS = ("descriptor", "pixel", "view")  # of a shard
_TABLES = ("image", "plain", "K", "cam_from_world")
_IN_ROLLED = 1.5  # keypoints found in a rolled copy, mirrored border and all, to have as many as are wanted inside
_GATHER_ROWS = 1 << 13  # rows of a mapped file that are read before its pages are given back


def shard_range(images: int, shards: int, shard: int) -> range:
    """Rows of the mapping images in a shard; ValueError outside 0..shards-1."""
    if not 0 <= shard < shards:
        raise ValueError(f"shard {shard} of {shards}")
    return range(images * shard // shards, images * (shard + 1) // shards)


def copies_of(settings: BufferConfig, scene: Scene, seed: int) -> list[int]:
    """Copies of each mapping image. With fill ``rooms`` they are dealt evenly to the rooms of a combined scene, and to
    the images of each room; GLACE's code draws images with replacement, which gives the same in the mean."""
    names = [view.name for view in scene.mapping]
    if settings.fill != "rooms" or settings.max_samples is None:
        return [int(settings.copies(len(names)))] * len(names)
    rooms: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        rooms[scene.parts.get(name, "")].append(row)
    total, counts = -(-settings.max_samples // settings.samples_per_copy), [0] * len(names)
    for number, (room, rows) in enumerate(sorted(rooms.items())):
        share = total * (number + 1) // len(rooms) - total * number // len(rooms)
        each, more = divmod(share, len(rows))
        order = numpy_generator(seed, "buffer.rooms", room).permutation(rows)
        for place, row in enumerate(order.tolist()):
            counts[row] = each + (place < more)
    # every image has a place in the buffer
    return [min(max(1, count), settings.plain_copies + settings.augmented_copies) for count in counts]


def fill_shard(config: BufferStage, scene: Path, pca: Path, shard: int, out: Path, threads: int) -> None:
    """Encode every copy of the shard's images and write the shard; ScrflowError for an image without any keypoint."""
    from scrflow.core.device import device_for
    from scrflow.core.parallel import read_ahead
    from scrflow.core.progress import track
    from scrflow.features.encoders import build_encoder
    from scrflow.features.networks import device_of
    from scrflow.features.pca import load_pca
    from scrflow.features.views import Augmentation, PhotoCopy, encode_views, rolled_pose
    from scrflow.scene.model import load_scene

    s, settings, extractor = load_scene(scene), config.buffer, config.extractor
    rows, counts = shard_range(len(s.mapping), config.shards, shard), copies_of(settings, s, config.seed)
    wanted, drawn = settings.samples(len(s.mapping)), settings.draw == "random"
    if drawn:  # among the best keypoints that lie in the photo
        extractor = extractor.model_copy(update={"max_keypoints": math.ceil(_IN_ROLLED * extractor.max_keypoints)})
    encoder = build_encoder(extractor, device_for())
    device, published = device_of(encoder), settings.augment.kind == "published"
    projection = load_pca(pca).to(device)

    def photo(row: int) -> Image | PhotoCopy:
        view = s.mapping[row]
        image = s.photo(view.name)
        return image if published else PhotoCopy.of(image, view.camera, encoder, extractor.short_side)

    def sources() -> Iterator[tuple[int, int, Image | PhotoCopy]]:
        for row, image in zip(rows, read_ahead(photo, rows, threads, device), strict=True):
            yield from ((row, copy, image) for copy in range(counts[row]))

    def copy_of(source: tuple[int, int, Image | PhotoCopy]) -> PhotoCopy:
        row, copy, image = source
        view, a = s.mapping[row], None
        if copy >= settings.plain_copies:
            a = Augmentation.draw(settings.augment, numpy_generator(config.seed, "buffer", view.name, copy))
        if isinstance(image, PhotoCopy):
            return replace(image, augmentation=a)
        return PhotoCopy.resized_once(image, view.camera, encoder, extractor.short_side, a)

    encoded = encode_views(
        read_ahead(copy_of, sources(), threads, device), encoder, config.extractor.max_keypoints if drawn else wanted
    )
    columns: dict[str, list[np.ndarray]] = {name: [] for name in (*COLUMNS, *_TABLES)}
    views = 0
    for row in track(rows, f"buffer shard {shard}"):
        mapped, found = s.mapping[row], 0
        for copy in range(counts[row]):
            view = next(encoded)
            if drawn:
                chance = numpy_generator(config.seed, "buffer.draw", mapped.name, copy)
                view = view.some(np.sort(chance.permutation(len(view.pixels))[:wanted]))
            found += len(view.pixels)
            columns["descriptor"].append(projection(view.descriptors).half().cpu().numpy())
            columns["pixel"].append(view.pixels.astype(np.float32))
            columns["view"].append(np.full(len(view.pixels), views, np.int32))
            columns["image"].append(np.array([row], np.int32))
            columns["plain"].append(np.array([copy < settings.plain_copies]))
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

    @property
    def rows(self) -> int:
        """Number of samples."""
        return self.first_row[-1]

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
    def dim(self) -> int:
        """Length of a descriptor."""
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

    def read(self, shard: int, start: int, stop: int, names: Sequence[str] = COLUMNS) -> dict[str, Tensor]:
        """Columns of rows start..stop of a shard; ``matches`` are rows of the whole buffer."""
        return {name: getattr(self, name)[start:stop] for name in names}

    def read_ranges(
        self, ranges: Sequence[tuple[int, int, int]], names: Sequence[str] = COLUMNS, pinned: bool = False
    ) -> dict[str, Tensor]:
        """Columns of several ranges (shard, start, stop), one after another."""
        parts = [self.read(*part, names) for part in ranges]
        joined = {name: torch.cat([part[name] for part in parts]) for name in names}
        return {name: values.pin_memory() for name, values in joined.items()} if pinned else joined

    def descriptors(self, rows: Tensor) -> Tensor:
        """Descriptors [n, d] float16 of any rows [n]."""
        return self.descriptor[rows]


@dataclass(frozen=True)
class BufferFiles(Views):
    """A buffer whose samples stay on disk. Its rows are numbered through the shards in their order."""

    paths: tuple[Path, ...]
    columns: tuple[dict[str, _Column], ...]  # of each shard; of one without images there are none
    first_row: tuple[int, ...]  # [shards + 1] rows before each shard, and all rows
    first_view: tuple[int, ...]  # [shards + 1] views likewise
    depth: dict[str, _Column] | None = None  # columns of the samples' depths and matches

    @classmethod
    def open(cls, shards: Sequence[Path], depth: Path | None = None) -> BufferFiles:
        """Read the tables of all shards; ScrflowError when shards and ``depth`` are not of the same, whole buffer."""
        paths = tuple(sorted(shards, key=lambda p: int(p.stem.rsplit("-", 1)[1])))
        tables: dict[str, list[np.ndarray]] = {name: [] for name in _TABLES}
        columns, first_row, first_view, names = [], [0], [0], None
        for path in paths:
            with open_h5(path, "buffer") as f:
                here, views = tuple(f.attrs["names"]), len(f["image"])
                if names not in (None, here):
                    raise ScrflowError(
                        f"{path}: made from other mapping images than the shards before it; run again from the scene"
                    )
                names = here
                columns.append({name: _Column(path, f[name]) for name in COLUMNS} if views else {})
                for key, parts in tables.items():
                    parts += [f[key][:]] if views else []
                first_row.append(first_row[-1] + (len(f["view"]) if views else 0))
                first_view.append(first_view[-1] + views)
        joined = {key: torch.from_numpy(np.concatenate(parts)) for key, parts in tables.items() if parts}
        if not joined or len(torch.unique(joined["image"])) != len(names or ()):
            raise ScrflowError(
                f"{shards[0].parent}: the buffer's shards do not hold every mapping image; delete them and run again"
            )
        joined["image"] = joined["image"].long()
        of_depth = None
        if depth is not None:
            with open_h5(depth, SAMPLE_DEPTH) as f:
                if len(f["depth"]) != first_row[-1]:
                    raise ScrflowError(
                        f"{depth}: for a buffer of {len(f['depth'])} samples, this one has {first_row[-1]}; "
                        "delete it and run again"
                    )
                of_depth = {name: _Column(depth, f[name]) for name in f}
        rows = {"first_row": tuple(first_row), "first_view": tuple(first_view)}
        return cls(**joined, **rows, names=names or (), paths=paths, columns=tuple(columns), depth=of_depth)

    @property
    def dim(self) -> int:
        """Length of a descriptor."""
        return next(columns["descriptor"].shape[1] for columns in self.columns if columns)

    @property
    def match_count(self) -> int:
        """M, the places for matches of a sample."""
        return 0 if self.depth is None else self.depth["matches"].shape[1]

    def read(self, shard: int, start: int, stop: int, names: Sequence[str] = COLUMNS) -> dict[str, Tensor]:
        """Columns of rows start..stop of a shard, as those of ``Buffer`` but for ``view`` int32; ``matches`` are rows
        of the whole buffer."""
        return self.read_ranges([(shard, start, stop)], names)

    def read_ranges(
        self, ranges: Sequence[tuple[int, int, int]], names: Sequence[str] = COLUMNS, pinned: bool = False
    ) -> dict[str, Tensor]:
        """Columns of several ranges (shard, start, stop), one after another; ``pinned``: in memory that a GPU copies
        from by itself. Threads may call this side by side."""
        count, rows = sum(stop - start for _, start, stop in ranges), {}
        for name in names:
            like = next(columns for columns in self.columns if columns) if name in COLUMNS else self.depth
            rows[name] = torch.empty((count, *like[name].shape[1:]), dtype=like[name].dtype, pin_memory=pinned)
            begin = 0
            for shard, start, stop in ranges:
                part = rows[name][begin : begin + stop - start]
                begin += stop - start
                if name in COLUMNS:
                    self.columns[shard][name].read(start, part)
                else:
                    self.depth[name].read(self.first_row[shard] + start, part)
                if name == "view":
                    part += self.first_view[shard]
        return rows

    def descriptors(self, rows: Tensor) -> Tensor:
        """Descriptors [n, d] float16 of any rows [n], whatever their shard."""
        found = torch.empty(len(rows), self.dim, dtype=torch.float16)
        shard = torch.searchsorted(torch.tensor(self.first_row), rows, right=True) - 1
        for number in torch.unique(shard).tolist():
            chosen = torch.nonzero(shard == number).flatten()
            found[chosen] = self.columns[number]["descriptor"].gather(rows[chosen] - self.first_row[number])
        return found


class _Column:
    """A column of an HDF5 file, read at its place in the file: for small ranges in half of the time that HDF5 takes."""

    def __init__(self, path: Path, data: h5py.Dataset):
        self.shape, self._dtype, self._offset = data.shape, data.dtype, data.id.get_offset()
        self.dtype = torch.from_numpy(np.empty(0, self._dtype)).dtype
        self._path, self._name = path, data.name.lstrip("/")
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed with the column)
        if self._offset is None or self._offset + data.nbytes > path.stat().st_size:
            raise ScrflowError(f"{path}: {self._name} does not lie in the file in one piece; delete it and run again")
        self._mapped: tuple[mmap.mmap, Tensor] | None = None

    def read(self, start: int, out: Tensor) -> None:
        """Rows from ``start`` on into ``out`` [n, ...], which is contiguous."""
        place = self._offset + start * math.prod(self.shape[1:]) * self._dtype.itemsize
        left = memoryview(out.numpy().reshape(-1).view(np.uint8))
        while left:
            count = os.preadv(self._file.fileno(), [left], place)
            if count == 0:
                raise ScrflowError(f"{self._path}: ends within {self._name}; delete it and run again")
            left, place = left[count:], place + count

    def gather(self, rows: Tensor) -> Tensor:
        """Rows [n, ...] of any order. The file's pages are given back: they would count as memory of the training."""
        if self._mapped is None:
            with open(self._path, "rb") as f:
                held = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)  # torch takes none that is read-only
            held.madvise(mmap.MADV_RANDOM)
            flat = np.frombuffer(held, self._dtype, math.prod(self.shape), self._offset)
            self._mapped = held, torch.from_numpy(flat.reshape(self.shape))
        held, column = self._mapped
        order = torch.argsort(rows)
        found = torch.empty(len(rows), *self.shape[1:], dtype=column.dtype)
        for part in order.split(_GATHER_ROWS):
            found[part] = column.index_select(0, rows[part])
            held.madvise(mmap.MADV_DONTNEED)
        return found


def pieces(buffer: Buffer | BufferFiles, rows: int, every: int = 1) -> Iterator[dict[str, Tensor]]:
    """Columns, as ``read`` gives them, of every n-th run of ``rows`` rows of each shard."""
    for shard in range(len(buffer.paths)):
        count = buffer.first_row[shard + 1] - buffer.first_row[shard]
        for start in range(0, count, rows * every):
            yield buffer.read(shard, start, min(start + rows, count))


def load_buffer(shards: Sequence[Path]) -> Buffer:
    """All shards of a scene in memory: N samples of V views. ScrflowError when shards are missing or of different
    mapping images."""
    files = BufferFiles.open(shards)
    parts = list(pieces(files, files.rows))
    columns = {name: torch.cat([part[name] for part in parts]) for name in COLUMNS}
    columns["view"] = columns["view"].long()
    return Buffer(**{name: getattr(files, name) for name in (*_TABLES, "names")}, **columns)
