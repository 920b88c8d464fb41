"""R2Former (Zhu et al., CVPR 2023), its global branch: a DeiT-S whose two tokens' 256-d features are averaged
(GLACE)."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from scrflow.core.errors import ScrflowError
from scrflow.core.images import to_tensor
from scrflow.features.networks import NetworkDescriptor, load_strictly, read_tensors
from scrflow.storage.weights import locate

WEIGHTS = "r2former"
_PREFIX = "module.backbone."
_RERANKER = ("module.local_head.", "module.Reranker.")
_PATCH, _WIDTH, _BLOCKS, _HEADS = 16, 384, 12, 6
_GRID = (30, 40)  # patches of the images that it was trained on, 480 x 640 (height, width)
_TOKENS = 2  # class and distillation
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
# Beside its tensors the checkpoint holds recalls of its training as NumPy arrays, under the names that NumPy 1 gave
# their constructors; torch's restricted reader refuses a file with anything else in it.
_NUMPY = [
    np.ndarray,
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    *(
        (getattr(np._core.multiarray, name), f"{module}.multiarray.{name}")
        for name in ("_reconstruct", "scalar")
        for module in ("numpy.core", "numpy._core")
    ),
]


class R2Former(NetworkDescriptor):
    """256 numbers. ``size``: px, height and width (multiples of 16) that every photo is resized to, whatever its shape
    (GLACE: 480, 640); position embeddings are interpolated for another size."""

    dim = 256

    def __init__(self, device: torch.device | str = "cpu", size: tuple[int, int] | list[int] = (480, 640)):
        if len(size) != 2 or any(side < _PATCH or side % _PATCH for side in size):
            raise ScrflowError(f"r2former: size {size} must be height and width, multiples of {_PATCH}")
        super().__init__(device)
        self._network = Network(self.dim)
        path = locate(WEIGHTS)
        with torch.serialization.safe_globals(_NUMPY):
            state = read_tensors(path, "model_state_dict")
        state = {k.removeprefix(_PREFIX): v for k, v in state.items() if not k.startswith(_RERANKER)}
        load_strictly(self._network, state, path, WEIGHTS)
        self._network.to(device)
        self._size = tuple(size)

    def image(self, photo: Image.Image) -> torch.Tensor:
        """See NetworkDescriptor; as large as the photo."""
        return to_tensor(photo)

    def describe(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(v, device=images_B3HW.device).view(3, 1, 1) for v in (_MEAN, _STD))
        # not antialiased, as in GLACE
        return self._network(
            F.interpolate((images_B3HW - mean) / std, self._size, mode="bilinear", align_corners=False)
        )


class Network(nn.Module):
    """Vision transformer (pre-norm). Names of tensors are those of the published file."""

    def __init__(self, dim: int):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, _WIDTH))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, _WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, _TOKENS + _GRID[0] * _GRID[1], _WIDTH))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, _WIDTH, _PATCH, stride=_PATCH)})
        self.blocks = nn.Sequential(*(_Block() for _ in range(_BLOCKS)))
        self.norm = nn.LayerNorm(_WIDTH, eps=1e-6)
        self.head = nn.Linear(_WIDTH, dim)
        self.head_dist = nn.Linear(_WIDTH, dim)

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        """Descriptors [B, dim] of unit length of normalised images."""
        patches = self.patch_embed["proj"](image_B3HW)  # [B, C, h, w]
        tokens = [t.expand(len(patches), -1, -1) for t in (self.cls_token, self.dist_token)]
        x = torch.cat([*tokens, patches.flatten(2).transpose(1, 2)], 1)
        x = self.norm(self.blocks(x + self.positions(*patches.shape[2:])))
        return F.normalize((self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2, dim=1)

    def positions(self, height: int, width: int) -> torch.Tensor:
        """Position embeddings [1, 2 + height * width, C], those of the patches interpolated to another grid."""
        if (height, width) == _GRID:
            return self.pos_embed
        tokens, grid = self.pos_embed.split([_TOKENS, _GRID[0] * _GRID[1]], 1)
        grid = grid.transpose(1, 2).reshape(1, _WIDTH, *_GRID)
        grid = F.interpolate(grid, (height, width), mode="bicubic", align_corners=False)
        return torch.cat([tokens, grid.flatten(2).transpose(1, 2)], 1)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(_WIDTH, eps=1e-6)
        self.attn = _Attention()
        self.norm2 = nn.LayerNorm(_WIDTH, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(_WIDTH, 4 * _WIDTH), "fc2": nn.Linear(4 * _WIDTH, _WIDTH)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(_WIDTH, 3 * _WIDTH)
        self.proj = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, count, _ = x.shape
        q, k, v = self.qkv(x).view(batch, count, 3, _HEADS, _WIDTH // _HEADS).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, _WIDTH))


DESCRIPTOR = R2Former
