"""The reliability curve of confidences."""

import numpy as np
import pytest

from scrflow.evaluate.metrics import reliability


def test_reliability_by_hand():
    p = np.array([0.0, 0.1, 0.1, 0.5, 0.9, 1.0])
    right = np.array([False, False, True, True, True, True])
    curve = reliability(p, right)
    assert curve.count.tolist() == [1, 2, 0, 1, 0, 1, 1]
    assert curve.right[1] == 0.5 and curve.said[1] == pytest.approx(0.1) and np.isnan(curve.right[2])
    # gaps by bin: 0, |0.2 - 1|, |0.5 - 1|, |0.9 - 1|, 0
    assert curve.calibration_error == pytest.approx((0.8 + 0.5 + 0.1) / 6)
    assert curve.brier == pytest.approx((0.01 + 0.81 + 0.25 + 0.01) / 6)
