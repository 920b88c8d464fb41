"""Smaller maps: fewer images, shorter retrieval features, fewer bytes an image (key ``map`` of a method)."""

from __future__ import annotations

import logging

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F

from scrflow.config import MapStage
from scrflow.core.errors import ScrflowError
from scrflow.core.seeds import derived_seed
from scrflow.features.retrieval import search
from scrflow.features.retrieval.search import Retriever, decoded
from scrflow.map.format import BOOKS, CODES, Tensors

log = logging.getLogger("scrflow")

_PREFIX = "retrieval."


def shrink(
    config: MapStage, tensors: Tensors, names: tuple[str, ...], overlap: scipy.sparse.csr_array | None
) -> tuple[Tensors, tuple[str, ...]]:
    """Tensors and image names of a map, reduced as ``config.map`` says.

    ``overlap`` [images, images], the covisibility graph, is needed to merge images. Retrieval features are decoded from
    the quantised index (for up to 256 images it holds them in float16). ScrflowError if the map has nothing to reduce.
    """
    wish = config.map
    if wish.merge is None and wish.retrieval_dim is None and wish.pq_bytes is None:
        return tensors, names
    if BOOKS not in tensors:
        raise ScrflowError("map.merge, retrieval_dim and pq_bytes need a map with an index of images; leave them out")
    tensors = dict(tensors)
    features = decoded(Retriever(names, tensors[BOOKS], tensors[CODES]))
    relearn = wish.pq_bytes is not None
    if wish.retrieval_dim is not None:
        features, changed = _cut(config, tensors, features, wish.retrieval_dim)
        relearn |= changed
    if wish.merge is not None:
        if overlap is None or "encoding" not in tensors:
            raise ScrflowError("map.merge needs encodings of images and their covisibility graph; leave it out")
        kept = merge_images(overlap, wish.merge)
        tensors["encoding"] = tensors["encoding"][kept]
        features, codes = features[kept], tensors[CODES][kept]
        # codebooks of so few images are the images' own features: only new ones are smaller
        relearn |= len(kept) <= search.ENTRIES
        tensors[CODES] = codes.contiguous()
        log.info("map: %d of %d images kept, the others overlap one of them by %g", len(kept), len(names), wish.merge)
        names = tuple(names[i] for i in kept.tolist())
    if relearn:
        parts = wish.pq_bytes or tensors[CODES].shape[1]
        books = search.learn_codebooks(features.numpy(), parts, derived_seed(config.seed, "map.pq") % (1 << 31))
        tensors |= {BOOKS: books, CODES: search.quantised(features, books)}
    return tensors, names


def merge_images(overlap: scipy.sparse.csr_array, least: float) -> torch.Tensor:
    """Rows [R], ascending, of images to keep: each other image is overlapped by one of them by ``least`` or more.

    Greedy: the next is the image that overlaps the most images not yet overlapped; of equals the first.
    """
    graph = scipy.sparse.csr_array(overlap)
    near = [set(graph.indices[a:b][graph.data[a:b] >= least].tolist()) | {i}
            for i, (a, b) in enumerate(zip(graph.indptr[:-1], graph.indptr[1:], strict=True))]  # fmt: skip
    count = np.array([len(n) for n in near])
    covered = np.zeros(len(near), bool)
    kept = []
    while count.max(initial=0) > 0:
        best = int(count.argmax())
        kept.append(best)
        for i in near[best]:
            if not covered[i]:
                covered[i] = True
                count[list(near[i])] -= 1  # the graph is symmetric
    return torch.tensor(sorted(kept))


def _cut(config: MapStage, tensors: Tensors, features: torch.Tensor, dim: int) -> tuple[torch.Tensor, bool]:
    """Features [N, d] of the first ``dim`` directions of each whitening (its rows are sorted by falling variance), and
    whether that changed anything. The matrices in ``tensors`` are cut too."""
    r = config.retrieval
    if r.dim is not None:
        return _cut_one(tensors, _PREFIX, features, dim)
    if r.kind != "fusion":
        raise ScrflowError(
            f"map.retrieval_dim: the {r.kind} feature has no whitening to cut; set its dim, or leave it out"
        )
    # a fusion without its own whitening: unit vectors side by side, each times its weight
    slices, first, changed = [], 0, False
    for i in range(len(r.parts)):
        matrix = tensors.get(f"{_PREFIX}part{i}.whitening")
        if matrix is None:
            raise ScrflowError(
                f"map.retrieval_dim: part {r.parts[i]} of the fusion has no whitening to cut; set its dim"
            )
        piece, cut = _cut_one(tensors, f"{_PREFIX}part{i}.", features[:, first : first + len(matrix)], dim)
        slices.append((r.weights[i] if r.weights else 1.0) * piece)
        first, changed = first + len(matrix), changed or cut
    return F.normalize(torch.cat(slices, 1), dim=1), changed


def _cut_one(tensors: Tensors, prefix: str, features: torch.Tensor, dim: int) -> tuple[torch.Tensor, bool]:
    matrix = tensors[f"{prefix}whitening"]
    features = features[:, : len(matrix)]  # without the zeros that pad the index's last part
    if dim >= len(matrix):
        return features, False
    tensors[f"{prefix}whitening"] = matrix[:dim].contiguous()
    return F.normalize(features[:, :dim], dim=1), True
