"""The backbone of LoFTR (Sun et al., CVPR 2021) as a dense local encoder, as R-SCoRe uses it: kornia's network."""

import torch
import torch.nn.functional as F
from kornia.feature.loftr.backbone.resnet_fpn import ResNetFPN_8_2
from kornia.feature.loftr.loftr import default_cfg

from scrflow.core.errors import ScrflowError
from scrflow.features.encoders import LocalFeatures
from scrflow.features.networks import CELL, NetworkEncoder, grey, grid_features, load_published

_MODELS = ("outdoor", "indoor")
_PART = ("matcher.backbone.", "backbone.")  # the published files hold the whole matcher
_ORIGIN_PX = 0.5  # the receptive field of cell 0 is centred on the image's first pixel


class Loftr(NetworkEncoder):
    """A 256-d descriptor, not of unit length, for every cell of 8 x 8 px: the last stage of the ResNet."""

    dim = 256
    half_on_gpu = True

    def __init__(self, max_keypoints: int, model: str = "outdoor"):
        super().__init__()
        if model not in _MODELS:
            raise ScrflowError(f"encoder loftr: model {model!r}; there are {', '.join(_MODELS)}")
        self._model = ResNetFPN_8_2(default_cfg["resnetfpn"])
        load_published(self._model, f"loftr-{model}", key="state_dict", part=_PART)
        self._max_keypoints = max_keypoints

    def maps(self, images_B3HW: torch.Tensor) -> tuple[torch.Tensor]:
        height, width = images_B3HW.shape[2:]
        return (self.map(F.pad(grey(images_B3HW), (0, -width % CELL, 0, -height % CELL))),)

    def select(self, features: torch.Tensor, *, size: tuple[int, int]) -> LocalFeatures:
        return grid_features(features[0], _ORIGIN_PX, size, self._max_keypoints)

    def map(self, grey_B1HW: torch.Tensor) -> torch.Tensor:
        """Descriptors [B, 256, H/8, W/8] of grey images whose sides are multiples of 8."""
        m = self._model
        x = m.relu(m.bn1(m.conv1(grey_B1HW)))
        return m.layer3(m.layer2(m.layer1(x)))


ENCODER = Loftr
