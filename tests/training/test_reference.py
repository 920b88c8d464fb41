"""Head and loss against the plain implementation that the benchmarks keep: values and gradients."""

import sys
from pathlib import Path

import pytest
import synthetic
import torch
from training_cases import RSCORE

from scrflow.config import HeadConfig, LossConfig
from scrflow.training.head import Head
from scrflow.training.linear import use_bf16_backward
from scrflow.training.losses import Targets, scene_coordinate_loss

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import plain

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
def test_values_and_gradients_are_those_of_the_plain_form(case, progress):
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
    """Values are those of float32; gradients lean as float32's do."""
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
