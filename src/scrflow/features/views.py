"""Encoding one photo, plain or augmented: keypoints, undistorted into the pinhole image of a view, and descriptors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pycolmap
import torch
from PIL import Image

from scrflow.core.cameras import pinhole_matrix, rays_from_pixels, rescaled_camera
from scrflow.core.geometry import pinhole_pixels
from scrflow.core.images import resized_to_short_side, to_tensor
from scrflow.features.augment import Augmentation, inside, roll_rotation, to_photo_pixels, warp
from scrflow.features.encoders.base import LocalEncoder


@dataclass(frozen=True)
class EncodedView:
    """Keypoints of one (augmented) photo. ``roll`` turns the photo's camera into the view's (rotation about z)."""

    pixels: np.ndarray  # [N, 2] float64, undistorted, in the image of K
    descriptors: torch.Tensor  # [N, D] float32
    K: np.ndarray  # [3, 3]
    roll: float


def encode_view(
    photo: Image.Image,
    camera: pycolmap.Camera,
    encoder: LocalEncoder,
    short_side: int,
    max_keypoints: int,
    augmentation: Augmentation | None = None,
) -> EncodedView:
    """Encode a photo at ``short_side`` px.

    Keypoints that fall outside the photo, or where the distortion cannot be inverted, are dropped; of the others the
    ``max_keypoints`` best are kept.
    """
    a = augmentation or Augmentation()
    resized = resized_to_short_side(photo, short_side)
    camera = rescaled_camera(camera, *resized.size)
    image = to_tensor(resized)
    if not getattr(encoder, "sees_colour", True):
        image = image.mean(0, keepdim=True)
    if augmentation is not None:
        image = warp(image, a)
    features = encoder(image)
    height, width = image.shape[1:]
    pixels = to_photo_pixels(features.keypoints_px.numpy(), resized.size, (width, height), a)
    rays = rays_from_pixels(camera, pixels)
    keep = np.flatnonzero(inside(pixels, resized.size) & np.isfinite(rays).all(1))[:max_keypoints]
    K = pinhole_matrix(camera)
    K = np.diag([a.scale, a.scale, 1.0]) @ K
    rolled = rays[keep] @ roll_rotation(a.roll)[:2, :2].T
    return EncodedView(pinhole_pixels(rolled, K), features.descriptors[torch.from_numpy(keep)], K, a.roll)
