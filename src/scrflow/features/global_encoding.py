"""Global encodings: read, scaled, and from a photo's own retrieval feature (GLACE).

Which kind of global encoding is which paper's, by ``global_encoding.name`` of a method:

- null: ACE (Brachmann et al., CVPR 2023).
- a retrieval feature, with ``noise`` 0.1: GLACE, "Diffusion" (Wang et al., CVPR 2024, section 3.2, Table 6).
- a retrieval feature, with ``noise`` 0: GLACE's "Naive Concatenation", "Identity" in Table 6.
- an encoding of kind ``clusters``: GLACE's "Explicit Clustering", K = 4, 32, 128 in Table 6. K-means of the retrieval
  features; each image's encoding is the centre of its cluster, and a query's is the centre nearest to its feature.
- an encoding of kind ``node2vec``: R-SCoRe (CVPR 2025); a query takes those of retrieved images.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from scrflow.core.errors import ScrflowError
from scrflow.storage.artifact import open_h5, read_stamp


def nearest_centre(features_ND: torch.Tensor, centres_KD: torch.Tensor) -> torch.Tensor:
    """Index [N] int64 of the nearest centre; of equally near ones the first."""
    distance = torch.cdist(features_ND.float(), centres_KD.float(), compute_mode="donot_use_mm_for_euclid_dist")
    return distance.argmin(1)


def own_encoding(feature_D: torch.Tensor, centres_KD: torch.Tensor | None) -> torch.Tensor:
    """The encoding [D], unit length, of a photo from its own retrieval feature: the feature, or with ``centres`` the
    nearest of them."""
    if centres_KD is not None:
        centres_KD = centres_KD.to(feature_D.device)
        feature_D = centres_KD[nearest_centre(feature_D[None], centres_KD)[0]]
    return unit_length(feature_D[None])[0]


def unit_length(rows_ND: torch.Tensor) -> torch.Tensor:
    """Rows scaled to unit length; zeros stay."""
    return torch.nn.functional.normalize(rows_ND.float(), dim=1, eps=1e-12)


def standardised(encoding: torch.Tensor, per_row: bool = False) -> torch.Tensor:
    """Encodings [N, D] scaled so that an entry has a mean square of 1, over all rows or in each."""
    norm = torch.linalg.vector_norm(encoding, dim=1, keepdim=True)
    scale = norm if per_row else norm.pow(2).mean().sqrt()
    return encoding / scale.clamp(min=1e-12) * math.sqrt(encoding.shape[1])


def read_global_encoding(path: Path, names: tuple[str, ...]) -> torch.Tensor:
    """Encodings [images, D] in the order of ``names``, from Node2Vec's file or one in hloc's layout.

    Raises ScrflowError naming the first image that has none.
    """
    kind = read_stamp(path).kind
    with open_h5(path, kind) as f:
        if "encoding" in f and "names" in f:
            held = {n.decode() if isinstance(n, bytes) else n: i for i, n in enumerate(f["names"][:])}
            rows = f["encoding"][:]
            vectors = [rows[held[n]] if n in held else None for n in names]
        else:
            vectors = [f[n]["global_descriptor"][:] if n in f else None for n in names]
    for name, vector in zip(names, vectors, strict=True):
        if vector is None or not np.isfinite(vector).all():
            raise ScrflowError(f"{path}: no finite encoding of mapping image {name}; make the file again")
    return torch.from_numpy(np.stack(vectors)).float()


def read_centres(path: Path) -> torch.Tensor:
    """Centres [K, D] of the clusters that encodings of kind ``clusters`` are; ScrflowError where the file has none."""
    with open_h5(path, "global-encoding") as f:
        if "centres" not in f:
            raise ScrflowError(f"{path}: no cluster centres; delete it and run again")
        return torch.from_numpy(f["centres"][:]).float()
