"""Node2Vec: biased random walks on a graph, and skip-gram with negative sampling (Mikolov et al., NIPS 2013) on them.

Counted (``count_pairs``, ``train``). Walks on a graph of N nodes hold far more pairs than there are pairs of nodes, so
pairs are counted first, and a step minimises the expectation of the sampled loss over a batch of centre nodes i against
every node j:

    sum_ij C_ij softplus(-u_i.u_j) + k C_i P_j softplus(u_i.u_j),

with C the counts, C_i their row sums, k the negatives a pair and P_j the noise distribution, C_j^(3/4). Sampling
converges to it (Levy and Goldberg, NIPS 2014); the expectation has neither its noise nor its scattered memory access.
One table serves as centre and as context, so the distance of two rows says how often two nodes meet.

Sampled (``train_sampled``). The counted loss weighs every pair of nodes in every step: time and memory are quadratic in
the nodes. For larger graphs a step takes 256 walks of 20 nodes. The pairs of a walk are one small product of its nodes
with themselves, weighted as ``count_pairs`` weighs them, and the noise is drawn: some nodes of P, shared by all walks
of the step, each standing for its share of the k negatives a pair. In expectation that is the same loss, with P
estimated from a few walks of every node. An update touches the rows of the step alone (lazy Adam), so a step costs the
same in a graph of any size.
"""

from collections.abc import Iterator

import numpy as np
import scipy.sparse
import torch
from torch.optim.adam import adam

from scrflow.core.progress import meter

_WALKS_AT_ONCE = 1 << 14
_BATCH = 256  # centre nodes a step
LEARNING_RATE = 0.01
# From a start of unit variance the vectors are nearly orthogonal, the sigmoids saturated, and they hardly move.
START = 0.01
# Pulls to zero what only the noise of the walks holds up: on redkitchen's graph the rank correlation of distance and
# overlap is 0.92 with it and 0.89 without (200 steps); ten times as much leaves a single direction.
DECAY = 1e-3
ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "maximize": False}
_WALKS = 256  # a step
_STEPS_AT_ONCE = 64  # whose walks are made together: a step of many walkers costs little more than one of few
# Nodes of the noise distribution a step. On 3 000 images of a synthetic city, average precision of held-out edges:
# 0.9954 with 64, 0.9964 with 128, 0.9975 with 512, which takes three times as long.
_NOISE = 128
_NOISE_WALKS = 8  # a node, for the noise distribution


class Walker:
    """Walks on a weighted graph (at least one edge) with return parameter ``p`` and in-out parameter ``q``.

    From t over v, the next node x has the probability w(v, x) a(t, x) / Z with a = 1/p for x = t, 1 for x next to t and
    1/q otherwise. It is drawn exactly, without tables of the second order: the return to t is a dart board of its own
    with the area w(v, t) / p; any other x is proposed with the first-order probability and accepted with
    a / max(1, 1/q).
    """

    def __init__(self, csr: scipy.sparse.csr_array, p: float, q: float, device: torch.device | str = "cpu"):
        csr = scipy.sparse.csr_array(csr)
        csr.sort_indices()
        self.nodes = csr.shape[0]
        rows = np.repeat(np.arange(self.nodes), np.diff(csr.indptr))
        weights = np.asarray(csr.data, np.float64)
        # sums on the host: a prefix sum on a GPU depends on the order in which its blocks finish
        cumulative = np.concatenate([[0.0], np.cumsum(weights)])

        def to(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
            return torch.as_tensor(array, dtype=dtype, device=device)

        self.degree = to(np.diff(csr.indptr), torch.int64)
        self._begin = to(csr.indptr[:-1], torch.int64)
        self._neighbour = to(csr.indices, torch.int64)
        self._weight = to(weights, torch.float64)
        self._cumulative = to(cumulative, torch.float64)
        self._total = to(cumulative[csr.indptr[1:]] - cumulative[csr.indptr[:-1]], torch.float64)
        self._edge = to(rows.astype(np.int64) * self.nodes + csr.indices, torch.int64)  # sorted keys row * N + column
        self._return = 1.0 / p
        self._out = 1.0 / q
        self._bound = max(1.0, self._out)

    def walk(self, start: torch.Tensor, length: int, generator: torch.Generator) -> torch.Tensor:
        """Walks [W, length] int64 from the nodes ``start`` [W]; from a node without neighbours it stays there."""
        path = start.new_empty((length, len(start)))
        path[0] = start
        if length > 1:
            u = torch.rand(len(start), dtype=torch.float64, device=start.device, generator=generator)
            path[1] = self._propose(start, u)
        for step in range(2, length):
            path[step] = self._second_order(path[step - 2], path[step - 1], generator)
        return path.T

    def _propose(self, v: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        at = self._cumulative[self._begin[v]] + u * self._total[v]
        slot = torch.searchsorted(self._cumulative, at, right=True) - 1
        # rounding may carry a draw over the row's ends
        slot = torch.minimum(torch.maximum(slot, self._begin[v]), self._begin[v] + self.degree[v] - 1)
        return torch.where(self.degree[v] > 0, self._neighbour[slot.clamp(min=0)], v)

    def _second_order(self, t: torch.Tensor, v: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        following = v.clone()
        open_ = torch.nonzero(self.degree[v] > 0)[:, 0]
        while len(open_):
            a, b = t[open_], v[open_]
            u = torch.rand((3, len(open_)), dtype=torch.float64, device=v.device, generator=generator)
            back = self._edge_weight(b, a) * self._return
            returns = u[0] * (back + self._bound * self._total[b]) < back
            x = torch.where(returns, a, self._propose(b, u[1]))
            bias = torch.where(self._edge_weight(a, x) > 0, 1.0, self._out)
            accepted = returns | ((x != a) & (u[2] * self._bound < bias))
            following[open_[accepted]] = x[accepted]
            open_ = open_[~accepted]
        return following

    def _edge_weight(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Weights of the edges a-b, 0 where there is none."""
        key = a * self.nodes + b
        slot = torch.searchsorted(self._edge, key).clamp(max=len(self._edge) - 1)
        return torch.where(self._edge[slot] == key, self._weight[slot], 0.0)


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


def noise_distribution(counts_N: np.ndarray) -> np.ndarray:
    """P [N], the unigram distribution to the power 3/4."""
    p = counts_N**0.75
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
    noise = torch.from_numpy(noise_distribution(np.asarray(counts.sum(1), np.float64))).float().to(device)
    batches = _batches(n, generator)
    with meter("node2vec", iterations) as step:
        for _ in range(iterations):
            nodes = next(batches)
            c = torch.from_numpy(counts[nodes.numpy()].toarray()).to(device)
            sums = c.sum(1, keepdim=True)
            scale = 1 / sums.sum().clamp(min=1e-6)
            centre = table[nodes.to(device)]
            loss, slope = loss_and_slope(centre @ table.T, c, negatives * sums * noise)
            slope *= scale
            torch.mul(table, 2 * DECAY / n, out=gradient)
            gradient += slope.T @ centre
            gradient[nodes.to(device)] += slope @ table
            # the step of torch.optim.Adam; to construct one imports torch._dynamo, 1.4 s of CPU time
            adam([table], [gradient], [mean], [square], [], [steps], lr=LEARNING_RATE, **ADAM)
            step(f"loss {float(loss * scale):.4f}")
    return table.cpu().numpy()


def _batches(n: int, generator: torch.Generator):
    """Endless batches of nodes; every node comes once a pass."""
    while True:
        yield from torch.randperm(n, generator=generator).split(_BATCH)


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
    return torch.from_numpy(noise_distribution(counts))


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
