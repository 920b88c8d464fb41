"""Localization with maps made in memory: a head that knows the answer, and one that knows nothing."""

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from scrflow.config import ExtractorConfig, GlobalEncodingUse, HeadConfig, LocalizeConfig, MapStage
from scrflow.errors import ScrflowError
from scrflow.geometry import pose_error
from scrflow.head import Head, HeadOutput
from scrflow.localize import Localizer, pose_line
from scrflow.mapfile import Map, load_map
from scrflow.pca import Pca
from scrflow.pose import estimate_pose, reprojection_error

K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
POSE = np.c_[Rotation.from_euler("xyz", [5, -20, 3], degrees=True).as_matrix(), [0.2, -0.1, 0.5]]
CONFIG = LocalizeConfig(hypotheses=1, iterations=1000, max_keypoints=500)


def correspondences(count: int = 300, noise_px: float = 0.5, wrong: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    pixels = rng.uniform([0, 0], [640, 480], (count, 2))
    depth = rng.uniform(2, 8, (count, 1))
    cam = np.c_[(pixels - K[:2, 2]) / 500, np.ones(count)] * depth
    world = (cam - POSE[:, 3]) @ POSE[:, :3]
    bad = rng.random(count) < wrong
    world[bad] = rng.uniform(-5, 5, (bad.sum(), 3))
    return pixels + rng.normal(0, noise_px, pixels.shape), world


@pytest.mark.parametrize("refine_px", [None, 1.5])
def test_pose_among_outliers(refine_px):
    pixels, world = correspondences()
    config = CONFIG.model_copy(update={"refine_px": refine_px})
    estimate = estimate_pose(pixels, world, K, config, 10.0, seed=1)
    t, r = pose_error(estimate.cam_from_world, POSE)
    assert t < 0.01 and r < 0.1  # measured: 0.7 mm and 0.007 degrees
    assert 150 < estimate.inliers.sum() < 220
    again = estimate_pose(pixels, world, K, config, 10.0, seed=1)
    assert np.array_equal(again.cam_from_world, estimate.cam_from_world)


def test_no_pose_from_nothing():
    pixels, world = correspondences()
    assert estimate_pose(pixels[:3], world[:3], K, CONFIG, 10.0, 1) is None
    assert estimate_pose(pixels, np.full_like(world, np.nan), K, CONFIG, 10.0, 1) is None


def test_reprojection_error_behind_the_camera_is_infinite():
    behind = (np.array([[0.0, 0, -2]]) - POSE[:, 3]) @ POSE[:, :3]
    assert reprojection_error(np.array([[320.0, 240]]), behind, K, POSE)[0] == np.inf


def photo() -> tuple[Image.Image, pycolmap.Camera]:
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC)
    return image, pycolmap.Camera(model="PINHOLE", width=640, height=480, params=[500, 500, 320, 240])


def empty_map(head: torch.nn.Module) -> Map:
    stage = MapStage(
        extractor=ExtractorConfig(name="sift", max_keypoints=500),
        global_encoding=GlobalEncodingUse(),
        head=HeadConfig(width=32, blocks=0, clusters=1, refine_blocks=0),
        retrieval=None,
        retrieval_extractor=None,
        own_encoding=False,
        unit="m",
    )
    return Map(stage, ("a.jpg",), head, Pca(torch.zeros(128), torch.eye(128)), None, None, 0)


def test_a_query_that_cannot_be_localized_says_so():
    torch.manual_seed(0)
    head = Head(128, HeadConfig(width=32, blocks=0, clusters=1, refine_blocks=0), torch.zeros(1, 3)).eval()
    result = Localizer(empty_map(head), CONFIG).localize(*photo())
    assert result.cam_from_world is None
    assert "inliers" in result.reason
    blank = Image.new("RGB", (640, 480))
    result = Localizer(empty_map(head), CONFIG).localize(blank, photo()[1])
    assert result.cam_from_world is None and result.reason == "too few keypoints"


class _Oracle(torch.nn.Module):
    """Returns the true scene coordinates of the keypoints, whatever their descriptors."""

    def __init__(self, xyz: np.ndarray):
        super().__init__()
        self.xyz = torch.from_numpy(xyz)

    def forward(self, x: torch.Tensor) -> HeadOutput:
        return HeadOutput(self.xyz[: len(x)], self.xyz[: len(x)])


def test_a_perfect_head_gives_the_pose():
    image, camera = photo()
    blind = Localizer(empty_map(_Oracle(np.zeros((500, 3)))), CONFIG)
    view = blind.localize(image, camera).view
    rays = np.c_[(view.pixels - view.K[:2, 2]) / 500, np.ones(len(view.pixels))]
    world = (rays * np.linspace(2, 6, len(rays))[:, None] - POSE[:, 3]) @ POSE[:, :3]
    result = Localizer(empty_map(_Oracle(world)), CONFIG).localize(image, camera)
    t, r = pose_error(result.cam_from_world, POSE)
    assert t < 1e-5 and r < 1e-4 and result.inliers.all()
    name, *values = pose_line("day/a b.jpg", result.cam_from_world).rsplit(maxsplit=7)
    assert name == "day/a b.jpg" and len(values) == 7


def test_more_hypotheses_than_the_map_has_are_refused():
    with pytest.raises(ScrflowError, match="hypotheses must be 1"):
        Localizer(empty_map(_Oracle(np.zeros((1, 3)))), LocalizeConfig(hypotheses=10))


def test_a_truncated_map_is_told(tmp_path):
    path = tmp_path / "map.safetensors"
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(ScrflowError, match=r"map\.safetensors"):
        load_map(path)
