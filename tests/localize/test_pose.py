"""Poses from known correspondences, and successive halving on hypotheses of known quality."""

from pathlib import Path

import numpy as np
import poselib
import pytest
import torch
from scipy.spatial.transform import Rotation

from scrflow.config import HalvingConfig, HeadConfig, LocalizeConfig
from scrflow.core.geometry import pose_error
from scrflow.localize.pose import SceneCoordinates, best_hypothesis, best_pose, estimate_pose
from scrflow.localize.result import Clock
from scrflow.pipeline.project import Project
from scrflow.training.head import Head, HeadOutput

K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
POSE = np.c_[Rotation.from_euler("xyz", [5, -20, 3], degrees=True).as_matrix(), [0.2, -0.1, 0.5]]


class _Table(torch.nn.Module):
    """Scene coordinates by hypothesis (its encoding is its number) and keypoint (its local encoding is its number)."""

    def __init__(self, xyz_kN3: np.ndarray):
        super().__init__()
        self.xyz, self.asked = torch.from_numpy(xyz_kN3), []

    def forward(self, x: torch.Tensor) -> HeadOutput:
        rows = x.long()
        self.asked += rows.tolist()
        xyz = self.xyz[rows[:, 0], rows[:, 1]]
        return HeadOutput(xyz, xyz)

    def coordinates(self) -> SceneCoordinates:
        k, count = self.xyz.shape[:2]
        return SceneCoordinates(self, torch.arange(count).float()[:, None], torch.arange(k).float()[:, None])


def hypotheses(shares: list[float], count: int = 1000, seed: int = 0, noise_px: float = 2) -> tuple[np.ndarray, _Table]:
    """Pixels [N, 2], and hypotheses of which each has a share of its scene coordinates right, up to noise, and the
    others anywhere."""
    rng = np.random.default_rng(seed)
    pixels = rng.uniform([0, 0], [640, 480], (count, 2))
    seen = pixels + rng.normal(0, noise_px, (len(shares), count, 2))
    cam = np.concatenate([(seen - K[:2, 2]) / 500, np.ones((len(shares), count, 1))], 2)
    world = (cam * rng.uniform(2, 8, (count, 1)) - POSE[:, 3]) @ POSE[:, :3]
    wrong = rng.random((len(shares), count)) > np.array(shares)[:, None]
    world[wrong] = rng.uniform(-5, 5, (int(wrong.sum()), 3))
    return pixels, _Table(world)


def test_scene_coordinates_are_the_heads():
    torch.manual_seed(0)
    head = Head(12, HeadConfig(width=32, blocks=1, clusters=1, refine_blocks=0), torch.zeros(1, 3)).eval()
    local, g = torch.randn(70, 8), torch.randn(3, 4)
    with torch.inference_mode():
        coordinates = SceneCoordinates(head, local, g)
        early = coordinates.first(20, np.array([0, 2])).copy()
        whole = [coordinates.all(h) for h in range(3)]
        for h in range(3):
            expected = head(torch.cat([g[h].expand(70, 4), local], 1)).xyz_world.numpy()
            # float32 sums in another order; measured 2e-7
            np.testing.assert_allclose(whole[h], expected, atol=3e-6)
        assert np.array_equal(early[1], whole[2][coordinates.order[:20]])


@pytest.mark.parametrize("best", [0, 4, 9])
def test_the_best_hypothesis_at_a_fraction_of_the_work(best):
    shares = [0.25] * 10
    shares[best] = 0.45
    pixels, table = hypotheses(shares, seed=best)
    config = HalvingConfig(keypoints=128, factor=3)
    coordinates = table.coordinates()
    assert best_hypothesis(coordinates, pixels, K, config, 10.0, 1, Clock())[0] == best
    coordinates.all(best)
    # 10 at 128, 4 at 384, 2 at 1000 and no third
    assert len(table.asked) == 10 * 128 + 4 * 256 + 2 * 616
    again = hypotheses(shares, seed=best)[1].coordinates()
    assert best_hypothesis(again, pixels, K, config, 10.0, 1, Clock(), threads=3)[0] == best


def test_nobody_is_dropped_on_little_evidence():
    pixels, table = hypotheses([0.02, 0.08, 0.02, 0.02], seed=3)
    config = HalvingConfig(keypoints=64, factor=2, evidence=30)
    assert best_hypothesis(table.coordinates(), pixels, K, config, 10.0, 1, Clock())[0] == 1
    # 64 keypoints hold 5 inliers of the best, 256 hold 20: all four go on to 512
    assert sum(keypoint[0] == 0 for keypoint in table.asked) >= 512


def test_hypotheses_without_any_consensus():
    pixels, table = hypotheses([0.0, 0.0, 0.0], 40)
    table.xyz[:] = float("nan")
    assert best_hypothesis(table.coordinates(), pixels, K, HalvingConfig(keypoints=16), 10.0, 1, Clock()) == (0, None)


def test_poses_of_the_papers_methods_are_those_of_the_plain_loop():
    """R-SCoRe's public code: PoseLib with its defaults for each hypothesis, the most inliers win."""
    pixels, table = hypotheses([0.3, 0.4, 0.35], seed=5)
    camera = {"model": "PINHOLE", "width": 640, "height": 480, "params": [500, 500, 320, 240]}
    best = 0
    for xyz in table.xyz.numpy():
        options = {"max_reproj_error": 10.0, "max_iterations": 10_000, "seed": 1}
        pose, info = poselib.estimate_absolute_pose(pixels, xyz, camera, options, {})
        if info["num_inliers"] > best:
            best, expected = info["num_inliers"], pose.Rt
    config = Project(Path(__file__).parents[2] / "config").method("rscore").localize
    chosen, estimate = best_pose(table.coordinates(), pixels, K, config, 1, Clock())
    assert chosen == 1
    np.testing.assert_array_equal(estimate.cam_from_world, expected)


@pytest.mark.parametrize("refine_px", [None, 1.5])
def test_pose_among_outliers(refine_px):
    pixels, table = hypotheses([0.6], 300, 2, noise_px=0.5)
    world = table.xyz[0].numpy()
    config = LocalizeConfig(iterations=1000, refine_px=refine_px)
    estimate = estimate_pose(pixels, world, K, config, 10.0, seed=1)
    t, r = pose_error(estimate.cam_from_world, POSE)
    assert t < 0.01 and r < 0.1  # measured: 0.7 mm and 0.007 degrees
    assert 150 < estimate.inliers.sum() < 220
    again = estimate_pose(pixels, world, K, config, 10.0, seed=1)
    assert np.array_equal(again.cam_from_world, estimate.cam_from_world)
