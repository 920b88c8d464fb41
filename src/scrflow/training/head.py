"""The scene-specific network: from a global and a local encoding to a scene coordinate (GLACE fig. 7 and eq. 6-8)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scrflow.config import HeadConfig


class ReluStack(nn.ModuleList):
    """Linear layers, each with ReLU."""

    def forward(self, x: Tensor) -> Tensor:  # [B, in] -> [B, out]
        for layer in self:
            x = F.relu(layer(x))
        return x


class ResidualBlock(nn.Module):
    """Three linear layers with ReLU, the middle one ``hidden`` wide, and a skip (GLACE fig. 7): linear where the input
    is of another width, or with ``pad`` a narrower input padded (R-SCoRe's public code)."""

    def __init__(self, dim_in: int, width: int, hidden: int, pad: bool = False):
        super().__init__()
        self.layers = ReluStack([nn.Linear(dim_in, width), nn.Linear(width, hidden), nn.Linear(hidden, width)])
        if dim_in == width:
            self.skip: nn.Module = nn.Identity()
        elif pad and dim_in < width:
            self.skip = nn.ConstantPad1d((0, width - dim_in), 0.0)
        else:
            self.skip = nn.Linear(dim_in, width)

    def forward(self, x: Tensor) -> Tensor:  # [B, dim_in] -> [B, width]
        return self.skip(x) + self.layers(x)


class HomogeneousOffset(nn.Module):
    """The offset d / w of four outputs (d, w_hat): GLACE eq. 6 and 7."""

    def __init__(self, scale_min: float, scale_max: float):
        super().__init__()
        self._w_min, self._w_max = 1 / scale_max, 1 / scale_min
        self._beta = math.log(2) / (1 - 1 / scale_max)

    def forward(self, outputs: Tensor) -> Tensor:  # [B, 4] -> [B, 3]
        d, w_hat = outputs[:, :3], outputs[:, 3:]
        w = F.softplus(w_hat, beta=self._beta) + self._w_min
        return d / w.clamp(max=self._w_max)


class Decoder(nn.Module):
    """Two layers, then cluster logits and a homogeneous offset: y = d / w + softmax(s) C (GLACE eq. 8). The second
    layer is ``hidden`` wide, ``unit`` is the length that the network's number 1 stands for."""

    def __init__(self, width: int, centres_K3: Tensor, scale_min: float, scale_max: float, unit: float, hidden: int):
        super().__init__()
        self.layers = ReluStack([nn.Linear(width, width), nn.Linear(width, hidden)])
        self.clusters = len(centres_K3)
        self.out = nn.Linear(hidden, 4 + (self.clusters if self.clusters > 1 else 0))
        self.offset = HomogeneousOffset(scale_min, scale_max)
        self.unit = unit
        self.register_buffer("centres", centres_K3.float())

    def forward(self, x: Tensor) -> Tensor:  # [B, width] -> [B, 3], float32
        x = self.layers(x)
        # positions in float32 whatever the autocast: bf16 has 3 digits, and a map needs 5
        with torch.autocast(x.device.type, enabled=False):
            out = F.linear(x.float(), self.out.weight.float(), self.out.bias.float())
            y = self.unit * self.offset(out[:, :4])
            if self.clusters == 1:
                return y + self.centres
            return y + out[:, 4:].softmax(1) @ self.centres


class PositionalEncoding(nn.Module):
    """Sine and cosine of a position at ``frequencies`` octave-spaced frequencies, the longest period ``period``."""

    def __init__(self, frequencies: int, period: float, octaves: float = 12.0):
        super().__init__()
        exponents = torch.linspace(0, octaves, frequencies)
        self.register_buffer("angular", 2 * math.pi / period * 2**exponents, persistent=False)
        self.dim = 6 * frequencies

    def forward(self, y: Tensor) -> Tensor:  # [B, 3] -> [B, 6 * frequencies]
        angle = (y[:, :, None] * self.angular).flatten(1)
        return torch.cat([angle.sin(), angle.cos()], 1)


@dataclass(frozen=True)
class HeadOutput:
    """Scene coordinates [B, 3]: ``xyz_world`` the final ones, ``coarse`` y0 before refinement (the same without), and
    ``base``, what the refinement's offset is added to: y0, cut from its gradient unless the config has it pass."""

    xyz_world: Tensor
    coarse: Tensor
    base: Tensor | None = None


class Head(nn.Module):
    """Input block, residual blocks, decoder (y0); with ``refine_blocks``: encoded y0, more blocks, an offset (y)."""

    def __init__(self, dim_in: int, config: HeadConfig, centres_K3: Tensor, unit: float = 1.0):
        super().__init__()
        width, hidden = config.width, round(config.width * config.hidden_ratio)
        self.input = ResidualBlock(dim_in, width, hidden, pad=config.input_skip == "pad")
        self.blocks = nn.ModuleList([ResidualBlock(width, width, hidden) for _ in range(config.blocks)])
        scales, last = (config.scale_min, config.scale_max, unit), round(width * config.decoder_ratio)
        self.decoder = Decoder(width, centres_K3, *scales, hidden=last)
        self.refine = nn.ModuleList([ResidualBlock(width, width, hidden) for _ in range(config.refine_blocks)])
        self.coarse_gradient = config.coarse_gradient
        if config.refine_blocks:
            self.encoding = PositionalEncoding(config.frequencies, config.period)
            self.refiner = Decoder(width, torch.zeros(1, 3), *scales, hidden=last)

    def forward(self, encoding: Tensor) -> HeadOutput:
        """``encoding`` [B, dim_in]: global then local encoding."""
        x = self.input(encoding)
        for block in self.blocks:
            x = block(x)
        coarse = self.decoder(x)
        if not self.refine:
            return HeadOutput(coarse, coarse)
        # by default y's gradient does not flow back into y0: sines of a 0.5 m period have no useful one
        base = coarse if self.coarse_gradient else coarse.detach()
        code = self.encoding(base).to(x.dtype)
        x = torch.cat([x[:, : -code.shape[1]], x[:, -code.shape[1] :] + code], 1)
        for block in self.refine:
            x = block(x)
        return HeadOutput(base + self.refiner(x), coarse, base)
