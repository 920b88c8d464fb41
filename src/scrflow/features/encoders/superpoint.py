"""SuperPoint (DeTone et al., CVPR workshops 2018), from the paper and the published checkpoint's shapes."""

import torch
import torch.nn.functional as F
from torch import nn

from scrflow.features.encoders import LocalFeatures
from scrflow.features.networks import CELL, NetworkEncoder, grey, load_published, window_max


class SuperPointNetwork(nn.Module):
    """Grey image [B, 1, H, W] (sides multiples of 8) to a keypoint heatmap [B, 1, H, W] and descriptors
    [B, 256, H/8, W/8] of unit length: a VGG encoder with three poolings, and two heads."""

    def __init__(self):
        super().__init__()
        channels = {"1": (1, 64), "2": (64, 64), "3": (64, 128), "4": (128, 128)}
        for stage, (before, after) in channels.items():
            setattr(self, f"conv{stage}a", nn.Conv2d(before, after, 3, padding=1))
            setattr(self, f"conv{stage}b", nn.Conv2d(after, after, 3, padding=1))
        self.convPa = nn.Conv2d(128, 256, 3, padding=1)
        self.convPb = nn.Conv2d(256, CELL * CELL + 1, 1)  # the pixels of a cell, and "no keypoint"
        self.convDa = nn.Conv2d(128, 256, 3, padding=1)
        self.convDb = nn.Conv2d(256, 256, 1)

    def forward(self, x_B1HW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x_B1HW
        for stage in "1234":
            x = F.relu(getattr(self, f"conv{stage}a")(x))
            x = F.relu(getattr(self, f"conv{stage}b")(x))
            if stage != "4":
                x = F.max_pool2d(x, 2)
        cells = self.convPb(F.relu(self.convPa(x))).softmax(1)[:, :-1]
        descriptors = self.convDb(F.relu(self.convDa(x)))
        return F.pixel_shuffle(cells, CELL), F.normalize(descriptors, dim=1)


class SuperPoint(NetworkEncoder):
    """256-d descriptors at maxima of the keypoint heatmap, whole pixels as published."""

    dim = 256

    def __init__(self, max_keypoints: int, nms_radius: int = 4, detection_threshold: float = 0.005, border: int = 4):
        super().__init__()
        self._model = SuperPointNetwork()
        load_published(self._model, "superpoint")
        self._max_keypoints = max_keypoints
        self._radius = nms_radius
        self._threshold = detection_threshold
        self._border = border

    def maps(self, images_B3HW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        height, width = images_B3HW.shape[2:]
        # repeated edges, as an edge against black would be full of corners
        return self._model(F.pad(grey(images_B3HW), (0, -width % CELL, 0, -height % CELL), mode="replicate"))

    def select(self, heatmap: torch.Tensor, descriptors: torch.Tensor, *, size: tuple[int, int]) -> LocalFeatures:
        """The score is the heatmap."""
        height, width = size
        heatmap = heatmap[..., :height, :width]
        peak = maxima(heatmap, self._radius)
        y, x_ = (peak & (heatmap > self._threshold))[0, 0].nonzero(as_tuple=True)
        inner = (x_ >= self._border) & (x_ < width - self._border) & (y >= self._border) & (y < height - self._border)
        y, x_ = y[inner], x_[inner]
        scores = heatmap[0, 0, y, x_]
        order = torch.argsort(scores, descending=True, stable=True)[: self._max_keypoints]
        keypoints = torch.stack([x_, y], 1)[order].float() + 0.5
        return LocalFeatures(keypoints, sample_cells(descriptors, keypoints), scores[order])


def maxima(heatmap: torch.Tensor, radius: int) -> torch.Tensor:
    """The largest values within ``radius`` px, and, twice, the largest of what is not near one of those: nearly what
    suppression one by one leaves (as in the code of SuperGlue and hloc)."""
    found = heatmap == window_max(heatmap, radius)
    for _ in range(2):
        near = window_max(found.float(), radius) > 0
        rest = heatmap.masked_fill(near, 0)
        found = found | ((rest == window_max(rest, radius)) & ~near)
    return found


def sample_cells(map_1DHW: torch.Tensor, keypoints_px_N2: torch.Tensor) -> torch.Tensor:
    """Descriptors [N, D] of unit length, bilinear between cells, which stand at the middle of their 8 x 8 px."""
    rows, columns = map_1DHW.shape[2:]
    grid = 2 * keypoints_px_N2 / (torch.tensor([columns, rows], device=keypoints_px_N2.device) * CELL) - 1
    sampled = F.grid_sample(map_1DHW, grid[None, None], mode="bilinear", padding_mode="border", align_corners=False)
    return F.normalize(sampled[0, :, 0].T, dim=1)


ENCODER = SuperPoint
