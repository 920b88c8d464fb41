"""ALIKED (Zhao et al., TIM 2023): kornia's network with its published weights."""

import torch
import torch.nn.functional as F
from kornia.feature import ALIKED as KorniaAliked

from scrflow.features.encoders import LocalFeatures
from scrflow.features.networks import NetworkEncoder, load_published

_BUFFERS = {"dkd.hw_grid"}  # kornia's constant that the published files do not hold


class Aliked(NetworkEncoder):
    """128-d descriptors at sub-pixel keypoints of the score map."""

    dim = 128

    def __init__(self, max_keypoints: int, model: str = "aliked-n16rot", detection_threshold: float = 0.2):
        super().__init__()
        self._model = KorniaAliked(
            model_name=model, max_num_keypoints=max_keypoints, detection_threshold=detection_threshold
        )
        load_published(self._model, model, missing=_BUFFERS)
        self._max_keypoints = max_keypoints

    def maps(self, images_B3HW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._model.extract_dense_map(images_B3HW)

    def select(self, features: torch.Tensor, scores: torch.Tensor, *, size: tuple[int, int]) -> LocalFeatures:
        keypoints, score, _ = self._model.dkd(scores)  # keypoints in -1..1
        descriptors, _ = self._model.desc_head(features, keypoints)
        order = torch.argsort(score[0], descending=True, stable=True)[: self._max_keypoints]
        last = torch.tensor([size[1] - 1, size[0] - 1], device=features.device, dtype=torch.float32)
        # the centre of kornia's top-left pixel is (0, 0)
        return LocalFeatures(
            (last * (keypoints[0] + 1) / 2.0)[order] + 0.5, F.normalize(descriptors[0][order], dim=1), score[0][order]
        )


ENCODER = Aliked
