"""Depth of buffer samples from depth images, aligned with the photo or of a depth camera beside it.

Measured pixels become points in the photo's camera, drawn into a pinhole image of it, the nearest in front; a sample
takes the median of the 3 x 3 pixels about its ray. The distortion of a depth camera of its own is ignored.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pycolmap
import torch
from PIL import Image, UnidentifiedImageError

from scrflow.config import DepthMaps, MapDepthStage
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import rays_from_pixels, rescaled_camera
from scrflow.core.progress import log, track
from scrflow.depths.matched import SampleDepth, write_sample_depth
from scrflow.scene.model import Scene, load_scene
from scrflow.storage.artifact import sha256_file
from scrflow.storage.fetch import check_fetched
from scrflow.training.buffer import Buffer, load_buffer

_MODES = ("I;16", "I;16B", "I", "F")
_MIN_NEIGHBOURS = 5  # of the 3 x 3 pixels about a sample
_STOP_SHARE = 0.01  # of the samples in photos with a depth image; redkitchen has 0.71
_MAX_UNEVEN = 0.02  # relative difference of the aspect ratios of a photo and an aligned depth image


def depths_from_maps(config: MapDepthStage, scene: Path, root: Path, shards: list[Path], out: Path) -> None:
    """Write the depths of a buffer's samples (``write_sample_depth``). ``root`` is the folder of the scene's files.
    ScrflowError when no mapping photo has a depth image, one cannot be read, or hardly any sample gets a depth."""
    loaded, buffer = load_scene(scene), load_buffer(shards)
    if tuple(v.name for v in loaded.mapping) != buffer.names:
        raise ScrflowError(f"{scene}: of other mapping images than the buffer; run again from the scene")
    files = [root / config.maps.path_of(name) for name in buffer.names]
    held = [i for i, path in enumerate(files) if path.is_file()]
    if not held:
        raise ScrflowError(
            f"{files[0]}: no depth image, nor is there one of any other mapping photo; correct key depth_maps.pattern"
        )
    check_fetched(root, (files[i] for i in held))
    result = depths_of_samples(buffer, loaded, {i: files[i] for i in held}, config.maps)
    measured = torch.isin(buffer.image[buffer.view], torch.tensor(held))
    share = float(torch.isfinite(result.depth[measured]).float().mean())
    log.info("%d of %d photos have a depth image, and there %.1f %% of samples", len(held), len(files), 100 * share)
    if share < _STOP_SHARE:
        raise ScrflowError(
            f"{files[held[0]]}: this and the other depth images give {100 * share:.1f} % of the samples a depth; check "
            "depth_maps.scale, max_depth and focal"
        )
    content = "".join(f"{buffer.names[i]} {sha256_file(files[i])}\n" for i in held)
    maps = hashlib.sha256(content.encode()).hexdigest()[:16]
    write_sample_depth(out, result, "read_depth_maps", config, shards, scene=scene / "scene.json", maps=maps)


def depths_of_samples(buffer: Buffer, scene: Scene, files: dict[int, Path], config: DepthMaps) -> SampleDepth:
    """Depths of a buffer's samples by the depth images of the mapping photos (row -> file); no matches."""
    rays, start = buffer.rays().numpy(), np.searchsorted(buffer.view.numpy(), np.arange(len(buffer.image) + 1))
    depth = np.full(len(rays), np.nan, np.float32)
    sigma = np.full(len(rays), np.nan, np.float32)
    views_of = {i: np.flatnonzero(buffer.image.numpy() == i) for i in files}
    for image, path in track(list(files.items()), "depth images"):
        photo = scene.mapping[image]
        drawn = DrawnDepth.of(read_depth(path, config), photo.camera, config, path)
        for v in views_of[image]:
            rows = slice(start[v], start[v + 1])
            # the view is the photo rolled about its axis: turn its rays back
            turn = photo.cam_from_world[:, :3] @ buffer.cam_from_world[v, :, :3].numpy().T
            depth[rows], sigma[rows] = drawn.at((rays[rows] @ turn.T)[:, :2], config)
    none = torch.full((len(rays), 1), -1, dtype=torch.int64)
    return SampleDepth(torch.from_numpy(depth), torch.from_numpy(sigma), none)


def read_depth(path: Path, config: DepthMaps) -> np.ndarray:
    """The depth image [H, W] in the scene's unit, NaN where nothing was measured; ScrflowError if it is not one."""
    try:
        with Image.open(path) as image:
            mode, raw = image.mode, np.asarray(image, np.float32)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ScrflowError(f"{path}: depth image cannot be read ({error}); replace or remove it") from None
    if mode not in _MODES:
        raise ScrflowError(
            f"{path}: expected a depth image of one channel of 16 or 32 bits, found mode {mode}; convert it"
        )
    depth = raw * config.scale
    return np.where((raw > 0) & (depth < config.max_depth), depth, np.nan).astype(np.float32)


@dataclass(frozen=True)
class DrawnDepth:
    """Depths seen from the photo's camera, in a pinhole image: cell = floor(focal * ray - origin)."""

    depth: np.ndarray  # [H + 2, W + 2] float32, NaN where nothing is; a border of one cell
    focal: float
    origin: np.ndarray  # [2]

    @classmethod
    def of(cls, depth_HW: np.ndarray, camera: pycolmap.Camera, config: DepthMaps, path: Path) -> Self:
        """Draw a depth image into the camera of its photo, at the depth image's own resolution."""
        height, width = depth_HW.shape
        y, x = np.nonzero(np.isfinite(depth_HW))
        z = depth_HW[y, x].astype(np.float64)
        pixels = np.column_stack([x, y]) + 0.5
        if config.focal is None:
            if abs(width / height * camera.height / camera.width - 1) > _MAX_UNEVEN:
                raise ScrflowError(
                    f"{path}: {width} x {height} px, the photo {camera.width} x {camera.height}: they are not aligned; "
                    "give depth_maps.focal if it comes from a camera of its own"
                )
            aligned = rescaled_camera(camera, width, height)
            focal, rays = aligned.mean_focal_length(), rays_from_pixels(aligned, pixels)
        else:
            centre = np.array(config.principal_point or (width / 2, height / 2))
            xy = (pixels - centre) / config.focal * z[:, None] + config.photo_from_depth[:2]
            z = z + config.photo_from_depth[2]
            focal, rays = config.focal, xy / z[:, None]
        usable = np.isfinite(rays).all(1) & (z > 0)
        rays, z = rays[usable], z[usable]
        if not len(z):
            return cls(np.full((3, 3), np.nan, np.float32), focal, np.zeros(2))
        origin = np.floor(focal * rays.min(0)) - 1
        column, row = (focal * rays - origin).astype(np.int64).T
        drawn = np.full((row.max() + 2, column.max() + 2), np.inf, np.float32)
        np.minimum.at(drawn, (row, column), z.astype(np.float32))
        return cls(np.where(np.isfinite(drawn), drawn, np.nan), focal, origin)

    def at(self, rays_N2: np.ndarray, config: DepthMaps) -> tuple[np.ndarray, np.ndarray]:
        """Depth and relative sigma [N] at points of the plane z = 1; NaN outside, by holes and at edges."""
        height, width = self.depth.shape
        cell = np.floor(self.focal * rays_N2 - self.origin)
        inside = ((cell >= 1) & (cell <= [width - 2, height - 2])).all(1)
        column, row = np.where(inside[:, None], cell, 1).astype(np.int64).T
        around = np.stack([self.depth[row + i, column + j] for i in (-1, 0, 1) for j in (-1, 0, 1)], 1)
        known = inside & (np.isfinite(around).sum(1) >= _MIN_NEIGHBOURS)
        around = np.where(known[:, None], around, 1.0)
        middle = np.nanmedian(around, axis=1)
        step = (np.nanmax(around, axis=1) - np.nanmin(around, axis=1)) / middle
        known &= step < config.max_relative_step
        sigma = np.hypot(config.relative_sigma, step / 2)
        return np.where(known, middle, np.nan), np.where(known, sigma, np.nan)
