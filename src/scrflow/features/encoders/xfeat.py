"""XFeat (Potje et al., CVPR 2024): kornia's network with its published weights, sub-pixel keypoints read here."""

import torch
import torch.nn.functional as F
from kornia.feature import XFeat as KorniaXFeat

from scrflow.features.encoders import LocalFeatures
from scrflow.features.networks import NetworkEncoder, for_inference, load_published, window_max

_BORDER = 4  # px: the window of a keypoint must lie inside the heatmap
_WINDOW = 2  # px: half the window over which a keypoint's position is averaged


class XFeat(NetworkEncoder):
    """64-d descriptors at maxima of the keypoint heatmap, whose centroid in a 5 x 5 window is the position. ``upscale``
    enlarges the image first: finer descriptors and keypoints at the price of its area."""

    dim = 64
    sees_colour = False
    side_by_side = True

    def __init__(self, max_keypoints: int, upscale: float = 1.0, detection_threshold: float = 0.05):
        super().__init__()
        self._model = KorniaXFeat()
        load_published(self._model.net, "xfeat")
        self._model.eval()
        for_inference(self._model.net)
        self._max_keypoints = max_keypoints
        self._upscale = upscale
        self._threshold = detection_threshold

    def maps(self, images_B1HW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        size = [max(32, round(side * self._upscale / 32) * 32) for side in images_B1HW.shape[2:]]
        return self._model.net(F.interpolate(images_B1HW, size, mode="bilinear", align_corners=False, antialias=True))

    def select(
        self, features: torch.Tensor, logits: torch.Tensor, reliability: torch.Tensor, *, size: tuple[int, int]
    ) -> LocalFeatures:
        """The score is heatmap times reliability."""
        features = F.normalize(features, dim=1)
        heatmap = F.pixel_shuffle(logits.softmax(1)[:, :64], 8)  # [1, 1, H', W']
        resized = tuple(heatmap.shape[2:])

        peak = (heatmap == window_max(heatmap, 2)) & (heatmap > self._threshold)
        peak[..., :_BORDER, :] = peak[..., -_BORDER:, :] = False
        peak[..., :, :_BORDER] = peak[..., :, -_BORDER:] = False
        y, x_ = peak[0, 0].nonzero(as_tuple=True)
        position = torch.stack([x_, y], 1).float()  # [N, 2], whole pixels of the resized image

        # the weights were trained with this sampling: reliability bilinear times nearest heatmap, descriptors bicubic
        score = heatmap[0, 0, y, x_] * self._model._bilinear(reliability, position[None], *resized)[0, :, 0]
        order = torch.argsort(score, descending=True, stable=True)[: self._max_keypoints]
        position, score = position[order], score[order]
        descriptors = self._model.interpolator(features, position[None], *resized)[0]

        position = position + _centroid(heatmap[0, 0], position.long())
        ratio = torch.tensor([size[1] / resized[1], size[0] / resized[0]], device=position.device)
        return LocalFeatures((position + 0.5) * ratio, F.normalize(descriptors, dim=1), score)


def _centroid(heatmap_HW: torch.Tensor, position_N2: torch.Tensor) -> torch.Tensor:
    """Offset [N, 2] (px) of the heatmap's centroid in the window about each whole-pixel position [N, 2]."""
    steps = torch.arange(-_WINDOW, _WINDOW + 1, device=heatmap_HW.device)
    dy, dx = torch.meshgrid(steps, steps, indexing="ij")
    dy, dx = dy.reshape(-1), dx.reshape(-1)
    weight = heatmap_HW[position_N2[:, 1:] + dy, position_N2[:, :1] + dx]  # [N, 25]
    weight = weight / weight.sum(1, keepdim=True)
    return torch.stack([(weight * dx).sum(1), (weight * dy).sum(1)], 1)


ENCODER = XFeat
