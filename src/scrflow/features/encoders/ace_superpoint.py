"""ACE's encoder and SuperPoint's joined, cells drawn by their probability of a corner (GLACE sec. 4.2 and B)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from scrflow.core.seeds import torch_generator
from scrflow.features.encoders import LocalFeatures
from scrflow.features.encoders.ace import ORIGIN_PX, Ace
from scrflow.features.encoders.superpoint import SuperPointNetwork
from scrflow.features.networks import CELL, grey, load_published


class AceSuperPoint:
    """A descriptor of 512 + 256 numbers for every cell of 8 x 8 px, ACE's first. The score is SuperPoint's probability
    of a corner in the cell."""

    dim = 768

    def __init__(self, max_keypoints: int):
        self._ace = Ace(max_keypoints)
        self._superpoint = SuperPointNetwork()
        load_published(self._superpoint, "superpoint")
        self._max_keypoints = max_keypoints

    @torch.inference_mode()
    def __call__(self, image_3HW: torch.Tensor) -> LocalFeatures:
        height, width = image_3HW.shape[1:]
        x = grey(image_3HW)
        ace = self._ace.map(x)[0]
        padded = F.pad(x, (0, -width % CELL, 0, -height % CELL), mode="replicate")
        heatmap, superpoint = self._superpoint(padded)
        corner = F.pixel_unshuffle(heatmap, CELL)[0].sum(0)
        return joined_cells(ace, superpoint[0], corner, (height, width), self._max_keypoints)


def joined_cells(
    ace_DHW: torch.Tensor, superpoint_DHW: torch.Tensor, corner_HW: torch.Tensor, size: tuple[int, int], count: int
) -> LocalFeatures:
    """Up to ``count`` cells inside an image of ``size`` (height, width), drawn by their probability of a corner."""
    _, rows, columns = ace_DHW.shape
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    pixels = torch.stack([column, row], 2).reshape(-1, 2) * float(CELL) + ORIGIN_PX
    order = drawn_by_score(corner_HW)
    order = order[(pixels[order] < torch.tensor([size[1], size[0]])).all(1)][:count]
    descriptors = torch.cat([ace_DHW, superpoint_DHW]).flatten(1)[:, order].T
    return LocalFeatures(pixels[order], descriptors.float().contiguous(), corner_HW.flatten()[order].float())


def drawn_by_score(score_HW: torch.Tensor) -> torch.Tensor:
    """Cells [H * W] drawn without replacement in proportion to the scores (Efraimidis and Spirakis 2006)."""
    u = torch.rand(score_HW.numel(), generator=torch_generator(0, "cells by score", *score_HW.shape))
    return torch.argsort(-u.clamp(min=1e-12).log() / score_HW.flatten().clamp(min=1e-12), stable=True)


ENCODER = AceSuperPoint
