"""What encoders on a grid of 8 x 8 px share: grey images, the pixels of cells, a choice of cells."""

from __future__ import annotations

import torch

from scrflow.core.seeds import torch_generator
from scrflow.features.encoders.base import LocalFeatures

CELL = 8  # px


def grey(image_3HW: torch.Tensor) -> torch.Tensor:
    """Luma [1, 1, H, W] of an RGB image (ITU-R BT.601, the grey of the tools that these networks were trained with)."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (image_3HW * weights).sum(0)[None, None]


def grid_features(map_DHW: torch.Tensor, origin_px: float, size: tuple[int, int], max_keypoints: int) -> LocalFeatures:
    """Cells of a descriptor map as features of an image of ``size`` (height, width).

    Cell (row, column) stands at pixel (8 column + origin, 8 row + origin); cells outside the image go. No cell is
    better than another: all scores are 1, and the order is a permutation drawn for the size of the map, so that the
    first N of it are a fair sample of the image, the same for every image of the size.
    """
    _, rows, columns = map_DHW.shape
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    pixels = torch.stack([column, row], 2).reshape(-1, 2) * float(CELL) + origin_px  # [H * W, 2]
    order = torch.randperm(rows * columns, generator=torch_generator(0, "cells of a grid", rows, columns))
    order = order[(pixels[order] < torch.tensor([size[1], size[0]])).all(1)][:max_keypoints]
    descriptors = map_DHW.flatten(1)[:, order].T
    return LocalFeatures(pixels[order], descriptors.float().contiguous(), torch.ones(len(order)))
