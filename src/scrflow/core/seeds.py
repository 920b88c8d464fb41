"""Named random generators: each use has its own, seeded by the run's one seed and a name."""

import hashlib

import numpy as np


def derived_seed(seed: int, *names: object) -> int:
    """A 63-bit seed that depends only on the seed and the names."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *names: object) -> np.random.Generator:
    """NumPy's generator of this name."""
    return np.random.default_rng(derived_seed(seed, *names))


def torch_generator(seed: int, *names: object):
    """Torch's CPU generator of this name."""
    import torch

    return torch.Generator().manual_seed(derived_seed(seed, *names))
