"""DeDoDe (Edstedt et al., 3DV 2024): kornia's networks with their published weights."""

from __future__ import annotations

import torch
from kornia.enhance.normalize import Normalize
from kornia.feature import DeDoDe as KorniaDeDoDe
from kornia.feature.dedode.decoder import ConvRefiner, Decoder
from kornia.feature.dedode.dedode_models import DeDoDeDescriptor
from kornia.feature.dedode.encoder import VGG_DINOv2

from scrflow.core.errors import ScrflowError
from scrflow.features.encoders import LocalFeatures
from scrflow.features.networks import load_published, read_tensors
from scrflow.storage.weights import locate

_DETECTORS = {"L-upright": "dedode-detector-l", "L-C4-v2": "dedode-detector-l-v2"}
_DESCRIPTORS = {"B-upright": "dedode-descriptor-b", "G-upright": "dedode-descriptor-g"}
_DINO = "dinov2-vitl14"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet
_PRECISION = torch.float32  # kornia's mixed precision is for CUDA


class Dedode:
    """256-d descriptors at maxima of a full-resolution score map, by kornia's detector L and descriptor B or G (which
    adds DINOv2, 1.2 GB). As R-SCoRe takes them, they are not brought to unit length."""

    dim = 256

    def __init__(self, max_keypoints: int, detector: str = "L-upright", descriptor: str = "B-upright"):
        for value, known in ((detector, _DETECTORS), (descriptor, _DESCRIPTORS)):
            if value not in known:
                raise ScrflowError(f"encoder dedode: no weights {value!r}; there are {', '.join(known)}")
        with torch.device("meta"):  # drawing 300 million values that the weights replace takes longer than an image
            self._model = KorniaDeDoDe("L", "B", amp_dtype=_PRECISION)
        self._model.normalizer = Normalize(torch.tensor(_MEAN), torch.tensor(_STD))
        if descriptor.startswith("G"):
            self._model.descriptor = _descriptor_g()
        load_published(self._model.detector, _DETECTORS[detector])
        load_published(self._model.descriptor, _DESCRIPTORS[descriptor])
        self._model.eval()
        self._max_keypoints = max_keypoints

    @torch.inference_mode()
    def __call__(self, image_3HW: torch.Tensor) -> LocalFeatures:
        """See LocalEncoder. The score is the detector's probability over the root of its local density."""
        # kornia normalises the colours, pads to multiples of 14, and gives pixels with our origin, best first
        keypoints, scores, descriptors = self._model(image_3HW[None], n=self._max_keypoints)
        keypoints = (keypoints[0] - 0.5).round() + 0.5  # whole pixels, which kornia carried through -1..1
        return LocalFeatures(keypoints, descriptors[0].float(), scores[0].float())


def _descriptor_g() -> DeDoDeDescriptor:
    """kornia's descriptor G with the DINOv2 of the registry, which kornia's own builder would download."""
    path = locate(_DINO)
    dino = read_tensors(path)
    prototypes = 256  # the descriptor
    amp = {"amp": False, "amp_dtype": _PRECISION}
    stages = {  # channels in, hidden, context handed on
        "14": (1024, 768, 512),
        "8": (512 + 512, 512, 256),
        "4": (256 + 256, 256, 128),
        "2": (128 + 128, 64, 32),
        "1": (64 + 32, 32, 1),
    }
    refiners = torch.nn.ModuleDict(
        {
            scale: ConvRefiner(before, hidden, context + prototypes, hidden_blocks=5, residual=True, **amp)
            for scale, (before, hidden, context) in stages.items()
        }
    )
    try:
        encoder = VGG_DINOv2(amp, {**amp, "dinov2_weights": dino})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ScrflowError(f"{path}: not the weights of {_DINO}: {reason}") from None
    return DeDoDeDescriptor(encoder, Decoder(refiners, num_prototypes=prototypes))


ENCODER = Dedode
