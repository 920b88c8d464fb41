"""The geometry of augmentation against independent computations: where a dot goes, and where its 3D point projects."""

import math
from types import SimpleNamespace

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from scrflow.config import AugmentConfig
from scrflow.features.encoders import LocalFeatures
from scrflow.features.views import (
    Augmentation,
    PhotoCopy,
    encode_view,
    encode_views,
    inside,
    rolled_pose,
    to_photo_pixels,
    warp,
)

DRAWS = [(0.0, 1.0), (15.0, 1.0), (-12.0, 0.7), (8.0, 1.45), (0.0, 2 / 3)]


def dot(x: float, y: float, width: int = 320, height: int = 240, sigma: float = 3.0) -> torch.Tensor:
    """A blob centred on the pixel (x, y), the centre of the top-left pixel being (0.5, 0.5)."""
    yy, xx = np.mgrid[0.5:height, 0.5:width]
    blob = np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * sigma**2)).astype(np.float32)
    return torch.from_numpy(blob).expand(3, -1, -1).clone()


def centroid(image: torch.Tensor) -> np.ndarray:
    grey = image[0].numpy().astype(np.float64)
    yy, xx = np.mgrid[0.5 : grey.shape[0], 0.5 : grey.shape[1]]
    return np.array([(grey * xx).sum(), (grey * yy).sum()]) / grey.sum()


class _OneDot:
    """An encoder that finds the dot: what encode_view makes of its pixel is then known."""

    dim = 1

    def __call__(self, image_3HW: torch.Tensor) -> LocalFeatures:
        where = torch.from_numpy(centroid(image_3HW)).float()[None]
        return LocalFeatures(where, torch.ones(1, 1), torch.ones(1))


@pytest.mark.parametrize(("degrees", "scale"), DRAWS)
@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("k", [0.0, -0.08])
def test_pose_and_intrinsics_follow_exactly(degrees, scale, k, published):
    """A 3D point, seen by a distorted camera, must project onto the augmented view's undistorted keypoint."""
    camera = pycolmap.Camera(model="SIMPLE_RADIAL", width=320, height=240, params=[260, 163, 117, k])
    pose = np.c_[Rotation.from_euler("xyz", [5, -20, 3], degrees=True).as_matrix(), [0.2, -0.1, 0.5]]
    point_cam = np.array([0.35, -0.2, 2.0])
    point_world = pose[:, :3].T @ (point_cam - pose[:, 3])
    seen = camera.img_from_cam(point_cam[None])[0]
    photo = Image.fromarray((dot(*seen).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    a = Augmentation(roll=np.radians(degrees), scale=scale)
    if published:  # the scale is the size of the resized photo
        encoder, side = _OneDot(), int(240 * scale)
        encoder.resize, scale = ("bilinear", 1), side / 240
        view = next(encode_views([PhotoCopy.resized_once(photo, camera, encoder, 240, a)], encoder, 10))
        scale *= np.array([int(side * 320 / 240) / (scale * 320), 1])  # fractions of the other side are cut off
    else:
        view = encode_view(photo, camera, _OneDot(), 240, 10, a)
    # the plain implementation: turn the camera about its axis by hand, project by hand
    c, s = np.cos(a.roll), np.sin(a.roll)
    x, y, z = pose[:, :3] @ point_world + pose[:, 3]
    x, y = c * x - s * y, s * x + c * y
    by_hand = scale * np.array([260 * x / z + 163, 260 * y / z + 117])
    np.testing.assert_allclose(view.pixels[0], by_hand, atol=0.05 * np.maximum(1, scale).max())
    through_view = rolled_pose(pose, view.roll) @ [*point_world, 1]
    np.testing.assert_allclose((view.K @ through_view)[:2] / through_view[2], by_hand, atol=1e-9)


def test_mirrored_border_is_left_out():
    a = Augmentation(roll=np.radians(15))
    corner = to_photo_pixels(np.array([[1.0, 1.0], [160.0, 120.0]]), (320, 240), (320, 240), a)
    np.testing.assert_array_equal(inside(corner, (320, 240)), [False, True])


def test_photometric_change_is_what_it_says():
    grey = torch.full((3, 64, 64), 0.4)
    grey[:, :32] = 0.6
    out = warp(grey, Augmentation(brightness=0.1, contrast=1.5))
    # about the mean 0.5: 0.6 -> 0.5 + 1.5 * 0.1 + 0.1
    assert out[0, 0, 0] == pytest.approx(0.75, abs=1e-5) and out[0, 63, 0] == pytest.approx(0.45, abs=1e-5)
    colour = torch.tensor([0.8, 0.2, 0.3]).view(3, 1, 1).expand(3, 32, 32)
    flat = warp(colour, Augmentation(saturation=0.0))
    assert float(flat.std(0).max()) < 1e-3


def test_published_augmentation_is_the_plain_recipe():
    """The code of ACE, GLACE and R-SCoRe: resize by Pillow, brightness and contrast as factors, rotate bilinearly."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (60, 90, 3), dtype=np.uint8)).resize(
        (900, 600), Image.Resampling.BICUBIC
    )
    a = Augmentation.draw(AugmentConfig(kind="published"), np.random.default_rng(3))
    encoder = SimpleNamespace(resize=("bilinear", 8))
    copy = PhotoCopy.resized_once(
        photo, pycolmap.Camera(model="PINHOLE", width=900, height=600, params=[500, 500, 450, 300]), encoder, 480, a
    )
    # sides as R-SCoRe's code computes them
    short = 8 * math.ceil(int(480 * a.scale) / 8)
    width, height = 8 * math.ceil(int(short * 900 / 600) / 8), short
    assert (copy.camera.width, copy.camera.height) == (width, height)
    x = np.asarray(photo.resize((width, height), Image.Resampling.BILINEAR)) / 255
    x = x * a.gain
    grey = (x @ [0.299, 0.587, 0.114]).mean()
    x = a.contrast * x + (1 - a.contrast) * grey
    # for each pixel the place that it comes from, about the centre of the image
    ours = warp(copy.image, copy.augmentation).permute(1, 2, 0).numpy()
    rows, columns = rng.integers(0, height, 2000), rng.integers(0, width, 2000)
    c, s = math.cos(a.roll), math.sin(a.roll)
    u, v = columns - (width - 1) / 2, rows - (height - 1) / 2
    px, py = c * u + s * v + (width - 1) / 2, -s * u + c * v + (height - 1) / 2
    within = (px >= 0) & (py >= 0) & (px < width - 1) & (py < height - 1)
    px, py, rows, columns = px[within], py[within], rows[within], columns[within]
    i, j = np.floor(py).astype(int), np.floor(px).astype(int)
    fy, fx = (py - i)[:, None], (px - j)[:, None]
    plain = (1 - fy) * ((1 - fx) * x[i, j] + fx * x[i, j + 1]) + fy * ((1 - fx) * x[i + 1, j] + fx * x[i + 1, j + 1])
    # float32 places of a wide image; measured 1.9e-5
    np.testing.assert_allclose(ours[rows, columns], plain.clip(0, 1), atol=2e-4)
    assert len(rows) > 1500 and abs(a.roll) > 0.05 and a.gain != 1
