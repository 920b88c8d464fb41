"""Matchers of the features of two photos."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from scrflow.config import MatcherConfig
from scrflow.core.device import device_for
from scrflow.features.matching import Nearest, PhotoFeatures


class Matcher(Protocol):
    """Indices [M, 2] int64 of matched features of two photos, each feature at most once."""

    side_by_side: bool  # whether several threads may match pairs at once

    def __call__(self, first: PhotoFeatures, second: PhotoFeatures) -> np.ndarray: ...


def build_matcher(config: MatcherConfig, dim: int) -> Matcher:
    """The matcher of the config, for descriptors of ``dim`` numbers; ScrflowError for missing weights."""
    return Nearest(config.max_ratio, config.max_angle) if config.kind == "nearest" else LightGlue(config, dim)


class LightGlue:
    """LightGlue (Lindenberger et al., ICCV 2023): kornia's network with its published weights."""

    side_by_side = False  # 12 M parameters: one pair uses all threads

    def __init__(self, config: MatcherConfig, dim: int):
        from kornia.feature import LightGlue as KorniaLightGlue

        from scrflow.features.networks import load_strictly, read_tensors
        from scrflow.storage.weights import locate

        path = locate(config.weights)
        self._device = device_for()
        network = KorniaLightGlue(None, input_dim=dim, filter_threshold=config.min_score)
        # the thresholds are computed from the number of layers
        load_strictly(network, read_tensors(path), path, config.weights, missing={"confidence_thresholds"})
        self._network = network.to(self._device)

    @torch.inference_mode()
    def __call__(self, first: PhotoFeatures, second: PhotoFeatures) -> np.ndarray:
        found = self._network({"image0": self._input(first), "image1": self._input(second)})
        return found["matches"][0].cpu().numpy().astype(np.int64)

    def _input(self, features: PhotoFeatures) -> dict[str, torch.Tensor]:
        return {
            "keypoints": torch.from_numpy(features.pixels)[None].to(self._device),
            "descriptors": features.unit_descriptors()[None].to(self._device),
            "image_size": torch.tensor([features.size], dtype=torch.float32, device=self._device),
        }
