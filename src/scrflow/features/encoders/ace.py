"""The encoder of ACE (Brachmann et al., CVPR 2023; sec. 3.2), from the paper and the published checkpoint's shapes."""

import torch
import torch.nn.functional as F
from torch import nn

from scrflow.features.encoders import LocalFeatures
from scrflow.features.networks import NetworkEncoder, grey, grid_features, load_published

_MEAN, _STD = 0.4, 0.25  # of the grey images that the published weights were trained with
ORIGIN_PX = 4.0


class AceNetwork(nn.Module):
    """Grey image [B, 1, H, W] to features [B, 512, H/8, W/8] (rounded up): four convolutions, two residual blocks."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 2, 1)
        self.conv3 = nn.Conv2d(64, 128, 3, 2, 1)
        self.conv4 = nn.Conv2d(128, 256, 3, 2, 1)
        self.res1_conv1 = nn.Conv2d(256, 256, 3, 1, 1)
        self.res1_conv2 = nn.Conv2d(256, 256, 1)
        self.res1_conv3 = nn.Conv2d(256, 256, 3, 1, 1)
        self.res2_conv1 = nn.Conv2d(256, 512, 3, 1, 1)
        self.res2_conv2 = nn.Conv2d(512, 512, 1)
        self.res2_conv3 = nn.Conv2d(512, 512, 3, 1, 1)
        self.res2_skip = nn.Conv2d(256, 512, 1)

    def forward(self, x_B1HW: torch.Tensor) -> torch.Tensor:
        x = x_B1HW
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = F.relu(layer(x))
        x = x + _chain(x, self.res1_conv1, self.res1_conv2, self.res1_conv3)
        return self.res2_skip(x) + _chain(x, self.res2_conv1, self.res2_conv2, self.res2_conv3)


def _chain(x: torch.Tensor, *layers: nn.Module) -> torch.Tensor:
    for layer in layers:
        x = F.relu(layer(x))
    return x


class Ace(NetworkEncoder):
    """A 512-d descriptor, not of unit length, for every cell of 8 x 8 px, which stands at the middle of its pixels. The
    middle of its receptive field is the first of them, (0.5, 0.5)."""

    dim = 512
    half_on_gpu = True

    def __init__(self, max_keypoints: int):
        super().__init__()
        self._model = AceNetwork()
        load_published(self._model, "ace")
        self._max_keypoints = max_keypoints

    def maps(self, images_B3HW: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.map(grey(images_B3HW)),)

    def select(self, features: torch.Tensor, *, size: tuple[int, int]) -> LocalFeatures:
        return grid_features(features[0], ORIGIN_PX, size, self._max_keypoints)

    def map(self, grey_B1HW: torch.Tensor) -> torch.Tensor:
        """Descriptors [B, 512, H/8, W/8] (rounded up) of grey images."""
        return self._model((grey_B1HW - _MEAN) / _STD)


ENCODER = Ace
