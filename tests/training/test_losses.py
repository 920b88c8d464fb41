"""The loss against numbers worked out by hand (GLACE eq. 2-4; R-SCoRe), and head and loss together against the plain
implementation that the benchmarks keep: values and gradients."""

import math

import numpy as np
import plain
import pytest
import synthetic
import torch
from scipy.spatial.transform import Rotation
from training_cases import RSCORE

from scrflow.config import HeadConfig, LossConfig
from scrflow.training.head import Head, HomogeneousOffset
from scrflow.training.losses import Targets, project, pull_to_depth, scene_coordinate_loss
from scrflow.training.optimizer import use_bf16_backward


def targets() -> Targets:
    """A camera at (0, 0, -2) looking along z: the world's origin lies 2 in front of it."""
    K = torch.tensor([[[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]])
    pose = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2]]])
    return Targets(torch.tensor([[320.0, 240.0]]), K, pose, torch.tensor([[0.0, 0, 8]]))


@pytest.mark.parametrize("xyz", [(0.0, 0, -1.95), (0, 0, -5), (0, 0, 2000), (9.0, 0, 0)])
def test_invalid_predictions(xyz):
    """Nearer than 0.1, behind, farther than 1000, more than 1000 px off: the loss is the distance to the target."""
    y = torch.tensor([xyz], dtype=torch.float32)
    assert not bool(project(y, targets(), LossConfig()).valid)
    loss, _ = scene_coordinate_loss(y, y, targets(), LossConfig(), 0.3, 1.0)
    assert float(loss) == pytest.approx(abs(xyz[0]) + abs(xyz[1]) + abs(xyz[2] - 8), rel=1e-5)


@pytest.mark.parametrize(("invalid", "order"), [("l1-camera", 1), ("l2", 2)])
def test_invalid_predictions_as_in_the_public_code(invalid, order):
    """Of a turned camera: the norm of K^-1 (u, v, 1) 10 - (R y + t)."""
    R = Rotation.from_euler("xyz", [20, -30, 40], degrees=True).as_matrix()
    pose = np.c_[R, [0.3, -0.2, 2.0]]
    K, pixel, y = (
        np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]),
        np.array([100.0, 50, 1]),
        np.array([1.0, 2, -9]),
    )
    on_ray = 10 * np.linalg.inv(K) @ pixel
    expected = np.linalg.norm(on_ray - (R @ y + pose[:, 3]), order)
    target = R.T @ (on_ray - pose[:, 3])
    batch = Targets(*(torch.from_numpy(v)[None].float() for v in (pixel[:2], K, pose, target)))
    config = LossConfig(invalid=invalid, coarse=True)
    point = torch.from_numpy(y)[None].float()
    assert float(scene_coordinate_loss(point, point, batch, config, 0.3, 1.0)[0]) == pytest.approx(
        2 * expected, rel=1e-5
    )


def test_pull_to_known_depths():
    """R-SCoRe with depths: y and y0 are pulled to the sample's point, where there is one, beyond the margin."""
    K = torch.tensor([[[100.0, 0, 50], [0, 100, 50], [0, 0, 1]]]).repeat(2, 1, 1)
    pose = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2]]).repeat(2, 1, 1)
    depth = torch.tensor([4.0, torch.nan])
    # pixel (75, 50): ray (0.25, 0, 1); at depth 4 the point (1, 0, 4), in the world (1, 0, 2)
    targets = Targets(torch.tensor([[75.0, 50.0]] * 2), K, pose, torch.zeros(2, 3), depth, depth)
    y = torch.tensor([[1.0, 0.5, 2], [9, 9, 9]], requires_grad=True)
    assert pull_to_depth(y, targets, 0.1).tolist() == pytest.approx([0.4, 0])
    y0 = torch.tensor([[1.0, 0, 1.0], [0, 0, 0]], requires_grad=True)
    config = {"coarse": True, "pull": True}
    with_pull, _ = scene_coordinate_loss(y, y0, targets, LossConfig(**config, pull_to="depth"), 0.25, 1.0)
    without, _ = scene_coordinate_loss(y, y0, targets, LossConfig(coarse=True), 0.25, 1.0)
    # weight 0.5 at a quarter; two samples, of which one has a depth
    assert float((with_pull - without).detach()) == pytest.approx(0.5 * (0.4 + 0.9) / 2, rel=1e-5)
    with_pull.backward()
    assert torch.isfinite(y.grad).all() and torch.isfinite(y0.grad).all()


@pytest.mark.parametrize("w_hat", [-30.0, -2.0, 0.0, 0.7, 5.0, 50.0, 300.0])
def test_homogeneous_offset(w_hat):
    """GLACE eq. 6-7 where it is clamped: the smallest scale is 0.01, the largest 4."""
    beta = math.log(2) / (1 - 1 / 4.0)
    w = min(1 / 0.01, math.log(1 + math.exp(beta * w_hat)) / beta + 1 / 4.0)
    outputs = torch.tensor([[0.3, -1.2, 2.5, w_hat]], dtype=torch.float64)
    assert HomogeneousOffset(0.01, 4.0)(outputs)[0].tolist() == pytest.approx([0.3 / w, -1.2 / w, 2.5 / w], rel=1e-9)


CASES = {
    "ace": (HeadConfig(width=64, blocks=1, clusters=1, refine_blocks=0), LossConfig(norm=1)),
    "glace": (HeadConfig(width=64, blocks=2, clusters=5, refine_blocks=0), LossConfig(norm=1)),
    "rscore": (HeadConfig(width=64, blocks=1, clusters=5, refine_blocks=2, frequencies=4, input_skip="pad"), RSCORE),
    "rscore, gradient through y0": (
        HeadConfig(width=64, blocks=1, clusters=5, refine_blocks=1, frequencies=4, coarse_gradient=True),
        RSCORE,
    ),
    "known depths": (
        HeadConfig(width=64, blocks=1, clusters=1, refine_blocks=1, frequencies=4),
        RSCORE.model_copy(update={"known_depth": True}),
    ),
}


def batch() -> tuple[torch.Tensor, Targets]:
    """Every tenth sample of the synthetic scene; a third has no known depth."""
    buffer, points, point_of = synthetic.scene(0.3)
    rows = torch.arange(0, len(buffer.view), 10)
    view = buffer.view[rows]
    pose = buffer.cam_from_world[view].float()
    xyz = torch.from_numpy(points[point_of[rows]]).float()
    depth = (pose[:, 2, :3] * xyz).sum(1) + pose[:, 2, 3]
    depth[::3] = torch.nan
    generator = torch.Generator().manual_seed(1)
    x = torch.cat([torch.randn(len(rows), 8, generator=generator), buffer.descriptor[rows].float()], 1)
    target = xyz + 0.1 * torch.randn(xyz.shape, generator=generator)
    sigma = torch.where(torch.isnan(depth), torch.nan, 0.01)
    return x, Targets(buffer.pixel[rows], buffer.K[view].float(), pose, target, depth, sigma)


def fresh_head(dim_in: int, config: HeadConfig) -> Head:
    """A head whose coordinates are about where the points are: most are valid, their errors between 5 and 500 px."""
    torch.manual_seed(0)
    return Head(dim_in, config, torch.tensor([0.0, 0, 4.5]) + 0.5 * torch.randn(config.clusters, 3), unit=0.5)


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_the_plain_implementation(case, progress):
    head_config, loss_config = CASES[case]
    x, targets = batch()
    head = fresh_head(x.shape[1], head_config)
    out = head(x)
    ours, projection = scene_coordinate_loss(out.xyz_world, out.coarse, targets, loss_config, progress, 0.3, out.base)
    ours.backward()
    assert float(projection.valid.float().mean()) > 0.9

    state = {k: v.detach().clone().requires_grad_(v.is_floating_point()) for k, v in head.state_dict().items()}
    y, coarse = plain.head(state, x, head_config.model_dump(), 0.5)
    cut = not head_config.coarse_gradient
    reference = plain.loss(y, coarse, targets, loss_config.model_dump(), progress, 0.3, cut)
    reference.backward()
    # float32 sums in another order: measured 1.1e-7 at most, and 4.4e-7 of a layer's largest gradient
    assert float(ours.detach()) == pytest.approx(float(reference.detach()), rel=2e-6)
    for name, parameter in head.named_parameters():
        scale = float(state[name].grad.abs().max())
        assert torch.allclose(parameter.grad, state[name].grad, rtol=1e-4, atol=1e-5 * scale), name


@pytest.mark.parametrize("case", CASES)
def test_gradients_in_bf16_are_close(case):
    """Values equal those of float32; gradients have the direction of float32's."""
    head_config, loss_config = CASES[case]
    x, targets = batch()
    found = []
    for short in (False, True):
        head = fresh_head(x.shape[1], head_config)
        if short:
            use_bf16_backward(head)
        out = head(x)
        loss, _ = scene_coordinate_loss(out.xyz_world, out.coarse, targets, loss_config, 0.3, 0.3, out.base)
        loss.backward()
        found.append((float(loss.detach()), torch.cat([p.grad.flatten() for p in head.parameters()])))
    (full, a), (short, b) = found
    assert full == short
    # measured: 0.999997 and 2.5e-4 at worst
    assert float(torch.cosine_similarity(a, b, dim=0)) > 0.9999
    assert float(a.norm()) == pytest.approx(float(b.norm()), rel=2e-3)
