"""ACE's encoder and SuperPoint's joined, cells drawn by their probability of a corner (GLACE sec. 4.2 and B)."""

import torch
import torch.nn.functional as F

from scrflow.features.encoders import LocalFeatures
from scrflow.features.encoders.ace import ORIGIN_PX, Ace
from scrflow.features.encoders.superpoint import SuperPointNetwork
from scrflow.features.networks import CELL, NetworkEncoder, grey, grid_features, load_published


class AceSuperPoint(NetworkEncoder):
    """A descriptor of 512 + 256 numbers for every cell of 8 x 8 px, ACE's first. The score is SuperPoint's probability
    of a corner in the cell."""

    dim = 768
    half_on_gpu = True

    def __init__(self, max_keypoints: int):
        super().__init__()
        self._ace = Ace(max_keypoints)
        self._superpoint = SuperPointNetwork()
        load_published(self._superpoint, "superpoint")
        self._max_keypoints = max_keypoints

    def maps(self, images_B3HW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        height, width = images_B3HW.shape[2:]
        x = grey(images_B3HW)
        padded = F.pad(x, (0, -width % CELL, 0, -height % CELL), mode="replicate")
        return self._ace.map(x), *self._superpoint(padded)

    def select(
        self, ace: torch.Tensor, heatmap: torch.Tensor, superpoint: torch.Tensor, *, size: tuple[int, int]
    ) -> LocalFeatures:
        corner = F.pixel_unshuffle(heatmap, CELL)[0].sum(0)
        return grid_features(torch.cat([ace[0], superpoint[0]]), ORIGIN_PX, size, self._max_keypoints, corner)


ENCODER = AceSuperPoint
