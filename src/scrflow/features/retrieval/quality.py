"""How well a retrieval feature retrieves: the quantised search against the exact one, and both against known poses.

Queries are looked at here and nowhere else in this package: nothing is learnt from them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from scrflow.features.retrieval.search import Retriever

ANGLE_DEG = 30.0  # views within it (and near enough) look alike enough for one to serve as the other's hypothesis
_RANKS = (1, 10)
_ROWS = (
    1000  # images that are tried as queries, evenly spaced: the work grows with their number times that of all images
)
_NEIGHBOURS = 5  # frames of a video before and after an image, which show what it shows; fewer of few images


def measure(
    retriever: Retriever,
    vectors_ND: np.ndarray,
    poses_N34: np.ndarray,
    near: float,
    queries: dict[str, np.ndarray] | None = None,
    query_poses: dict[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Sizes, and recalls of mapping images (leave-one-out) and of described queries.

    ``vectors_ND`` are the mapping images' descriptors before quantisation, ``poses_N34`` their cam_from_world, ``near``
    the distance (scene units) within which an image counts as found, together with ANGLE_DEG between the rotations.
    ``queries`` holds descriptors by name, ``query_poses`` the poses of some of them. The result:

    ``quantised_vs_exact``: recall@1, the share of images whose nearest is the same in both searches, and recall@10, the
    share of the ten nearest that are. A mapping image is not its own neighbour.
    ``by_pose``: with the quantised search, recall@k, the share of images with a near one among k, and precision@10, the
    share of near ones among ten. Images without any near candidate are not counted (``without``). For a mapping image
    the neighbours in the order of names (``skipped`` before and after) are no candidates: frames of a video would find
    each other. Where photos are unordered that only makes the task harder.
    """
    exact = torch.from_numpy(np.ascontiguousarray(vectors_ND, np.float32))
    coded = decoded(retriever)[:, : exact.shape[1]]
    count = len(exact)
    rows = torch.from_numpy(np.unique(np.linspace(0, count - 1, min(count, _ROWS)).round().astype(int)))
    skipped = min(_NEIGHBOURS, count // 20)
    order = torch.arange(count)
    apart = (rows[:, None] - order).abs()
    poses = torch.from_numpy(np.asarray(poses_N34, np.float64))
    compared = {"mapping": _agreement(exact[rows], exact, coded, apart > 0)}
    found = {"mapping": _found(exact[rows], poses[rows], coded, poses, near, apart > skipped) | {"skipped": skipped}}
    if queries:
        names = sorted(queries)
        vectors = torch.from_numpy(np.stack([queries[n] for n in names]).astype(np.float32))
        compared["queries"] = _agreement(vectors, exact, coded)
        posed = [i for i, n in enumerate(names) if n in (query_poses or {})]
        if posed:
            reference = torch.from_numpy(np.stack([query_poses[names[i]] for i in posed]))
            found["queries"] = _found(vectors[posed], reference, coded, poses, near)
    tensors = retriever.tensors().values()
    return {
        "images": count,
        "dim": exact.shape[1],
        "bytes_per_image": retriever.codes.shape[1],
        "model_mb": round(sum(t.numel() * t.element_size() for t in tensors) / 1e6, 3),
        "near": {"distance": near, "angle_deg": ANGLE_DEG},
        "quantised_vs_exact": compared,
        "by_pose": found,
    }


def decoded(retriever: Retriever) -> torch.Tensor:
    """What the codes stand for, [N, dim] float32 (with the zeros that fill the last part): distances to it are those of
    the quantised search."""
    parts = torch.arange(len(retriever.codebooks))
    return retriever.codebooks.float()[parts, retriever.codes.long()].flatten(1)


def near_pairs(poses_Q34: torch.Tensor, poses_N34: torch.Tensor, near: float) -> torch.Tensor:
    """[Q, N] bool: centres within ``near`` and rotations within ANGLE_DEG."""
    centres = [-torch.einsum("nij,ni->nj", p[:, :, :3], p[:, :, 3]) for p in (poses_Q34, poses_N34)]
    trace = torch.einsum("qij,nij->qn", poses_Q34[:, :, :3], poses_N34[:, :, :3])
    return (torch.cdist(*centres) <= near) & ((trace - 1) / 2 >= np.cos(np.radians(ANGLE_DEG)))


def _ranked(
    vectors: torch.Tensor, database: torch.Tensor, allowed: torch.Tensor | None, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [Q, k] of the nearest allowed candidates, and whether there are so many [Q, k]."""
    distance = torch.cdist(vectors, database)
    if allowed is not None:
        distance = distance.masked_fill(~allowed, torch.inf)
    value, index = distance.topk(min(k, len(database)), largest=False)
    return index, value.isfinite()


def _agreement(
    vectors: torch.Tensor, exact: torch.Tensor, coded: torch.Tensor, allowed: torch.Tensor | None = None
) -> dict[str, Any]:
    (a, there), (b, _) = (_ranked(vectors, database, allowed, max(_RANKS)) for database in (exact, coded))
    out: dict[str, Any] = {"count": len(vectors)}
    for k in _RANKS:
        same = (a[:, :k, None] == b[:, None, :k]).any(2) & there[:, :k]
        out[f"recall@{k}"] = _share(same.sum(), there[:, :k].sum())
    return out


def _found(
    vectors: torch.Tensor,
    poses: torch.Tensor,
    coded: torch.Tensor,
    database_poses: torch.Tensor,
    near: float,
    allowed: torch.Tensor | None = None,
) -> dict[str, Any]:
    good = near_pairs(poses, database_poses, near)
    if allowed is not None:
        good &= allowed
    possible = good.any(1)
    index, there = _ranked(vectors, coded, allowed, max(_RANKS))
    hit = (good.gather(1, index) & there)[possible]
    out: dict[str, Any] = {"count": int(possible.sum()), "without": int((~possible).sum())}
    for k in _RANKS:
        out[f"recall@{k}"] = _share(hit[:, :k].any(1).sum(), len(hit))
    out[f"precision@{max(_RANKS)}"] = _share(hit.sum(), there[possible].sum())
    return out


def _share(part: Any, whole: Any) -> float | None:
    return round(float(part) / float(whole), 4) if float(whole) else None
