"""A plain step of training, written from the papers' formulas: eager, float32, nothing overlapped, fused or reduced.

benchmarks/training.py measures speed-ups against it, and tests/training/test_losses.py compares values with it. It
shares no code with scrflow.training.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, relu, softplus


def head(state: dict[str, Tensor], x: Tensor, settings: dict[str, Any], unit: float) -> tuple[Tensor, Tensor]:
    """Coordinates y and y0 [B, 3] of inputs [B, D] (GLACE fig. 7 and eq. 6-8; R-SCoRe's refinement)."""

    def linear(name: str, v: Tensor) -> Tensor:
        return v @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def block(name: str, v: Tensor) -> Tensor:
        y = v
        for i in range(3):
            y = relu(linear(f"{name}.layers.{i}", y))
        if f"{name}.skip.weight" in state:
            return linear(f"{name}.skip", v) + y
        return pad(v, (0, y.shape[1] - v.shape[1])) + y

    def decode(name: str, v: Tensor) -> Tensor:
        for i in range(2):
            v = relu(linear(f"{name}.layers.{i}", v))
        out, centres = linear(f"{name}.out", v), state[f"{name}.centres"]
        smallest, largest = settings["scale_min"], settings["scale_max"]
        w = softplus(out[:, 3:4], beta=math.log(2) / (1 - 1 / largest)) + 1 / largest
        y = unit * out[:, :3] / torch.minimum(w, torch.tensor(1 / smallest))
        return y + (centres if len(centres) == 1 else torch.softmax(out[:, 4:], 1) @ centres)

    x = block("input", x)
    for i in range(settings["blocks"]):
        x = block(f"blocks.{i}", x)
    coarse = decode("decoder", x)
    if not settings["refine_blocks"]:
        return coarse, coarse
    base = coarse if settings["coarse_gradient"] else coarse.detach()
    frequency = 2 * math.pi / settings["period"] * 2 ** torch.linspace(0, 12, settings["frequencies"])
    angle = (base[:, :, None] * frequency.to(base.device)).reshape(len(base), -1)
    code = torch.cat([torch.sin(angle), torch.cos(angle)], 1)
    x = x + pad(code, (x.shape[1] - code.shape[1], 0))
    for i in range(settings["refine_blocks"]):
        x = block(f"refine.{i}", x)
    return base + decode("refiner", x), coarse


def loss(
    y: Tensor, coarse: Tensor, targets: Any, settings: dict[str, Any], progress: float, bias: float, cut: bool
) -> Tensor:
    """Mean loss (GLACE eq. 2-4; R-SCoRe: y0, depth adjustment, pull; ours: samples held to known points)."""
    K, R, t = targets.K, targets.cam_from_world[:, :, :3], targets.cam_from_world[:, :, 3]

    def seen(p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        camera = torch.einsum("bij,bj->bi", R, p) + t
        image = torch.einsum("bij,bj->bi", K, camera)[:, :2] / camera[:, 2:].clamp(min=settings["min_depth"])
        difference = (image - targets.pixel).abs()
        error = difference.sum(1) if settings["norm"] == 1 else difference.pow(2).sum(1).sqrt()
        return camera, error, camera[:, 2]

    def term(p: Tensor, kernel: Any) -> Tensor:
        camera, error, depth = seen(p)
        valid = (depth > settings["min_depth"]) & (depth < settings["max_depth"]) & (error < settings["max_error_px"])
        value = torch.where(valid, kernel(error, depth), (p - targets.target).abs().sum(1))
        if not settings["known_depth"]:
            return value
        known = ~torch.isnan(targets.depth)
        z, sigma = torch.nan_to_num(targets.depth, 1.0), torch.nan_to_num(targets.relative_sigma, 1.0)
        focal = torch.stack([K[:, 0, 0], K[:, 1, 1]], 1)
        ray = (targets.pixel - K[:, :2, 2]) / focal
        across = (camera[:, :2] / z[:, None] - ray) * focal
        along = (camera[:, 2] / z - 1) / sigma.clamp(min=settings["min_depth_sigma"])
        distance = torch.sqrt(across.pow(2).sum(1) + along.pow(2) + 1e-6)
        tau = width(coarse_kernel=kernel is on_coarse)
        return torch.where(known, tau * torch.log(1 + distance / tau), value)

    def width(coarse_kernel: bool) -> float:
        part = "coarse_" if coarse_kernel else ""
        return math.sqrt(1 - progress**2) * settings[f"{part}bandwidth_max"] + settings[f"{part}bandwidth_min"]

    def on_final(error: Tensor, depth: Tensor) -> Tensor:
        tau = width(coarse_kernel=False)
        return tau * torch.tanh(error / tau)

    def on_coarse(error: Tensor, depth: Tensor) -> Tensor:
        tau = width(coarse_kernel=True)
        if settings["depth_adjusted"]:
            z = depth.clamp(min=0)
            error = error * z / torch.sqrt(z**2 + bias**2)
        u = 9 * (error / tau) ** 2
        return tau * u / (u + 4)

    total = term(y, on_final)
    if settings["coarse"]:
        total = total + term(coarse, on_coarse)
    if settings["pull"] and progress < 0.5:
        away = torch.linalg.vector_norm(y - (coarse.detach() if cut else coarse), dim=1)
        weight = 0.5 * (1 + math.cos(2 * math.pi * progress))
        total = total + weight * (away - settings["pull_margin"]).clamp(min=0)
    return total.mean()
