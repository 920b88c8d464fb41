"""Biased second-order random walks (node2vec; Grover and Leskovec, KDD 2016), all walkers at once."""

from __future__ import annotations

import numpy as np
import scipy.sparse
import torch


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
            path[1] = self._first_order(start, generator)
        for step in range(2, length):
            path[step] = self._second_order(path[step - 2], path[step - 1], generator)
        return path.T

    def _first_order(self, v: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        u = torch.rand(len(v), dtype=torch.float64, device=v.device, generator=generator)
        return self._propose(v, u)

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
