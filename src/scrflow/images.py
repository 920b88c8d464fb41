"""Reading and resizing photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from scrflow.errors import ScrflowError

if TYPE_CHECKING:  # the evaluation reads photos too, and should not wait for torch
    import torch


def read_rgb(path: Path) -> Image.Image:
    """The photo in RGB, decoded; ScrflowError when it is missing or damaged."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise ScrflowError(f"{path}: image is missing") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ScrflowError(f"{path}: image cannot be read ({error}); replace it or take it off the list") from None


def resized_to_short_side(image: Image.Image, short_side: int) -> Image.Image:
    """The image with its short side at ``short_side`` px (antialiased); enlarged where it is smaller."""
    width, height = image.size
    scale = short_side / min(width, height)
    size = (round(width * scale), round(height * scale))
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """[3, H, W] float32 in 0..1."""
    import torch

    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float().div_(255)
