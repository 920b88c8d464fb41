"""NetVLAD (Arandjelovic et al., CVPR 2016): VGG16 up to conv5_3, soft-assigned VLAD over its 512-d features, whitening;
read from the authors' MATLAB networks as hloc publishes them."""

import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from torch import nn

from scrflow.core.errors import ScrflowError
from scrflow.core.images import to_tensor
from scrflow.features.networks import NetworkDescriptor, load_strictly
from scrflow.storage.weights import locate

WEIGHTS = "netvlad-{trained_on}"  # of the options, or else the defaults
DEFAULTS = {"trained_on": "pitts30k"}
_TRAINED_ON = ("pitts30k", "tokyotm")
# channels of the 3 x 3 convolutions of VGG16; "M" halves the image
_VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
# layers of the file: 0 to 28 are the trunk, one for each convolution, ReLU and pooling; 29 normalises each feature;
# 30 is the VLAD layer; 31 and 32 normalise; 33 is the whitening
_VLAD_LAYER, _WHITENING_LAYER = 30, 33
_STRIDE = 16


class NetVlad(NetworkDescriptor):
    """4 096 numbers (as many as the file's whitening gives). ``trained_on``: one of the two published networks.
    ``max_side``: px that larger photos are reduced to (hloc: 1024)."""

    def __init__(
        self, device: torch.device | str = "cpu", trained_on: str = DEFAULTS["trained_on"], max_side: int = 1024
    ):
        if trained_on not in _TRAINED_ON:
            raise ScrflowError(f"netvlad: trained_on {trained_on!r}; there are {', '.join(_TRAINED_ON)}")
        if max_side < 2 * _STRIDE:
            raise ScrflowError(f"netvlad: max_side must be {2 * _STRIDE} or more")
        super().__init__(device)
        name = WEIGHTS.format(trained_on=trained_on)
        path = locate(name)
        state = read_mat(path)
        self._network = Network(state["vlad.centres"].shape[1], len(state["whitening.weight"]))
        load_strictly(self._network, state, path, name)
        self._network.to(device)
        self.dim = self._network.whitening.out_features
        self._max_side = max_side

    def image(self, photo: Image.Image) -> torch.Tensor:
        if max(photo.size) > self._max_side:
            scale = self._max_side / max(photo.size)
            size = (max(_STRIDE, round(photo.width * scale)), max(_STRIDE, round(photo.height * scale)))
            area = cv2.resize(np.asarray(photo, np.float32), size, interpolation=cv2.INTER_AREA)  # as hloc
            return torch.from_numpy(area).permute(2, 0, 1).div(255)
        return to_tensor(photo)

    def describe(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        return self._network(255 * images_B3HW)


class Network(nn.Module):
    """Trunk, VLAD layer and whitening."""

    def __init__(self, clusters: int, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        layers: list[nn.Module] = []
        channels = 3
        for item in _VGG16:
            if item == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, item, 3, padding=1), nn.ReLU()]
                channels = item
        self.trunk = nn.Sequential(*layers[:-1])  # conv5_3 without its ReLU
        self.vlad = VladLayer(channels, clusters)
        self.whitening = nn.Linear(channels * clusters, dim)

    def forward(self, rgb_B3HW: torch.Tensor) -> torch.Tensor:
        """Descriptors [B, dim] of unit length of images with values 0..255."""
        features = self.trunk(rgb_B3HW - self.mean.view(3, 1, 1)).flatten(2)  # [B, D, N]
        return F.normalize(self.whitening(self.vlad(F.normalize(features, dim=1))), dim=1)


class VladLayer(nn.Module):
    """Eq. 4 of the paper, with the authors' normalisation of each cluster's sum and of the whole."""

    def __init__(self, channels: int, clusters: int):
        super().__init__()
        self.assignment = nn.Parameter(torch.zeros(channels, clusters))
        self.centres = nn.Parameter(torch.zeros(channels, clusters))

    def forward(self, features_BDN: torch.Tensor) -> torch.Tensor:
        """[B, D * K] of unit length of local features; the cluster runs fastest, as the whitening expects."""
        share = torch.einsum("bdn,dk->bkn", features_BDN, self.assignment).softmax(1)
        # sum over n of share (x - c), without a tensor [B, D, K, N]
        sums = torch.einsum("bdn,bkn->bdk", features_BDN, share) - self.centres * share.sum(2)[:, None]
        return F.normalize(F.normalize(sums, dim=1).flatten(1), dim=1)


def read_mat(path: Path) -> dict[str, torch.Tensor]:
    """Tensors for ``Network`` from a .mat file (version 5): struct ``net`` with the cell ``layers`` of structs with the
    cell ``weights``, and ``meta.normalization.averageImage``. ScrflowError for another file.

    There convolutions are [height, width, in, out] and cluster centres have the opposite sign.
    """
    try:
        content = loadmat(
            path, appendmat=False, variable_names=["net"], struct_as_record=False, squeeze_me=True, mat_dtype=False
        )
    except (MatReadError, NotImplementedError, ValueError, TypeError, OSError, EOFError, zlib.error) as error:
        raise ScrflowError(f"{path}: not a MATLAB file (version 5) that can be read ({error}); delete it") from None
    try:
        layers = np.atleast_1d(content["net"].layers)
        state = {"mean": _numbers(content["net"].meta.normalization.averageImage).reshape(-1, 3)[0]}
        for i, item in enumerate(Network(1, 1).trunk):
            if isinstance(item, nn.Conv2d):
                weight, bias = map(_numbers, layers[i].weights)
                state |= {f"trunk.{i}.weight": weight.transpose(3, 2, 0, 1), f"trunk.{i}.bias": bias}
        assignment, centres = map(_numbers, layers[_VLAD_LAYER].weights)
        state |= {"vlad.assignment": assignment, "vlad.centres": -centres}
        weight, bias = map(_numbers, layers[_WHITENING_LAYER].weights)
        weight = weight.reshape(weight.shape[-2:] if weight.ndim == 4 else weight.shape)
        state |= {"whitening.weight": weight.T, "whitening.bias": bias.reshape(-1)}
        if assignment.ndim != 2 or weight.ndim != 2:
            raise ValueError(f"layer {_VLAD_LAYER} is {assignment.shape}, layer {_WHITENING_LAYER} {weight.shape}")
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ScrflowError(f"{path}: not a NetVLAD network of the published form ({reason}); delete it") from None
    return {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in state.items()}


def _numbers(value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise TypeError(f"an array of numbers was expected, found {type(value).__name__}")
    return value


DESCRIPTOR = NetVlad
