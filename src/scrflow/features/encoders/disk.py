"""DISK (Tyszkiewicz et al., NeurIPS 2020): kornia's network, sub-pixel keypoints read here."""

import torch
import torch.nn.functional as F
from kornia.feature import DISK as KorniaDisk
from kornia.feature.disk.detector import heatmap_to_keypoints

from scrflow.core.errors import ScrflowError
from scrflow.features.encoders import LocalFeatures
from scrflow.features.networks import NetworkEncoder, load_published

_MULTIPLE = 16  # px: the U-Net halves the image four times


class Disk(NetworkEncoder):
    """128-d descriptors at maxima of a full-resolution score map.

    The published detector reports whole pixels; here the position is the top of the parabola through the maximum and
    its neighbours: on redkitchen the median epipolar distance falls from 0.62 to 0.47 px.
    """

    dim = 128

    def __init__(self, max_keypoints: int, window: int = 5, detection_threshold: float = 0.0):
        super().__init__()
        if window < 3 or window % 2 == 0:
            raise ScrflowError(f"encoder disk: window {window}; give an odd number of pixels, 3 or more")
        self._model = KorniaDisk(desc_dim=self.dim)
        load_published(self._model, "disk", key="extractor")
        self._max_keypoints = max_keypoints
        self._window = window
        self._threshold = detection_threshold

    def maps(self, images_B3HW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        height, width = images_B3HW.shape[2:]
        # black on the right and below, as kornia pads; no keypoint lies in it
        x = F.pad(images_B3HW, (0, -width % _MULTIPLE, 0, -height % _MULTIPLE))
        return tuple(m[..., :height, :width] for m in self._model.heatmap_and_dense_descriptors(x))

    def select(self, heatmap: torch.Tensor, descriptors: torch.Tensor, *, size: tuple[int, int]) -> LocalFeatures:
        """The score is the network's logit."""
        found = heatmap_to_keypoints(heatmap, self._max_keypoints, self._window, self._threshold)[0]
        found = found.merge_with_descriptors(descriptors[0])
        order = torch.argsort(found.detection_scores, descending=True, stable=True)
        position = found.keypoints[order]  # whole pixels
        # kornia's pixel is an index: the centre of the top-left pixel is (0, 0)
        return LocalFeatures(
            position + _parabola(heatmap[0, 0], position.long()) + 0.5,
            found.descriptors[order],
            found.detection_scores[order],
        )


def _parabola(heatmap_HW: torch.Tensor, position_N2: torch.Tensor) -> torch.Tensor:
    """Offset [N, 2] (px, within half a pixel) from strict maxima [N, 2], none of them on the border."""
    x, y = position_N2.unbind(1)
    centre = heatmap_HW[y, x]
    offsets = []
    for before, after in ((heatmap_HW[y, x - 1], heatmap_HW[y, x + 1]), (heatmap_HW[y - 1, x], heatmap_HW[y + 1, x])):
        offsets.append((after - before) / (2 * (2 * centre - before - after)))
    return torch.stack(offsets, 1)


ENCODER = Disk
