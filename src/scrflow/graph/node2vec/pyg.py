"""Node2Vec as R-SCoRe's public code trains it: PyTorch Geometric's (pyg-team/pytorch_geometric,
nn/models/node2vec.py), 5 000 Adam steps of 256 nodes (cvg/scrstudio, method node2vec).

A step starts some walks from each of its nodes, on the graph without its weights. Every window of C neighbouring places
of a walk gives the pairs of its first node with the others, all with the same weight. Negative pairs are those of as
many random walks: the start node, then uniform draws. The loss is the mean of -log(sigmoid(u_i.u_j) + 1e-15) over the
pairs plus that of -log(1 - sigmoid(u_i.u_j) + 1e-15) over negative ones, and the start is N(0, 1). As
log-probabilities are computed in float32, a negative pair with a product over 17 has no gradient; it has none here.

A step has millions of pairs, far more than there are pairs of few thousand nodes. So they are counted, and the loss is
computed once for each pair of nodes.
"""

from collections.abc import Iterator

import numpy as np
import scipy.sparse
import torch
from torch.optim.adam import adam

from scrflow.core.progress import meter
from scrflow.graph.node2vec.skipgram import ADAM, LEARNING_RATE, Walker

_BATCH = 256  # nodes a step
_EPS = 1e-15
_SLAB = 1 << 26  # pairs of nodes whose losses are computed together
_TABLE_NODES = 1 << 14  # up to so many, a table says which are linked


class UnweightedWalker(Walker):
    """Walks that take no notice of the edges' weights, five times as fast as ``Walker`` of ones."""

    def __init__(self, csr: scipy.sparse.csr_array, p: float, q: float, device: torch.device | str = "cpu"):
        super().__init__(scipy.sparse.csr_array((np.ones(csr.nnz), csr.indices, csr.indptr), csr.shape), p, q, device)
        self._linked = None
        if self.nodes <= _TABLE_NODES:
            self._linked = torch.zeros(self.nodes**2, dtype=torch.uint8, device=device)
            self._linked[self._edge] = 1

    def _propose(self, v: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        degree = self.degree[v]
        slot = self._begin[v] + torch.minimum((u * degree).long(), degree - 1)
        return torch.where(degree > 0, self._neighbour[slot.clamp(0, len(self._neighbour) - 1)], v)

    def _edge_weight(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return super()._edge_weight(a, b) if self._linked is None else self._linked[a * self.nodes + b]


def train_windows(
    walker: Walker, dim: int, walks: int, length: int, context: int, negatives: int, steps: int, *seeds: torch.Generator
) -> np.ndarray:
    """Vectors [N, dim] float32 after ``steps`` steps, each with ``walks`` walks from 256 nodes (all, if there are not
    more). ``seeds``: a generator on the walker's device for walks and negatives, one on the CPU for start and order."""
    on_device, generator = seeds
    device, n = walker.degree.device, walker.nodes
    table = torch.randn((n, dim), generator=generator).to(device)
    gradient, mean, square = (torch.zeros_like(table) for _ in range(3))
    count = torch.zeros(())
    batches = _batches(n, generator)
    with meter("node2vec", steps) as step:
        for _ in range(steps):
            start = next(batches).to(device).repeat(walks)
            near = window_pairs(walker.walk(start, length, on_device), n, context)
            start = start.repeat(negatives)
            drawn = torch.randint(n, (len(start), length - 1), generator=on_device, device=device)
            far = window_pairs(torch.cat([start[:, None], drawn], 1), n, context)
            loss = loss_and_gradient(table, near, far, gradient)
            # the step of torch.optim.Adam, see skipgram
            adam([table], [gradient], [mean], [square], [], [count], lr=LEARNING_RATE, **ADAM)
            step(f"loss {float(loss):.4f}")
    return table.cpu().numpy()


def window_pairs(paths_WL: torch.Tensor, nodes: int, context: int) -> torch.Tensor:
    """Pairs of the first node i of each window with its others j, as keys i * nodes + j [W (L + 1 - C) (C - 1)]."""
    windows = paths_WL.shape[1] + 1 - context
    first = paths_WL[:, :windows] * nodes
    return torch.cat([(first + paths_WL[:, d : d + windows]).flatten() for d in range(1, context)])


def loss_and_gradient(
    table_ND: torch.Tensor, near: torch.Tensor, far: torch.Tensor, gradient_ND: torch.Tensor
) -> torch.Tensor:
    """The loss (scalar) of positive and negative pairs (keys); ``gradient_ND`` is set to its gradient."""
    n = len(table_ND)
    rows = max(1, _SLAB // n)
    if rows < n:
        near, far = near.sort().values, far.sort().values
    gradient_ND.zero_()
    loss = table_ND.new_zeros(())
    for begin in range(0, n, rows):
        end = min(begin + rows, n)
        pull, push = (_counts(keys, begin, end, n) / len(keys) for keys in (near, far))
        centre = table_ND[begin:end]
        p = torch.sigmoid(centre @ table_ND.T)  # [R, N]
        loss -= (pull * (p + _EPS).log() + push * (1 - p + _EPS).log()).sum()
        slope = p * (1 - p) * (push / (1 - p + _EPS) - pull / (p + _EPS))
        gradient_ND[begin:end] += slope @ table_ND
        gradient_ND += slope.T @ centre
    return loss


def _counts(keys: torch.Tensor, begin: int, end: int, n: int) -> torch.Tensor:
    """How often each pair of rows begin..end comes, [R, N]; keys are sorted where the rows are not all."""
    if end - begin < n:
        low, high = torch.searchsorted(keys, torch.tensor([begin * n, end * n], device=keys.device)).tolist()
        keys = keys[low:high] - begin * n
    return torch.bincount(keys, minlength=(end - begin) * n).view(end - begin, n).float()


def _batches(n: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Endless batches of 256 random nodes, of which each pass leaves out the last, as in the code; all, if there are
    not more (the code would find none)."""
    while True:
        order = torch.randperm(n, generator=generator)
        yield from order.split(_BATCH)[:-1] if n > _BATCH else [order]
