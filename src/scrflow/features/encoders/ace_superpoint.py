"""ACE's encoder and SuperPoint's joined, cells drawn by their probability of a corner (GLACE sec. 4.2 and B)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from scrflow.features.encoders import LocalFeatures
from scrflow.features.encoders.ace import ORIGIN_PX, Ace
from scrflow.features.encoders.superpoint import SuperPointNetwork
from scrflow.features.networks import CELL, grey, grid_features, load_published


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
        joined = torch.cat([ace, superpoint[0]])
        return grid_features(joined, ORIGIN_PX, (height, width), self._max_keypoints, corner)


ENCODER = AceSuperPoint
