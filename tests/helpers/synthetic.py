"""A small synthetic scene in buffer form: points with descriptors of their own, seen by cameras on an arc."""

from pathlib import Path

import numpy as np
import scenes
import scipy.sparse
import torch
from scipy.spatial.transform import Rotation

from scrflow.storage.artifact import Stamp, create_h5
from scrflow.training.buffer import Buffer, shard_range

IMAGES = 12
POINTS = 300


def scene(noise_px: float = 0.0, seed: int = 0, roll_copies: bool = True) -> tuple[Buffer, np.ndarray, np.ndarray]:
    """Buffer (a plain and a rolled copy an image), points [P, 3], and the point [N] of each sample."""
    rng = np.random.default_rng(seed)
    points = rng.uniform([-2, -1.5, 3], [2, 1.5, 6], (POINTS, 3))
    descriptors = rng.normal(size=(POINTS, 16))
    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    columns: dict[str, list] = {k: [] for k in ("descriptor", "pixel", "view", "image", "plain", "K", "cam_from_world")}
    point_of, views = [], 0
    for i in range(IMAGES):
        centre = np.array([-1.5 + 3 * i / (IMAGES - 1), 0.2 * np.sin(i), -0.3 * np.cos(i)])
        R = Rotation.from_euler("y", 12 - 24 * i / (IMAGES - 1), degrees=True).as_matrix()
        for copy in range(2 if roll_copies else 1):
            roll = Rotation.from_euler("z", 10.0 * copy, degrees=True).as_matrix()
            pose = roll @ np.c_[R, -R @ centre]
            xyz = points @ pose[:, :3].T + pose[:, 3]
            px = xyz[:, :2] / xyz[:, 2:] * 500 + [320, 240]
            seen = np.flatnonzero((px > 0).all(1) & (px < [640, 480]).all(1) & (xyz[:, 2] > 0.1))
            columns["descriptor"].append((descriptors[seen] + rng.normal(0, 0.05, (len(seen), 16))).astype(np.float16))
            columns["pixel"].append((px[seen] + rng.normal(0, noise_px, (len(seen), 2))).astype(np.float32))
            columns["view"].append(np.full(len(seen), views))
            columns["image"].append([i])
            columns["plain"].append([copy == 0])
            columns["K"].append(K[None])
            columns["cam_from_world"].append(pose[None])
            point_of.append(seen)
            views += 1
    tensors = {k: torch.from_numpy(np.concatenate(v)) for k, v in columns.items()}
    buffer = Buffer(names=tuple(f"{i:03d}.jpg" for i in range(IMAGES)), **tensors)
    return buffer, points, np.concatenate(point_of)


def full_graph(images: int = IMAGES) -> scipy.sparse.csr_array:
    """Everything overlaps with everything, near cameras more."""
    gap = np.abs(np.subtract.outer(np.arange(images), np.arange(images)))
    return scipy.sparse.csr_array(np.where(gap > 0, 1 - gap / images, 0.0))


def write_shards(buffer: Buffer, folder: Path, shards: int = 2) -> list[Path]:
    """The buffer as shard files."""
    paths = []
    image_of = buffer.image[buffer.view]
    for shard in range(shards):
        rows = shard_range(len(buffer.names), shards, shard)
        views = torch.tensor([int(i) in rows for i in buffer.image])
        samples = torch.tensor([int(i) in rows for i in image_of])
        path = folder / f"buffer-{shard}.h5"
        with create_h5(path, Stamp("buffer", {"shard": shard})) as f:
            for name in ("descriptor", "pixel"):
                f[name] = getattr(buffer, name)[samples].numpy()
            first = int(torch.nonzero(views)[0])
            f["view"] = (buffer.view[samples] - first).int().numpy()
            for name in ("image", "plain", "K", "cam_from_world"):
                f[name] = getattr(buffer, name)[views].numpy()
            f.attrs["names"] = list(buffer.names)
        paths.append(path)
    return paths


def write_graph(folder: Path) -> Path:
    """The full graph as an artifact."""
    return scenes.write_graph(folder / "covisibility.npz", full_graph(), (f"{i:03d}.jpg" for i in range(IMAGES)))


def write_encoding(folder: Path, dim: int = 8) -> Path:
    """A random global encoding."""
    path = folder / "node2vec.h5"
    with create_h5(path, Stamp("global-encoding")) as f:
        f["encoding"] = np.random.default_rng(5).normal(size=(IMAGES, dim)).astype(np.float32)
        f["names"] = [f"{i:03d}.jpg" for i in range(IMAGES)]
    return path
