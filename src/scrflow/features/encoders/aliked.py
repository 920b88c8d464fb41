"""ALIKED (Zhao et al., TIM 2023): kornia's network with its published weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from kornia.feature import ALIKED as KorniaAliked

from scrflow.features.encoders import LocalFeatures
from scrflow.features.networks import load_published

_BUFFERS = {"dkd.hw_grid"}  # kornia's constant that the published files do not hold


class Aliked:
    """128-d descriptors at sub-pixel keypoints of the score map."""

    dim = 128

    def __init__(self, max_keypoints: int, model: str = "aliked-n16rot", detection_threshold: float = 0.2):
        self._model = KorniaAliked(
            model_name=model, max_num_keypoints=max_keypoints, detection_threshold=detection_threshold
        )
        load_published(self._model, model, missing=_BUFFERS)
        self._max_keypoints = max_keypoints

    @torch.inference_mode()
    def __call__(self, image_3HW: torch.Tensor) -> LocalFeatures:
        out = self._model(image_3HW[None])
        out = out[0] if isinstance(out, list | tuple) else out
        order = torch.argsort(out.keypoint_scores, descending=True, stable=True)[: self._max_keypoints]
        # kornia gives pixel indices: the centre of the top-left pixel is (0, 0)
        return LocalFeatures(
            out.keypoints[order].float() + 0.5,
            F.normalize(out.descriptors[order].float(), dim=1),
            out.keypoint_scores[order],
        )


ENCODER = Aliked
