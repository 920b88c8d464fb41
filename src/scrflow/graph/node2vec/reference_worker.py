"""Runs the package node2vec on a graph: ``python reference_worker.py graph.npz vectors.npy '{"dim": 256, ...}'``.

Stands alone: it needs numpy, networkx, gensim and node2vec, and nothing of this package.
"""

import json
import sys


def main(graph_path, out_path, settings):
    """Write vectors [N, dim] float32; a node that no walk reaches gets zeros."""
    import networkx
    import numpy as np
    from node2vec import Node2Vec

    with np.load(graph_path) as z:
        data, indices, indptr = z["data"], z["indices"], z["indptr"]
    nodes = len(indptr) - 1
    graph = networkx.Graph()
    graph.add_nodes_from(range(nodes))
    for i in range(nodes):
        for k in range(indptr[i], indptr[i + 1]):
            if i < indices[k]:
                graph.add_edge(i, int(indices[k]), weight=float(data[k]))
    walks = Node2Vec(
        graph,
        dimensions=settings["dim"],
        walk_length=settings["length"],
        num_walks=settings["walks"],
        p=settings["p"],
        q=settings["q"],
        workers=1,
        seed=settings["seed"],
        quiet=True,
    )
    model = walks.fit(
        window=settings["context"],
        negative=settings["negatives"],
        epochs=settings["epochs"],
        sg=1,
        min_count=0,
        workers=1,
        seed=settings["seed"],
    )
    vectors = np.zeros((nodes, settings["dim"]), np.float32)
    for i in range(nodes):
        if str(i) in model.wv:
            vectors[i] = model.wv[str(i)]
    np.save(out_path, vectors)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
