"""PCA against numpy's singular vectors, as they are and scaled."""

import numpy as np
import torch

from scrflow.features.pca import Pca


def test_projections():
    rng = np.random.default_rng(0)
    descriptors = rng.normal(3, np.linspace(0.2, 5, 12), (500, 12)) @ rng.normal(size=(12, 12))
    x = torch.from_numpy(descriptors).float()
    centred = descriptors - descriptors.mean(0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:4]
    plain = centred @ directions.T
    raw, scaled = (Pca.fit(x, 4, scaled)(x).numpy() for scaled in (False, True))
    sign = np.sign((raw * plain).sum(0))
    # float32, of entries up to 84; measured 7e-6
    np.testing.assert_allclose(raw, plain * sign, atol=5e-4)
    np.testing.assert_allclose(scaled, raw / np.sqrt((plain**2).mean()), atol=1e-4)
