"""Skip-gram with negative sampling (Mikolov et al., NIPS 2013) on random walks, in expectation.

Walks on a graph of N nodes hold far more pairs than there are pairs of nodes, so pairs are counted first, and a step
minimises the expectation of the sampled loss over a batch of centre nodes i against every node j:

    sum_ij C_ij softplus(-u_i.u_j) + k C_i P_j softplus(u_i.u_j),

with C the counts, C_i their row sums, k the negatives a pair and P_j the noise distribution, C_j^(3/4). It is what
sampling converges to (Levy and Goldberg, NIPS 2014), without its noise and its scattered memory access. One table
serves as centre and as context, so that the distance of two rows itself tells how often two nodes meet.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
import torch
from torch.optim.adam import adam

from scrflow.core.progress import meter
from scrflow.graph.node2vec.walks import Walker

_WALKS_AT_ONCE = 1 << 14
_BATCH = 256  # centre nodes a step
LEARNING_RATE = 0.01
# From a start of unit variance the vectors are nearly orthogonal, the sigmoids saturated, and they hardly move.
START = 0.01
# Pulls to zero what only the noise of the walks holds up: on redkitchen's graph the rank correlation of distance and
# overlap is 0.92 with it and 0.89 without (200 steps); ten times as much leaves a single direction.
DECAY = 1e-3
_ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "maximize": False}


def count_pairs(
    walker: Walker, walks: int, length: int, context: int, generator: torch.Generator
) -> scipy.sparse.csr_array:
    """Symmetric counts [N, N] float32 of the pairs within ``context`` steps of each other on ``walks`` walks a node.

    A pair at distance d counts (context + 1 - d) / context: the chance that word2vec's random window holds it.
    """
    n = walker.nodes
    device = walker.degree.device
    starts = torch.arange(n, device=device)[walker.degree > 0].repeat(walks)
    total = scipy.sparse.csr_array((n, n), dtype=np.float32)
    chunks = starts.split(_WALKS_AT_ONCE)
    with meter("random walks", len(chunks)) as step:
        for chunk in chunks:
            path = walker.walk(chunk, length, generator).cpu().numpy()
            keys, weights = [], []
            for d in range(1, min(context, length - 1) + 1):
                keys.append((path[:, :-d] * n + path[:, d:]).ravel())
                weights.append(np.full(keys[-1].size, (context + 1 - d) / context, np.float32))
            key = np.concatenate(keys)
            total += scipy.sparse.csr_array((np.concatenate(weights), (key // n, key % n)), shape=(n, n))
            step("")
    return scipy.sparse.csr_array(total + total.T)


def noise_distribution(counts: scipy.sparse.csr_array) -> np.ndarray:
    """P [N], the unigram distribution to the power 3/4."""
    p = np.asarray(counts.sum(1), np.float64).ravel() ** 0.75
    return p / p.sum()


def loss_and_slope(
    dots_BN: torch.Tensor, counts_BN: torch.Tensor, noise_BN: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss (scalar) of the dot products of a batch of centres with all nodes, and its derivative [B, N] by them.

    ``noise_BN`` is k C_i P_j.
    """
    softplus = torch.nn.functional.softplus(dots_BN)
    both = counts_BN + noise_BN
    loss = (both * softplus - counts_BN * dots_BN).sum()  # softplus(-s) = softplus(s) - s
    return loss, both * torch.sigmoid(dots_BN) - counts_BN


def train(
    counts: scipy.sparse.csr_array,
    dim: int,
    negatives: int,
    iterations: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Vectors [N, dim] float32 after ``iterations`` Adam steps of up to 256 centre nodes each.

    ``generator`` lives on the CPU, and so does the order of the batches: a GPU changes rounding alone.
    """
    n = counts.shape[0]
    table = (torch.randn((n, dim), generator=generator) * START).to(device)
    gradient, mean, square = (torch.zeros_like(table) for _ in range(3))
    steps = torch.zeros(())
    noise = torch.from_numpy(noise_distribution(counts)).float().to(device)
    batches = _batches(n, generator)
    dense = _dense(counts, np.arange(n), device) if n <= _BATCH else None
    with meter("node2vec", iterations) as step:
        for _ in range(iterations):
            nodes = next(batches)
            c = dense[nodes] if dense is not None else _dense(counts, nodes.numpy(), device)
            sums = c.sum(1, keepdim=True)
            scale = 1 / sums.sum().clamp(min=1e-6)
            centre = table[nodes.to(device)]
            loss, slope = loss_and_slope(centre @ table.T, c, negatives * sums * noise)
            slope *= scale
            torch.mul(table, 2 * DECAY / n, out=gradient)
            gradient += slope.T @ centre
            gradient[nodes.to(device)] += slope @ table
            # the step of torch.optim.Adam; to construct one imports torch._dynamo, 1.4 s of CPU time
            adam([table], [gradient], [mean], [square], [], [steps], lr=LEARNING_RATE, **_ADAM)
            step(f"loss {float(loss * scale):.4f}")
    return table.cpu().numpy()


def _dense(counts: scipy.sparse.csr_array, rows: np.ndarray, device: torch.device | str) -> torch.Tensor:
    return torch.from_numpy(counts[rows].toarray().astype(np.float32)).to(device)


def _batches(n: int, generator: torch.Generator):
    """Endless batches of nodes; every node comes once a pass."""
    while True:
        yield from torch.randperm(n, generator=generator).split(_BATCH)
