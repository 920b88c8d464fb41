"""Product quantisation (Jegou, Douze and Schmid, TPAMI 2011): a vector in a few bytes, searched by table look-up."""

from __future__ import annotations

import numpy as np
import torch

ENTRIES = 256  # one byte a part


def learn_codebooks(vectors_ND: np.ndarray, parts: int, seed: int) -> torch.Tensor:
    """Codebooks [M, E, S] float16: vectors are cut in M = min(parts, D) parts of S numbers, zeros filling the last.

    With more than 256 vectors faiss learns E = 256 centroids a part. Up to 256, every vector is its own centroid
    (E = N): k-means could only lose, the table is no larger, and the search is exact but for float16.
    """
    count, dim = vectors_ND.shape
    parts = min(parts, dim)
    size = -(-dim // parts)
    padded = np.zeros((count, parts * size), np.float32)
    padded[:, :dim] = vectors_ND
    if count <= ENTRIES:
        return torch.from_numpy(padded.reshape(count, parts, size)).transpose(0, 1).half().contiguous()
    import faiss

    quantiser = faiss.ProductQuantizer(parts * size, parts, 8)
    quantiser.cp.seed = seed
    quantiser.cp.min_points_per_centroid = 1  # small scenes have few images; faiss warns under 39 a centroid
    quantiser.train(padded)
    centroids = faiss.vector_to_array(quantiser.centroids).reshape(parts, ENTRIES, size)
    return torch.from_numpy(centroids.copy()).half()


def encode(vectors_ND: torch.Tensor, codebooks_MES: torch.Tensor) -> torch.Tensor:
    """Codes [N, M] uint8: the nearest entry of each part."""
    parts, _, size = codebooks_MES.shape
    vectors = _pad(vectors_ND, parts * size).view(-1, parts, size).transpose(0, 1)  # [M, N, S]
    distance = torch.cdist(vectors, codebooks_MES.float(), compute_mode="donot_use_mm_for_euclid_dist")
    return distance.argmin(2).T.to(torch.uint8).contiguous()


def squared_distances(query_D: torch.Tensor, codes_NM: torch.Tensor, codebooks_MES: torch.Tensor) -> torch.Tensor:
    """Asymmetric squared distances [N]: the query as it is against the quantised vectors."""
    parts, _, size = codebooks_MES.shape
    query = _pad(query_D[None], parts * size).view(parts, 1, size)
    table = ((codebooks_MES.float() - query) ** 2).sum(2)  # [M, E]
    return table.gather(1, codes_NM.T.long()).sum(0)


def _pad(vectors_ND: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.nn.functional.pad(vectors_ND.float(), (0, dim - vectors_ND.shape[1]))
