"""The encoding of a photo from its own retrieval feature (GLACE). Torch alone.

Which kind of global encoding is which paper's, by ``global_encoding.name`` of a method:

- null: ACE (Brachmann et al., CVPR 2023).
- a retrieval feature, with ``noise`` 0.1: GLACE, "Diffusion" (Wang et al., CVPR 2024, section 3.2, Table 6).
- a retrieval feature, with ``noise`` 0: GLACE's "Naive Concatenation", "Identity" in Table 6.
- an encoding of kind ``clusters``: GLACE's "Explicit Clustering", K = 4, 32, 128 in Table 6. K-means of the retrieval
  features; each image's encoding is the centre of its cluster, and a query's is the centre nearest to its feature.
- an encoding of kind ``node2vec``: R-SCoRe (CVPR 2025); a query takes those of retrieved images.
"""

from __future__ import annotations

import torch


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
