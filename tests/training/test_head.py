"""The decoder's offset of GLACE eq. 6-7 where it is clamped; the rest of the head: test_losses."""

import math

import numpy as np
import pytest
import torch

from scrflow.training.head import HomogeneousOffset


@pytest.mark.parametrize("w_hat", [-30.0, -2.0, 0.0, 0.7, 5.0, 50.0, 300.0])
def test_homogeneous_offset(w_hat):
    beta = math.log(2) / (1 - 1 / 4.0)
    w = min(1 / 0.01, math.log(1 + math.exp(beta * w_hat)) / beta + 1 / 4.0)
    outputs = torch.tensor([[0.3, -1.2, 2.5, w_hat]], dtype=torch.float64)
    np.testing.assert_allclose(HomogeneousOffset(0.01, 4.0)(outputs)[0], np.array([0.3, -1.2, 2.5]) / w, rtol=1e-9)
    if w_hat == 0:  # eq. 7's beta is chosen so that it gives w = 1
        assert w == pytest.approx(1)
