"""Depths of samples on a synthetic scene whose depths are known."""

from pathlib import Path

import numpy as np
import pytest
import synthetic
import torch

from scrflow.config import SampleDepthConfig, SampleDepthStage
from scrflow.core.errors import ScrflowError
from scrflow.depths.matched import estimate_sample_depths, triangulate_samples
from scrflow.graph.covisibility import Graph
from scrflow.training.buffer import BufferFiles

CONFIG = SampleDepthConfig()


def graph() -> Graph:
    return Graph(synthetic.full_graph(), tuple(f"{i:03d}.jpg" for i in range(synthetic.IMAGES)))


def true_depths(buffer, points, point_of) -> np.ndarray:
    pose = buffer.cam_from_world[buffer.view].numpy()
    return (pose[:, 2, :3] * points[point_of]).sum(1) + pose[:, 2, 3]


@pytest.mark.parametrize(("noise_px", "tolerance"), [(0.0, 1e-3), (0.5, 0.01)])
def test_depths_and_matches_are_found(noise_px, tolerance):
    buffer, points, point_of = synthetic.scene(noise_px)
    result = triangulate_samples(buffer, graph(), CONFIG, seed=1)
    known = torch.isfinite(result.depth).numpy()
    plain = buffer.plain[buffer.view].numpy()
    # measured: every plain sample; median error 4e-8 and 0.0018 without and with noise
    assert known[plain].mean() > 0.95 and known[~plain].mean() > 0.8
    error = np.abs(result.depth.numpy() / true_depths(buffer, points, point_of) - 1)
    for copies in (plain, ~plain):
        assert np.median(error[known & copies]) < tolerance
    assert np.quantile(error[known], 0.95) < 5 * tolerance
    matches = result.matches.numpy()
    rows, columns = np.nonzero(matches >= 0)
    same = point_of[matches[rows, columns]] == point_of[rows]
    assert len(rows) > 1000 and same.mean() > 0.995


def test_sigma_tells_the_error():
    buffer, points, point_of = synthetic.scene(1.0)
    result = triangulate_samples(buffer, graph(), CONFIG, seed=1)
    known = torch.isfinite(result.depth).numpy() & buffer.plain[buffer.view].numpy()
    error = np.abs(result.depth.numpy() / true_depths(buffer, points, point_of) - 1)[known]
    ratio = np.median(error / result.relative_sigma.numpy()[known])
    # measured: 0.98
    # the sigma counts the matches' noise of 1 px robustly and not the sample's own: the right order of magnitude
    assert 0.2 < ratio < 2


def test_wrong_poses_stop_the_run(tmp_path: Path):
    """Camera-to-world given as world-to-camera: nothing fits together."""
    buffer, _, _ = synthetic.scene()
    R, t = buffer.cam_from_world[:, :, :3], buffer.cam_from_world[:, :, 3:]
    swapped = torch.cat([R.transpose(1, 2), -R.transpose(1, 2) @ t], 2)
    wrong = synthetic.Buffer(**{**vars(buffer), "cam_from_world": swapped})
    shards, g = synthetic.write_shards(wrong, tmp_path), synthetic.write_graph(tmp_path)
    with pytest.raises(ScrflowError, match="do not fit together"):
        estimate_sample_depths(SampleDepthStage(depth=CONFIG, seed=1), g, shards, tmp_path / "depth.h5", 1)
    assert not (tmp_path / "depth.h5").exists()


def test_file_of_another_buffer_is_refused(inputs, tmp_path: Path):
    buffer, _, _ = synthetic.scene(roll_copies=False)
    shards = synthetic.write_shards(buffer, tmp_path)
    assert BufferFiles.open(inputs["shards"], inputs["depth"]).match_count == CONFIG.matches
    with pytest.raises(ScrflowError, match=r"depth\.h5: for a buffer of"):
        BufferFiles.open(shards, inputs["depth"])
