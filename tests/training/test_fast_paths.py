"""What was made faster against the plain form that it stands for."""

import threading
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scrflow.config import ExtractorConfig
from scrflow.core.parallel import mapped
from scrflow.depths.matched import _mutual
from scrflow.features.encoders import build_encoder
from scrflow.features.networks import for_inference, window_max
from scrflow.features.views import Augmentation, warp
from scrflow.graph.node2vec import skipgram


@pytest.mark.parametrize("radius", [1, 2, 3, 4, 7])
def test_window_max_is_max_pool(radius):
    maps = torch.rand(2, 1, 37, 53, generator=torch.Generator().manual_seed(radius))
    pooled = F.max_pool2d(maps, 2 * radius + 1, stride=1, padding=radius)
    assert torch.equal(window_max(maps, radius), pooled)
    assert not torch.equal(window_max(maps, radius), F.max_pool2d(maps, 2 * radius - 1, stride=1, padding=radius - 1))


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.rest = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, affine=False), nn.ReLU(), nn.Conv2d(8, 2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.norm(self.first(x)).relu())


def test_folded_network_is_the_same_function():
    torch.manual_seed(0)
    network = _Net().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    x = torch.rand(1, 3, 40, 56)
    with torch.inference_mode():
        plain = network(x)
        for_inference(network)
        folded = network(x.contiguous(memory_format=torch.channels_last))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert float(plain.std()) > 0.01
    # measured: 5e-8
    assert float((folded - plain).abs().max()) < 2e-6


def test_rolling_is_that_of_affine_grid():
    image = torch.rand(3, 120, 160, generator=torch.Generator().manual_seed(1))
    roll = 0.2
    c, s = np.cos(roll), np.sin(roll)
    theta = torch.tensor([[[c, s * 120 / 160, 0.0], [-s * 160 / 120, c, 0.0]]], dtype=torch.float32)
    grid = F.affine_grid(theta, [1, 3, 120, 160], align_corners=False)
    sampled = F.grid_sample(image[None], grid, mode="bicubic", padding_mode="reflection", align_corners=False)[0]
    # measured: 3e-5, of noise between 0 and 1; a thousandth of a pixel would be 1e-3
    assert float((warp(image, Augmentation(roll=roll)) - sampled.clamp(0, 1)).abs().max()) < 2e-4


def test_grey_image_is_augmented_like_the_colour_image():
    # off black and white, where the mean of clipped colours is not the clipped mean
    image = 0.3 + 0.4 * torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(2))
    a = Augmentation(roll=-0.15, scale=1.2, brightness=0.05)
    # measured: 2e-7
    assert float((warp(image.mean(0, keepdim=True), a) - warp(image, a).mean(0, keepdim=True)).abs().max()) < 2e-6


def test_xfeat_sees_the_mean_of_the_colours_alone():
    image = torch.rand(3, 160, 192, generator=torch.Generator().manual_seed(3))
    encoder = build_encoder(ExtractorConfig(name="xfeat", max_keypoints=200))
    colour, grey = encoder(image), encoder(image.mean(0, keepdim=True))
    assert len(colour.scores) == 200
    assert torch.equal(colour.keypoints_px, grey.keypoints_px)
    assert torch.equal(colour.descriptors, grey.descriptors)


def test_adam_by_its_function_is_the_optimiser():
    generator = torch.Generator().manual_seed(4)
    table = torch.randn(5, 3, generator=generator)
    mine, theirs = table.clone(), table.clone().requires_grad_()
    optimiser = torch.optim.Adam([theirs], lr=skipgram.LEARNING_RATE)
    mean, square, steps = torch.zeros_like(mine), torch.zeros_like(mine), torch.zeros(())
    for _ in range(4):
        gradient = torch.randn(5, 3, generator=generator)
        theirs.grad = gradient.clone()
        optimiser.step()
        skipgram.adam([mine], [gradient], [mean], [square], [], [steps], lr=skipgram.LEARNING_RATE, **skipgram._ADAM)
    assert torch.equal(mine, theirs.detach())
    assert not torch.equal(mine, table)


def test_mutual_matches_are_those_of_argmax():
    generator = torch.Generator().manual_seed(5)
    a = F.normalize(torch.randn(300, 16, generator=generator), dim=1)
    b = F.normalize(a[torch.randperm(300, generator=generator)[:250]] + 0.3 * torch.randn(250, 16), dim=1)
    similarity = a @ b.T
    to_b, to_a = similarity.argmax(1), similarity.argmax(0)
    rows = torch.nonzero(to_a[to_b] == torch.arange(300)).flatten()
    assert 50 < len(rows) < 250
    in_a, in_b = _mutual(a, b)
    assert torch.equal(in_a, rows)
    assert torch.equal(in_b, to_b[rows])
    assert not len(_mutual(a[:0], b)[0])
    assert not len(_mutual(a, b[:0])[0])


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order_from_several_threads(threads):
    torch.set_num_threads(2)
    seen = set()

    def work(i: int) -> int:
        seen.add((threading.get_ident(), torch.get_num_threads()))
        time.sleep(0.02 * (i % 3))
        return i * i

    assert list(mapped(work, range(12), threads)) == [i * i for i in range(12)]
    assert len({thread for thread, _ in seen}) == threads
    assert {count for _, count in seen} == {1}
    assert torch.get_num_threads() == 2


def test_heavy_work_comes_one_by_one_with_all_threads():
    torch.set_num_threads(2)
    seen = list(mapped(lambda _: (threading.get_ident(), torch.get_num_threads()), range(3), 4, side_by_side=False))
    assert seen == [(threading.get_ident(), 2)] * 3


def test_an_error_comes_out_and_little_is_begun_after_it():
    begun = []

    def work(i: int) -> int:
        begun.append(i)
        if i == 3:
            raise ValueError("three")
        return i

    results = mapped(work, iter(range(1000)), 2)
    with pytest.raises(ValueError, match="three"):
        list(results)
    # three results were handed out, and no more than 2 x 2 + 1 items are under way
    assert len(begun) <= 9
