"""Does an embedding separate neighbours from others? Measures on the graph that it was learnt from."""

from __future__ import annotations

import numpy as np
import scipy.sparse

_MOST_NODES = 2000  # of larger graphs, pairs among so many random nodes are looked at
_EDGES_AT_ONCE = 1 << 14


def normalised(vectors_ND: np.ndarray) -> np.ndarray:
    """Vectors [N, D] (float32) centred and divided by their mean length, as the head expects beside descriptors of unit
    length. One factor for all rows keeps the ratios of distances."""
    centred = vectors_ND - vectors_ND.mean(0, dtype=np.float64)
    length = float(np.linalg.norm(centred, axis=1).mean())
    return (centred / (length or 1.0)).astype(np.float32)


def balanced_average_precision(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Average precision of ``scores`` [M], larger for ``positive`` [M] bool, with both classes weighted to one half;
    None when a class is empty. So chance is 0.5 in nearly complete graphs too (redkitchen has 87 % of all pairs)."""
    positive = np.asarray(positive, bool)
    if not positive.any() or positive.all():
        return None
    order = np.argsort(-scores, kind="stable")
    hit = positive[order]
    true = np.cumsum(hit) / hit.sum()
    false = np.cumsum(~hit) / (~hit).sum()
    last = np.append(np.diff(scores[order]) != 0, True)  # the end of each run of equal scores
    true, false = true[last], false[last]
    return float(np.sum(np.diff(true, prepend=0.0) * true / (true + false)))


def separation(
    vectors_ND: np.ndarray, graph: scipy.sparse.csr_array, rng: np.random.Generator
) -> dict[str, float | None]:
    """Balanced ``average_precision`` of predicting an edge of the graph where two vectors are near, and mean distances
    of neighbours and of others; None where there are no such pairs. Nodes without an edge do not count."""
    distance, linked = _pairs(vectors_ND, graph, rng)
    return {
        "average_precision": balanced_average_precision(-distance, linked),
        "neighbour_distance": float(distance[linked].mean()) if linked.any() else None,
        "other_distance": float(distance[~linked].mean()) if not linked.all() else None,
    }


def hold_out_edges(
    graph: scipy.sparse.csr_array, share: float, rng: np.random.Generator
) -> tuple[scipy.sparse.csr_array, np.ndarray]:
    """The graph without a random share of its edges, and those edges [E, 2]; no node loses its last edge."""
    upper = scipy.sparse.triu(graph, 1).tocoo()
    degree = np.diff(graph.indptr).tolist()
    keep = np.ones(upper.nnz, bool)
    target = round(share * upper.nnz)
    order = rng.permutation(upper.nnz)
    # one edge at a time, as each one taken may save the next; it ends soon after the share of the edges
    for e, i, j in zip(order, upper.row[order].tolist(), upper.col[order].tolist(), strict=True):
        if not target:
            break
        if degree[i] > 1 and degree[j] > 1:
            keep[e] = False
            degree[i] -= 1
            degree[j] -= 1
            target -= 1
    half = scipy.sparse.csr_array((upper.data[keep], (upper.row[keep], upper.col[keep])), shape=graph.shape)
    return scipy.sparse.csr_array(half + half.T), np.column_stack([upper.row[~keep], upper.col[~keep]])


def held_out_average_precision(
    vectors_ND: np.ndarray, graph: scipy.sparse.csr_array, edges: np.ndarray, rng: np.random.Generator
) -> float | None:
    """Balanced average precision of held-out ``edges`` [E, 2], without which ``vectors_ND`` were learnt, against pairs
    that are no edge of the whole ``graph``; None when either class is empty."""
    distance, linked = _pairs(vectors_ND, graph, rng)
    parts = np.split(edges, range(_EDGES_AT_ONCE, len(edges), _EDGES_AT_ONCE))
    links = -np.concatenate([np.linalg.norm(vectors_ND[p[:, 0]] - vectors_ND[p[:, 1]], axis=1) for p in parts])
    scores = np.concatenate([links, -distance[~linked]])
    return balanced_average_precision(scores, np.arange(len(scores)) < len(links))


def _pairs(
    vectors_ND: np.ndarray, graph: scipy.sparse.csr_array, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of all pairs of nodes with an edge (of up to 2 000 random ones), and whether the pair is an edge."""
    nodes = np.flatnonzero(np.diff(graph.indptr) > 0)
    if len(nodes) > _MOST_NODES:
        nodes = np.sort(rng.choice(nodes, _MOST_NODES, replace=False))
    v = np.asarray(vectors_ND[nodes], np.float64)
    squares = (v * v).sum(1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares - 2 * v @ v.T, 0))
    pairs = np.triu_indices(len(nodes), 1)
    return distance[pairs], graph[nodes][:, nodes].toarray()[pairs] > 0
