"""Skip-gram with negative sampling on walks as they come: for graphs whose counts of all pairs would not fit.

``skipgram.train`` weighs every pair of nodes in every step: its time and its memory are quadratic in the nodes. Here a
step takes 256 walks of 20 nodes. The pairs of a walk are one small product of its nodes with themselves, weighted as
``count_pairs`` weighs them (the chance that word2vec's random window holds the pair), and the noise is drawn: some
nodes of the noise distribution P, shared by all walks of the step, each standing for its share of the k negatives a
pair. In expectation that is the same loss, its noise distribution estimated from a few walks of every node.

An update touches the rows of the step alone (lazy Adam), so a step costs the same in a graph of any size.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from scrflow.core.progress import meter
from scrflow.graph.node2vec.skipgram import DECAY, LEARNING_RATE, START, loss_and_slope
from scrflow.graph.node2vec.walks import Walker

_WALKS = 256  # a step
_STEPS_AT_ONCE = 64  # whose walks are made together: a step of many walkers costs little more than one of few
# Nodes of the noise distribution a step. On 3 000 images of a synthetic city, average precision of held-out edges:
# 0.9954 with 64, 0.9964 with 128, 0.9975 with 512, which takes three times as long.
_NOISE = 128
_NOISE_WALKS = 8  # a node, for the noise distribution


def train_sampled(
    walker: Walker,
    dim: int,
    walks: int,
    length: int,
    context: int,
    negatives: int,
    walk_generator: torch.Generator,
    generator: torch.Generator,
) -> np.ndarray:
    """Vectors [N, dim] float32 after ``walks`` walks from every node with a neighbour, 256 a step; others get zeros.

    ``walk_generator`` lives on the walker's device, ``generator`` (start, order, noise) on the CPU.
    """
    device = walker.degree.device
    weights = window_weights(length, context).to(device)  # [L, L]
    mass = weights.sum(1)  # [L]: what a place in a walk counts
    noise = _noise_distribution(walker, length, mass, walk_generator)
    table = (torch.randn((walker.nodes, dim), generator=generator) * START).to(device)
    table[walker.degree == 0] = 0
    optimiser = torch.optim.SparseAdam([table], lr=LEARNING_RATE)
    steps = -(-int((walker.degree > 0).sum()) * walks // _WALKS)
    with meter("node2vec", steps) as step:
        for number, path in enumerate(_paths(walker, length, steps, walk_generator, generator)):
            optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 - number / steps)
            drawn = torch.multinomial(noise, _NOISE, replacement=True, generator=generator).to(device)
            rows, others = table[path], table[drawn]  # [W, L, D], [M, D]
            loss, slope, push = loss_and_slopes(rows, others, weights, negatives)
            slope = (slope + rows * (2 * DECAY / path.numel())).flatten(0, 1)
            touched = torch.cat([path.flatten(), drawn])
            table.grad = torch.sparse_coo_tensor(
                touched[None], torch.cat([slope, push]), table.shape, check_invariants=False
            )
            optimiser.step()
            step(f"loss {float(loss):.4f}")
    return table.cpu().numpy()


def loss_and_slopes(
    rows_WLD: torch.Tensor, others_MD: torch.Tensor, weights_LL: torch.Tensor, negatives: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss a pair (scalar) of walks against themselves and against drawn nodes; its slopes by both.

    The k negatives of a pair fall on the M nodes in equal shares.
    """
    flat = rows_WLD.flatten(0, 1)
    mass = weights_LL.sum(1)
    share = 1 / (mass.sum() * len(rows_WLD))
    zero = share.new_zeros(())
    near, pull = loss_and_slope(rows_WLD @ rows_WLD.mT, weights_LL, zero)  # [W, L, L]
    far, push = loss_and_slope(
        flat @ others_MD.T, zero, negatives * mass.repeat(len(rows_WLD))[:, None] / len(others_MD)
    )  # [W L, M]
    # 2: a pair of places comes twice, with each as the centre
    by_rows = 2 * pull @ rows_WLD + (push @ others_MD).view_as(rows_WLD)
    return (near + far) * share, by_rows * share, push.T @ flat * share


def window_weights(length: int, context: int) -> torch.Tensor:
    """[L, L] float32: (context + 1 - d) / context for places of a walk at distance d of 1 to ``context``, else 0."""
    place = torch.arange(length)
    distance = (place[:, None] - place).abs()
    return torch.where((distance > 0) & (distance <= context), (context + 1 - distance) / context, 0.0)


def _noise_distribution(walker: Walker, length: int, mass: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """P [N] on the CPU: what the nodes count on a few walks from each, to the power 3/4."""
    starts = torch.nonzero(walker.degree > 0)[:, 0].repeat(_NOISE_WALKS)
    counts = np.zeros(walker.nodes)
    for chunk in starts.split(_WALKS * _STEPS_AT_ONCE):
        path = walker.walk(chunk, length, generator).cpu().numpy()
        counts += np.bincount(path.ravel(), np.tile(mass.cpu().numpy(), len(path)), walker.nodes)
    p = counts**0.75
    return torch.from_numpy(p / p.sum())


def _paths(
    walker: Walker, length: int, steps: int, walk_generator: torch.Generator, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    """``steps`` batches of walks [256, L]; every node with a neighbour starts one before any starts its next."""
    nodes = torch.nonzero(walker.degree > 0)[:, 0].cpu()
    left = steps
    waiting = nodes[:0]
    while left:
        count = min(left, _STEPS_AT_ONCE)
        while len(waiting) < count * _WALKS:
            waiting = torch.cat([waiting, nodes[torch.randperm(len(nodes), generator=generator)]])
        starts, waiting = waiting[: count * _WALKS], waiting[count * _WALKS :]
        yield from walker.walk(starts.to(walker.degree.device), length, walk_generator).split(_WALKS)
        left -= count
