"""The decoder of GLACE eq. 6-8 against a plain implementation."""

import math

import numpy as np
import pytest
import torch

from scrflow.config import HeadConfig
from scrflow.training.head import Decoder, HomogeneousOffset


def offset_by_hand(d: list[float], w_hat: float, s_min: float, s_max: float) -> list[float]:
    beta = math.log(2) / (1 - 1 / s_max)
    w = min(1 / s_min, math.log(1 + math.exp(beta * w_hat)) / beta + 1 / s_max)
    return [x / w for x in d]


@pytest.mark.parametrize("w_hat", [-30.0, -2.0, 0.0, 0.7, 5.0, 50.0, 300.0])
def test_homogeneous_offset(w_hat):
    outputs = torch.tensor([[0.3, -1.2, 2.5, w_hat]], dtype=torch.float64)
    ours = HomogeneousOffset(0.01, 4.0)(outputs)[0]
    np.testing.assert_allclose(ours, offset_by_hand([0.3, -1.2, 2.5], w_hat, 0.01, 4.0), rtol=1e-9)
    if w_hat == 0:  # eq. 7's beta is chosen so that it gives w = 1
        np.testing.assert_allclose(ours, [0.3, -1.2, 2.5], rtol=1e-9)


def test_decoder_is_a_convex_combination_plus_offset():
    torch.manual_seed(0)
    centres = torch.randn(7, 3) * 20
    decoder = Decoder(16, centres, 0.01, 4.0, unit=1.0, hidden=16)
    x = torch.randn(5, 16)
    ours = decoder(x).detach().numpy()
    first, second = decoder.layers
    for row in range(5):
        h = torch.relu(second(torch.relu(first(x[row])))).detach().double()
        out = (decoder.out.weight.double() @ h + decoder.out.bias.double()).tolist()
        logits = out[4:]
        total = sum(math.exp(s) for s in logits)
        expected = offset_by_hand(out[:3], out[3], 0.01, 4.0)
        for s, c in zip(logits, centres.tolist(), strict=True):
            expected = [e + math.exp(s) / total * v for e, v in zip(expected, c, strict=True)]
        np.testing.assert_allclose(ours[row], expected, rtol=1e-4, atol=1e-4)


def test_a_head_too_narrow_for_the_encoding_is_refused():
    with pytest.raises(ValueError, match="width must be at least 96"):
        HeadConfig(width=64)
    assert HeadConfig(width=64, refine_blocks=0).width == 64
