"""The training buffer: local encodings of plain and augmented copies of the mapping images, in HDF5 shards.

A shard holds a contiguous range of the images (DESIGN: Stages): columns ``descriptor`` f16 [N, d], ``pixel`` f32 [N, 2]
(undistorted, in the pinhole image of the view) and ``view`` i32 [N], and a table of views. What a sample is depends on
image and copy alone, not on the number of shards.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scrflow.config import BufferStage
from scrflow.core.errors import ScrflowError
from scrflow.features.augment import Augmentation, rolled_pose
from scrflow.storage.artifact import Stamp, create_h5, open_h5
from scrflow.storage.codeversion import code_version

# the modules that only filling needs are imported there: training reads a buffer without pycolmap or an encoder


@dataclass(frozen=True)
class Buffer:
    """All samples of a scene. A view is one copy of one mapping image."""

    descriptor: torch.Tensor  # [N, d] float16
    pixel: torch.Tensor  # [N, 2] float32
    view: torch.Tensor  # [N] int64, ascending
    image: torch.Tensor  # [V] int64, row of the mapping image
    plain: torch.Tensor  # [V] bool, not augmented
    K: torch.Tensor  # [V, 3, 3] float64
    cam_from_world: torch.Tensor  # [V, 3, 4] float64
    names: tuple[str, ...]  # of the mapping images

    def rays(self) -> torch.Tensor:
        """Points [N, 3] float64 of the samples on the plane z = 1 of their view's camera."""
        K = self.K[self.view]
        xy = (self.pixel.double() - K[:, :2, 2]) / torch.stack([K[:, 0, 0], K[:, 1, 1]], 1)
        return torch.cat([xy, torch.ones(len(xy), 1, dtype=torch.float64)], 1)

    def centres(self) -> torch.Tensor:
        """Camera centres [V, 3] float64 of the views."""
        return camera_centres(self.cam_from_world)


def shard_range(images: int, shards: int, shard: int) -> range:
    """Rows of the mapping images in a shard; shards differ by one image at most. ValueError outside 0..shards-1."""
    if not 0 <= shard < shards:
        raise ValueError(f"shard {shard} of {shards}")
    return range(images * shard // shards, images * (shard + 1) // shards)


def fill_shard(config: BufferStage, scene: Path, pca: Path, shard: int, out: Path, threads: int) -> None:
    """Encode every copy of the shard's images and write the shard.

    Raises ScrflowError when an image yields no keypoint in any copy.
    """
    from scrflow.core.progress import track
    from scrflow.core.seeds import numpy_generator
    from scrflow.features.encoders import build_encoder, encoder_module
    from scrflow.features.pca import load_pca
    from scrflow.features.views import encode_view
    from scrflow.scene.model import load_scene

    s, projection, settings = load_scene(scene), load_pca(pca), config.buffer
    encoder = build_encoder(config.extractor)
    columns: dict[str, list[np.ndarray]] = {
        k: [] for k in ("descriptor", "pixel", "view", "image", "plain", "K", "cam_from_world")
    }
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
    code = code_version("training.buffer", encoder_module(config.extractor.name))
    stamp = Stamp.make("buffer", config, code, scene=scene / "scene.json", pca=pca, shard=str(shard))
    with create_h5(out, stamp) as f:
        for name, parts in columns.items():
            f[name] = np.concatenate(parts) if parts else np.zeros(0)
        f.attrs["names"] = [v.name for v in s.mapping]


@dataclass(frozen=True)
class BufferFiles:
    """A buffer whose samples stay on disk: the tables of its views, and where its rows are.

    Rows are numbered through the shards in their order. Not for several threads at once.
    """

    paths: tuple[Path, ...]
    first_row: tuple[int, ...]  # [shards + 1] rows before each shard, and their total
    first_view: tuple[int, ...]  # [shards + 1] views likewise
    dim: int  # of a descriptor
    image: torch.Tensor  # [V] int64, row of the mapping image
    plain: torch.Tensor  # [V] bool
    K: torch.Tensor  # [V, 3, 3] float64
    cam_from_world: torch.Tensor  # [V, 3, 4] float64
    names: tuple[str, ...]

    @classmethod
    def open(cls, shards: list[Path]) -> BufferFiles:
        """Read the tables of all shards. ScrflowError when shards are missing or of different makes."""
        paths = tuple(sorted(shards, key=lambda p: int(p.stem.rsplit("-", 1)[1])))
        tables: dict[str, list[np.ndarray]] = {k: [] for k in ("image", "plain", "K", "cam_from_world")}
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
        return cls(paths, tuple(first_row), tuple(first_view), dim, names=names or (), **joined)

    @property
    def rows(self) -> int:
        """Number of samples."""
        return self.first_row[-1]

    def centres(self) -> torch.Tensor:
        """Camera centres [V, 3] float64 of the views."""
        return camera_centres(self.cam_from_world)

    def load(self) -> Buffer:
        """All samples, in memory."""
        parts: dict[str, list[np.ndarray]] = {"descriptor": [], "pixel": [], "view": []}
        for shard, path in enumerate(self.paths):
            if self.first_row[shard + 1] > self.first_row[shard]:
                with open_h5(path, "buffer") as f:
                    parts["descriptor"].append(f["descriptor"][:])
                    parts["pixel"].append(f["pixel"][:])
                    parts["view"].append(f["view"][:].astype(np.int64) + self.first_view[shard])
        columns = {key: torch.from_numpy(np.concatenate(arrays)) for key, arrays in parts.items()}
        return Buffer(
            **columns,
            image=self.image,
            plain=self.plain,
            K=self.K,
            cam_from_world=self.cam_from_world,
            names=self.names,
        )


def load_buffer(shards: list[Path]) -> Buffer:
    """All shards of a scene, in memory. ScrflowError when shards are missing or of different makes."""
    return BufferFiles.open(shards).load()


def camera_centres(cam_from_world: torch.Tensor) -> torch.Tensor:
    """Camera centres [V, 3] of poses [V, 3, 4]."""
    R, t = cam_from_world[:, :, :3], cam_from_world[:, :, 3:]
    return -(R.transpose(1, 2) @ t)[:, :, 0]
