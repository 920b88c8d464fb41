"""What training does on a GPU alone, as far as a CPU can tell."""

import math

import torch

from scrflow.config import HeadConfig
from scrflow.training.head import Head
from scrflow.training.losses import transformed
from scrflow.training.optimizer import Muon, activation_bytes


def muon_steps(scale: float | None, broken: int) -> torch.Tensor:
    """Parameters after steps of Muon with gradients as GradScaler hands them over; step ``broken`` overflowed."""
    torch.manual_seed(1)
    matrices = [torch.nn.Parameter(torch.randn(8, 6)) for _ in range(3)]
    optimizer = Muon(matrices, lr=0.1, weight_decay=0.1, dtype=torch.float32)
    for step in range(4):
        gradients = [torch.randn(8, 6) for _ in matrices]
        if step == broken:
            gradients[0][0, 0] = math.inf
            if scale is None:
                continue
        for matrix, gradient in zip(matrices, gradients, strict=True):
            matrix.grad = gradient * (scale or 1)
        if scale is not None:
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.tensor(float(step == broken))
        optimizer.step()
    return torch.cat([m.detach().flatten() for m in matrices])


def test_muon_unscales_and_skips_an_overflow_by_itself():
    assert torch.equal(muon_steps(None, -1), muon_steps(1024.0, -1))
    assert torch.equal(muon_steps(None, 2), muon_steps(1024.0, 2))


def test_products_of_small_matrices():
    generator = torch.Generator().manual_seed(2)
    matrices, vectors = (torch.randn(*shape, generator=generator) for shape in ((50, 3, 3), (50, 3)))
    by_hand = (matrices * vectors[:, None]).sum(2)
    torch.testing.assert_close(transformed(matrices, vectors), by_hand)


def test_activations_are_counted_by_the_row():
    """Against what the layers of a plain head keep: the input, and each layer's output."""
    config = HeadConfig(width=64, hidden_ratio=2, blocks=1, clusters=1, refine_blocks=0)
    head = Head(32, config, torch.zeros(1, 3))
    counted = activation_bytes(head, 32, 1000, half=False)
    least = 1000 * 4 * (32 + 2 * (64 + 128 + 64) + 64 + 64)
    assert least < counted < 2 * least
    assert activation_bytes(head, 32, 2000, half=False) == 2 * counted
    assert activation_bytes(head, 32, 1000, half=True) < counted
