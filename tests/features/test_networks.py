"""What makes networks faster, against the plain form."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scrflow.features.networks import for_inference, window_max


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
