"""k-means of a few thousand points with torch alone (training machines may have no faiss)."""

from __future__ import annotations

import torch


def kmeans(points_ND: torch.Tensor, clusters: int, generator: torch.Generator, iterations: int = 50) -> torch.Tensor:
    """Centres [K, D] by Lloyd's algorithm with k-means++ seeds (Arthur and Vassilvitskii 2007); ValueError for more
    clusters than points."""
    if clusters > len(points_ND):
        raise ValueError(f"{clusters} clusters of {len(points_ND)} points")
    x = points_ND.double()
    if clusters == 1:
        return x.mean(0, keepdim=True)
    first = torch.randint(len(x), (1,), generator=generator)
    centres = x[first]
    nearest = (x - centres).pow(2).sum(1)
    for _ in range(clusters - 1):
        # if every point is a centre already, any further seed will do
        weight = nearest if nearest.sum() > 0 else torch.ones_like(nearest)
        pick = torch.multinomial(weight, 1, generator=generator)
        centres = torch.cat([centres, x[pick]])
        nearest = torch.minimum(nearest, (x - x[pick]).pow(2).sum(1))
    for _ in range(iterations):
        label = torch.cdist(x, centres).argmin(1)
        count = torch.bincount(label, minlength=clusters)
        total = torch.zeros_like(centres).index_add_(0, label, x)
        moved = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres
