"""Encoding one photo, plain or augmented: keypoints, undistorted into the pinhole image of a view, and descriptors.

An augmented copy is rotated in the image plane, scaled, and changed in colour (GLACE sec. B), as by a camera rolled
about its axis with a scaled focal length. Keypoints are undistorted in the photo, and their rays rolled.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import pycolmap
import torch
import torch.nn.functional as F
from PIL import Image

from scrflow.config import AugmentConfig
from scrflow.core.geometry import pinhole_matrix, pinhole_pixels, rays_from_pixels, rescaled_camera
from scrflow.core.parallel import batched, mapped, read_ahead
from scrflow.features.encoders import LocalEncoder, LocalFeatures
from scrflow.features.networks import AHEAD, device_of, encode_images, image_for, resized_for
from scrflow.scene.model import Scene


@dataclass(frozen=True)
class EncodedView:
    """Keypoints of one (augmented) photo. ``roll`` turns the photo's camera into the view's (rotation about z)."""

    pixels: np.ndarray  # [N, 2] float64, undistorted, in the image of K
    descriptors: torch.Tensor  # [N, D] float32, on the encoder's device
    K: np.ndarray  # [3, 3]
    roll: float

    def some(self, keep: np.ndarray) -> Self:
        """These keypoints alone."""
        chosen = torch.from_numpy(keep).to(self.descriptors.device)
        return replace(self, pixels=self.pixels[keep], descriptors=self.descriptors[chosen])


@dataclass(frozen=True)
class Augmentation:
    """One draw: roll in radians (x towards y), scale, and photometric factors."""

    roll: float = 0.0
    scale: float = 1.0
    brightness: float = 0.0  # added
    gain: float = 1.0  # factor of brightness
    contrast: float = 1.0  # factor about the mean
    saturation: float = 1.0  # factor about the grey value
    hue: float = 0.0  # rotation of the colour plane, in turns
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"  # of the roll

    @classmethod
    def draw(cls, config: AugmentConfig, rng: np.random.Generator) -> Self:
        """A random augmentation; the scale is log-uniform, or uniform in published ones."""
        if config.kind == "published":
            return cls(
                roll=float(np.radians(rng.uniform(-config.rotation_deg, config.rotation_deg))),
                scale=float(rng.uniform(*config.scale)),
                gain=float(1 + rng.uniform(-config.brightness, config.brightness)),
                contrast=float(1 + rng.uniform(-config.contrast, config.contrast)),
                interpolation="bilinear",
            )
        low, high = np.log(config.scale)
        return cls(
            roll=float(np.radians(rng.uniform(-config.rotation_deg, config.rotation_deg))),
            scale=float(np.exp(rng.uniform(low, high))),
            brightness=float(rng.uniform(-config.brightness, config.brightness)),
            contrast=float(1 + rng.uniform(-config.contrast, config.contrast)),
            saturation=float(1 + rng.uniform(-config.saturation, config.saturation)),
            hue=float(rng.uniform(-config.hue, config.hue)),
        )


def encode_view(
    photo: Image.Image,
    camera: pycolmap.Camera,
    encoder: LocalEncoder,
    short_side: int,
    max_keypoints: int,
    augmentation: Augmentation | None = None,
) -> EncodedView:
    """Encode a photo at ``short_side`` px; keep the ``max_keypoints`` best that lie in it and can be undistorted."""
    view = PhotoCopy.of(photo, camera, encoder, short_side, augmentation)
    return next(encode_views([view], encoder, max_keypoints))


@dataclass(frozen=True)
class PhotoCopy:
    """A photo at the size at which it is encoded, and its camera there; to be augmented or plain."""

    image: torch.Tensor  # [C, H, W] float32, on the CPU; C = 1 for encoders that do not see colours
    camera: pycolmap.Camera
    augmentation: Augmentation | None = None

    @classmethod
    def of(
        cls,
        photo: Image.Image,
        camera: pycolmap.Camera,
        encoder: LocalEncoder,
        short_side: int,
        augmentation: Augmentation | None = None,
    ) -> Self:
        """The photo at ``short_side`` px."""
        resized = resized_for(encoder, photo, short_side)
        return cls(image_for(encoder, resized), rescaled_camera(camera, *resized.size), augmentation)

    @classmethod
    def resized_once(
        cls, photo: Image.Image, camera: pycolmap.Camera, encoder: LocalEncoder, short_side: int, a: Augmentation | None
    ) -> Self:
        """A copy whose scale is the size that the original is resized to, as in the code of ACE, GLACE and R-SCoRe."""
        if a is None:
            return cls.of(photo, camera, encoder, short_side)
        return cls.of(photo, camera, encoder, int(short_side * a.scale), replace(a, scale=1.0))


def encode_views(views: Iterable[PhotoCopy], encoder: LocalEncoder, max_keypoints: int) -> Iterator[EncodedView]:
    """Encode views in order, augmented on the encoder's device; a GPU gets those of one size together."""
    device = device_of(encoder)
    for some in batched(views, 1 if device.type == "cpu" else AHEAD):
        images = [view.image.to(device) for view in some]
        images = [x if v.augmentation is None else warp(x, v.augmentation) for v, x in zip(some, images, strict=True)]
        for view, image, features in zip(some, images, encode_images(encoder, images), strict=True):
            yield _undistorted(view, tuple(image.shape[:0:-1]), features, max_keypoints)


def encode_photos(
    scene: Scene, rows: Iterable[int], encoder: LocalEncoder, short_side: int, max_keypoints: int, threads: int
) -> Iterator[EncodedView]:
    """Encode mapping photos of a scene in order: on a CPU ``threads`` side by side if the encoder allows it; on a GPU
    as many are read ahead."""

    def resized(row: int) -> PhotoCopy:
        view = scene.mapping[row]
        return PhotoCopy.of(scene.photo(view.name), view.camera, encoder, short_side)

    def encoded(row: int) -> EncodedView:
        return next(encode_views([resized(row)], encoder, max_keypoints))

    device = device_of(encoder)
    if device.type == "cpu":
        return mapped(encoded, rows, threads, getattr(encoder, "side_by_side", False))
    return encode_views(read_ahead(resized, rows, threads, device), encoder, max_keypoints)


def _undistorted(view: PhotoCopy, size: tuple[int, int], features: LocalFeatures, max_keypoints: int) -> EncodedView:
    """What was found in the (augmented) image of ``size`` (width, height)."""
    a, camera = view.augmentation or Augmentation(), view.camera
    photo_size = (camera.width, camera.height)
    pixels = to_photo_pixels(features.keypoints_px.cpu().numpy(), photo_size, size, a)
    rays = rays_from_pixels(camera, pixels)
    keep = np.flatnonzero(inside(pixels, photo_size) & np.isfinite(rays).all(1))[:max_keypoints]
    K = np.diag([a.scale, a.scale, 1.0]) @ pinhole_matrix(camera)
    rolled = rays[keep] @ roll_rotation(a.roll)[:2, :2].T
    kept = torch.from_numpy(keep).to(features.descriptors.device)
    return EncodedView(pinhole_pixels(rolled, K), features.descriptors[kept], K, a.roll)


def roll_rotation(roll: float) -> np.ndarray:
    """R_z [3, 3] that turns x towards y by ``roll`` radians."""
    c, s = np.cos(roll), np.sin(roll)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def rolled_pose(cam_from_world: np.ndarray, roll: float) -> np.ndarray:
    """Pose [3, 4] of the camera whose image is rolled: R_z(roll) [R | t]."""
    return roll_rotation(roll) @ cam_from_world


def warp(image_CHW: torch.Tensor, a: Augmentation) -> torch.Tensor:
    """The augmented image [C, H', W'] of one in colour (C = 3) or grey (C = 1); beyond the border it is mirrored."""
    height, width = image_CHW.shape[1:]
    size = (max(32, round(height * a.scale)), max(32, round(width * a.scale)))
    x = image_CHW[None]
    if size != (height, width):
        x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
    if a.roll:
        x = F.grid_sample(
            x, _source(size, a.roll, x.device), mode=a.interpolation, padding_mode="reflection", align_corners=False
        )
    return _photometric(x[0], a).clamp_(0, 1)


def _source(size: tuple[int, int], roll: float, device: torch.device) -> torch.Tensor:
    """Where each pixel of a rolled image of (height, width) comes from: [1, H, W, 2], x y, in -1..1 over the image."""
    h, w = size
    x, y = ((2 * torch.arange(n, device=device) + 1) / n - 1 for n in (w, h))  # centres of columns and rows
    c, s = np.cos(roll), np.sin(roll)
    # affine_grid's values in a fifth of its time
    grid = torch.empty(1, h, w, 2, device=device)
    torch.add(x * c, (y * (s * h / w))[:, None], out=grid[0, ..., 0])
    torch.add(x * (-s * w / h), (y * c)[:, None], out=grid[0, ..., 1])
    return grid


def _photometric(x: torch.Tensor, a: Augmentation) -> torch.Tensor:
    grey_weights = torch.tensor([0.299, 0.587, 0.114] if len(x) == 3 else [1.0], device=x.device).view(-1, 1, 1)
    if len(x) == 3 and (a.saturation != 1.0 or a.hue != 0.0):
        # in YIQ the hue is an angle and the saturation a radius
        to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
        c, s = np.cos(2 * np.pi * a.hue) * a.saturation, np.sin(2 * np.pi * a.hue) * a.saturation
        turn = torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]], dtype=torch.float32)
        x = torch.einsum("ij,jhw->ihw", (torch.linalg.inv(to_yiq) @ turn @ to_yiq).to(x.device), x)
    if a.gain != 1.0:
        x = x * a.gain
    if a.contrast != 1.0 or a.brightness != 0.0:
        mean = (x * grey_weights).sum(0).mean()
        x = (x - mean) * a.contrast + mean + a.brightness
    return x


def to_photo_pixels(
    pixels_N2: np.ndarray, photo_size: tuple[int, int], warped_size: tuple[int, int], a: Augmentation
) -> np.ndarray:
    """Pixels [N, 2] of the warped image in the photo; sizes are (width, height). Inverse of ``warp``."""
    photo, warped = np.array(photo_size, np.float64), np.array(warped_size, np.float64)
    centred = np.asarray(pixels_N2, np.float64) - warped / 2
    return (centred @ roll_rotation(a.roll)[:2, :2] + warped / 2) * (photo / warped)


def inside(pixels_N2: np.ndarray, size: tuple[int, int], margin: float = 2.0) -> np.ndarray:
    """Which pixels [N] lie within an image of (width, height), ``margin`` px off its border (mirrored content goes)."""
    return ((pixels_N2 >= margin) & (pixels_N2 <= np.array(size) - margin)).all(1)
