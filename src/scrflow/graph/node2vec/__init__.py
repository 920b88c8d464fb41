"""Global encodings by Node2Vec on the covisibility graph (R-SCoRe).

Three engines: ``torch`` (``skipgram``), ``pyg`` (as R-SCoRe's public code) and ``node2vec`` (the named package, in its
own environment: the reference of a parity test). Of up to 8 192 images the torch engine counts all pairs of its walks
and minimises the expected loss; of more, where both would be quadratic, it learns from the walks as they come.
"""

import json
import logging
import os
import subprocess
import tempfile
import zlib
from pathlib import Path

import numpy as np
import scipy.sparse
import torch

from scrflow.config import Node2VecConfig, Node2VecStage
from scrflow.core.device import device_for
from scrflow.core.errors import ScrflowError
from scrflow.graph.covisibility import load_graph
from scrflow.graph.node2vec.pyg import UnweightedWalker, train_windows
from scrflow.graph.node2vec.skipgram import Walker, count_pairs, train, train_sampled
from scrflow.pipeline.stages import code_of
from scrflow.storage.artifact import Stamp, create_h5, write_json

KIND = "global-encoding"
METRICS_KIND = "node2vec-metrics"
_HELD_OUT = 0.1  # share of the edges
COUNTED_NODES = 8192  # up to so many, pairs are counted
SAMPLED_WALKS = 25  # a node, above that: 5 000 steps of 256 walks for 50 000 nodes
PYTHON_VARIABLE = "SCRFLOW_NODE2VEC_PYTHON"
_WORKER = Path(__file__).with_name("reference_worker.py")
_MOST_NODES = 2000  # of larger graphs, pairs among so many random nodes are looked at
_EDGES_AT_ONCE = 1 << 14

log = logging.getLogger("scrflow")


def embed(config: Node2VecStage, graph: Path, out: Path, metrics: Path, threads: int) -> None:
    """Write the encodings of a covisibility graph to ``out`` (HDF5) and how well they separate to ``metrics`` (JSON).

    ``out`` holds ``encoding`` [images, dim] float32, centred and of mean length 1 (see quality.normalised; of engine
    ``pyg`` the table as it is), and ``names``, in the graph's order. ScrflowError when the graph has no edge, or when
    the balanced average precision of link prediction is under ``min_average_precision`` (the metrics are written even
    so).
    """
    torch.set_num_threads(threads)
    c = config.node2vec
    loaded = load_graph(graph)
    if loaded.csr.nnz == 0:
        raise ScrflowError(
            f"{graph}: the covisibility graph has no edge, so there is nothing to embed; check the poses, "
            "depth_range of the scene and min_overlap of the graph"
        )
    encoding = node_vectors(c, loaded.csr, config.seed)
    if c.engine != "pyg":
        encoding = normalised(encoding)
    values = separation(encoding, loaded.csr, _rng(config.seed, "separation"))

    rest, edges = hold_out_edges(loaded.csr, _HELD_OUT, _rng(config.seed, "held out"))
    held_out = None
    if len(edges) and c.engine != "pyg":  # whose steps take minutes
        again = normalised(node_vectors(c, rest, config.seed))
        held_out = held_out_average_precision(again, loaded.csr, edges, _rng(config.seed, "separation"))

    stamp = Stamp.make(METRICS_KIND, config, code_of("embed_graph", config), graph=Path(graph))
    values = {
        "engine": c.engine,
        "images": len(loaded.names),
        "edges": loaded.csr.nnz // 2,
        "isolated": int((np.diff(loaded.csr.indptr) == 0).sum()),
        **values,
        "held_out_average_precision": held_out,
    }
    write_json(metrics, values, stamp)
    precision = values["average_precision"]
    shown = (f"{key.replace('_', ' ')} {value:.3f}" for key, value in values.items() if isinstance(value, float))
    log.info("node2vec: %s", ", ".join(shown))
    if precision is None:
        log.info("node2vec: every image sees every other, so separation cannot be measured")
    elif precision < c.min_average_precision:
        raise ScrflowError(
            f"node2vec: the embedding does not separate: average precision of link prediction {precision:.3f}, "
            f"at least {c.min_average_precision} wanted (key encodings: min_average_precision); set more walks "
            f"or iterations, or a graph with fewer weak edges (min_overlap). Metrics: {metrics}"
        )
    with create_h5(out, Stamp.make(KIND, config, stamp.code, graph=Path(graph))) as f:
        f.create_dataset("encoding", data=encoding)
        f.create_dataset("names", data=np.array([n.encode() for n in loaded.names]))


def node_vectors(
    config: Node2VecConfig,
    csr: scipy.sparse.csr_array,
    seed: int,
    device: torch.device | str | None = None,
    counted_nodes: int = COUNTED_NODES,
) -> np.ndarray:
    """Raw vectors [N, dim] of a graph by the configured engine; on a CPU the same seed gives the same bytes.

    ``device`` of the engines torch and pyg: that of the config when not given (``auto``: a GPU when there is one; for
    torch only if the graph is larger than ``counted_nodes``, as smaller ones take seconds on a CPU). Larger graphs take
    up to ``walks`` walks a node, but no more than 25, and do not read ``iterations`` (torch). ScrflowError when there
    is no GPU for ``cuda``.
    """
    if config.engine == "node2vec":
        return reference_vectors(config, csr, seed)
    large = csr.shape[0] > counted_nodes or config.engine == "pyg"
    device = torch.device(device or _device(config.device, large))
    walks, rest = _generator(seed, "walks", device), _generator(seed, "skip-gram")
    if config.engine == "pyg":
        walker = UnweightedWalker(csr, config.p, config.q, device)
        sizes = config.walks, config.length, config.context, config.negatives, config.iterations
        return train_windows(walker, config.dim, *sizes, walks, rest)
    walker = Walker(csr, config.p, config.q, device)
    if large:
        count = min(config.walks, SAMPLED_WALKS)
        return train_sampled(walker, config.dim, count, config.length, config.context, config.negatives, walks, rest)
    counts = count_pairs(walker, config.walks, config.length, config.context, walks)
    return train(counts, config.dim, config.negatives, config.iterations, rest, device)


def reference_python() -> Path:
    """The interpreter of the package's environment; ScrflowError that tells how to make it when there is none."""
    python = Path(os.environ.get(PYTHON_VARIABLE, ".venv-node2vec/bin/python"))
    if not python.is_file():
        raise ScrflowError(
            f"{python}: no environment for engine node2vec; make it with 'make node2vec-env' (envs/node2vec.txt), or "
            f"name another interpreter that has the package in {PYTHON_VARIABLE}"
        )
    return python


def reference_vectors(config: Node2VecConfig, csr: scipy.sparse.csr_array, seed: int) -> np.ndarray:
    """Vectors [N, dim] float32 of the graph by the package; one worker and a fixed hash seed, so they repeat."""
    python = reference_python()
    with tempfile.TemporaryDirectory(prefix="scrflow-node2vec-") as folder:
        graph, out = Path(folder, "graph.npz"), Path(folder, "vectors.npy")
        np.savez(graph, data=csr.data, indices=csr.indices, indptr=csr.indptr)
        keys = ("dim", "p", "q", "walks", "length", "context", "negatives", "epochs")
        settings = {k: getattr(config, k) for k in keys}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            [str(python), str(_WORKER), str(graph), str(out), json.dumps({**settings, "seed": seed})],
            env={**environment, **threads, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0 or not out.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise ScrflowError(
                f"engine node2vec ({python}) failed: {lines[-1]}; 'make node2vec-env' makes its environment"
            )
        return np.load(out)


def _device(wanted: str, large: bool) -> str:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ScrflowError("key encodings: device cuda, but torch sees no GPU; use auto or cpu")
    if wanted == "auto":
        return "cuda" if large and device_for().type == "cuda" else "cpu"
    return wanted


def _rng(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(f"node2vec.{name}".encode())])


def _generator(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(int(_rng(seed, name).integers(2**62)))


# ------------------------------------------------------------ does an embedding separate neighbours from others?


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
