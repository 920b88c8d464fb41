"""DeDoDe (Edstedt et al., 3DV 2024): kornia's networks with their published weights."""

import torch
import torch.nn.functional as F
from kornia.enhance.normalize import Normalize
from kornia.feature import DeDoDe as KorniaDeDoDe
from kornia.feature.dedode.decoder import ConvRefiner, Decoder
from kornia.feature.dedode.dedode_models import DeDoDeDescriptor
from kornia.feature.dedode.encoder import VGG_DINOv2
from kornia.feature.dedode.utils import dedode_denormalize_pixel_coordinates, sample_keypoints

from scrflow.core.errors import ScrflowError
from scrflow.features.encoders import LocalFeatures
from scrflow.features.networks import CELL, NetworkEncoder, load_published, read_tensors
from scrflow.storage.weights import locate

_DETECTORS = {"L-upright": "dedode-detector-l", "L-C4-v2": "dedode-detector-l-v2"}
_DESCRIPTORS = {"B-upright": "dedode-descriptor-b", "G-upright": "dedode-descriptor-g"}
_DINO = "dinov2-vitl14"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet
_PRECISION = torch.float16  # of kornia's autocast, which is for CUDA alone (R-SCoRe's code has it too)


class Dedode(NetworkEncoder):
    """256-d descriptors at maxima of a full-resolution score map, by kornia's detector L and descriptor B or G (which
    adds DINOv2, 1.2 GB). As R-SCoRe takes them, they are not brought to unit length."""

    dim = 256
    batch = 4  # a map of 256 channels at full size each

    def __init__(self, max_keypoints: int, detector: str = "L-upright", descriptor: str = "B-upright"):
        super().__init__()
        for value, known in ((detector, _DETECTORS), (descriptor, _DESCRIPTORS)):
            if value not in known:
                raise ScrflowError(f"encoder dedode: no weights {value!r}; there are {', '.join(known)}")
        with torch.device("meta"):  # drawing 300 million values that the weights replace takes longer than an image
            self._model = KorniaDeDoDe("L", "B", amp_dtype=_PRECISION)
        self._model.normalizer = Normalize(torch.tensor(_MEAN), torch.tensor(_STD))
        self._patches = descriptor.startswith("G")  # DINOv2's, of 14 px
        if self._patches:
            self._model.descriptor = _descriptor_g()
        load_published(self._model.detector, _DETECTORS[detector])
        load_published(self._model.descriptor, _DESCRIPTORS[descriptor])
        self._model.eval()
        self._max_keypoints = max_keypoints

    def maps(self, images_B3HW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        height, width = images_B3HW.shape[2:]
        pad = self._patches or bool(height % CELL or width % CELL)
        x = self._model._preprocess(images_B3HW, True, pad)  # normalises the colours; pads to multiples of 14
        return tuple(network(x)[..., :height, :width] for network in (self._model.detector, self._model.descriptor))

    def select(self, logits: torch.Tensor, descriptors: torch.Tensor, *, size: tuple[int, int]) -> LocalFeatures:
        """The score is the detector's probability over the root of its local density."""
        # a pixel's probability is about 1e-6: as kornia's own code, but in float32 on a GPU too
        probability = logits.reshape(1, -1).softmax(dim=-1).reshape(1, *size)
        keypoints, scores = sample_keypoints(probability, num_samples=self._max_keypoints)  # in -1..1, best first
        sampled = F.grid_sample(descriptors, keypoints[:, None], mode="bilinear", align_corners=False)[:, :, 0].mT
        keypoints = dedode_denormalize_pixel_coordinates(keypoints, *size)  # with our origin
        keypoints = (keypoints[0] - 0.5).round() + 0.5  # whole pixels, which kornia carried through -1..1
        return LocalFeatures(keypoints, sampled[0], scores[0])


def _descriptor_g() -> DeDoDeDescriptor:
    """kornia's descriptor G with the DINOv2 of the registry, which kornia's own builder would download."""
    path = locate(_DINO)
    dino = read_tensors(path)
    prototypes = 256  # the descriptor
    amp = {"amp": True, "amp_dtype": _PRECISION}
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
