"""EfficientNet-Lite0 (Tan and Le, ICML 2019; the Lite variant of the TPU team, 2020: ReLU6, no squeeze-and-excitation),
trained on ImageNet, with generalised-mean pooling (Radenovic et al., TPAMI 2019) over its last feature map."""

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from scrflow.core.errors import ScrflowError
from scrflow.core.images import to_tensor
from scrflow.features.networks import NetworkDescriptor, for_inference, load_published

_STRIDE = 32
# TensorFlow's, which trained the weights: the first layer's outputs are near what its batch norm recorded (0.67 of the
# variance; with the ImageNet statistics of the PyTorch port 3.3)
_MEAN = (127 / 255,) * 3
_STD = (128 / 255,) * 3
# repeats, kernel, stride of the first, expansion, channels
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _HEAD, _CLASSES = 32, 1280, 1000
_BATCH_NORM_EPS = 1e-3
WEIGHTS = "efficientnet-lite0"


class EfficientNetLite0(NetworkDescriptor):
    """1 280 channels, each the p-mean of the last feature map, over their length. ``short_side``: px that the photo is
    resized to, each side rounded to a multiple of 32. ``power``: p of the pooling; 1 is the average."""

    dim = _HEAD
    side_by_side = True  # small

    def __init__(self, device: torch.device | str = "cpu", short_side: int = 320, power: float = 3.0):
        if short_side < _STRIDE or power < 1:
            raise ScrflowError(f"efficientnet-lite0: short_side must be {_STRIDE} or more, power 1 or more")
        super().__init__(device)
        self._network = Network()
        load_published(self._network, WEIGHTS)
        for_inference(self._network)
        self._network.to(device)
        self._short_side, self._power = short_side, power

    def describe(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        features = self._network.features(self.normalised(images_B3HW)).clamp_min(1e-6)  # [B, C, h, w]
        pooled = [image.pow(self._power).mean((1, 2)).pow(1 / self._power) for image in features]
        return F.normalize(torch.stack(pooled), dim=1)

    def image(self, photo: Image.Image) -> torch.Tensor:
        scale = self._short_side / min(photo.size)
        width, height = (max(_STRIDE, round(side * scale / _STRIDE) * _STRIDE) for side in photo.size)
        return to_tensor(photo.resize((width, height), Image.Resampling.BICUBIC))

    def normalised(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """The network's input."""
        mean, std = (torch.tensor(v, device=images_B3HW.device).view(3, 1, 1) for v in (_MEAN, _STD))
        return ((images_B3HW - mean) / std).contiguous(memory_format=torch.channels_last)


class Network(nn.Module):
    """The classifier, for evaluation alone. Names of tensors are those of the published file."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, _STEM, 3, stride=2)
        self._bn0 = _norm(_STEM)
        blocks: list[_Block] = []
        channels = _STEM
        for repeats, kernel, stride, expansion, out in _STAGES:
            for i in range(repeats):
                blocks.append(_Block(channels, out, kernel, stride if i == 0 else 1, expansion))
                channels = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _SameConv(channels, _HEAD, 1)
        self._bn1 = _norm(_HEAD)
        self._fc = nn.Linear(_HEAD, _CLASSES)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Last feature map [B, 1280, H/32, W/32] of normalised images [B, 3, H, W]."""
        x = self._bn0(self._conv_stem(x)).clamp_(0, 6)
        for block in self._blocks:
            x = block(x)
        return self._bn1(self._conv_head(x)).clamp_(0, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores [B, 1000]."""
        return self._fc(self.features(x).mean((2, 3)))


class _Block(nn.Module):
    """Inverted residual: expand, filter each channel, project; skipped over where shapes agree. ReLU6 works in place:
    page faults of fresh maps cost 20 of 60 ms a photo."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        inner = channels * expansion
        self._expands = expansion != 1
        if self._expands:
            self._expand_conv = _SameConv(channels, inner, 1)
            self._bn0 = _norm(inner)
        self._depthwise_conv = _SameConv(inner, inner, kernel, stride=stride, groups=inner)
        self._bn1 = _norm(inner)
        self._project_conv = _SameConv(inner, out, 1)
        self._bn2 = _norm(out)
        self._skips = stride == 1 and channels == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self._bn0(self._expand_conv(x)).clamp_(0, 6) if self._expands else x
        y = self._bn1(self._depthwise_conv(y)).clamp_(0, 6)
        y = self._bn2(self._project_conv(y))
        return x + y if self._skips else y


class _SameConv(nn.Conv2d):
    """TensorFlow's SAME padding, which the weights were trained with: the odd pixel is added right and below."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(channels, out, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads: list[int] = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):  # width first
            total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
            pads += [total // 2, total - total // 2]
        left, right, top, bottom = pads
        if left == right and top == bottom:  # the convolution pads as it goes, without a padded copy
            return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), groups=self.groups)
        return super().forward(F.pad(x, pads))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_BATCH_NORM_EPS)


DESCRIPTOR = EfficientNetLite0
