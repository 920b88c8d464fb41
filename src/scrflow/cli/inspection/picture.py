"""Pictures."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError
from rich.console import RenderableType

from scrflow.cli.inspection.layout import damaged, page


def show_picture(path: Path) -> RenderableType:
    """Form and size, once all of the picture was decoded."""
    try:
        with Image.open(path) as image:
            image.load()
            kind = f"{image.format} picture, {image.width} x {image.height} px, {image.mode}"
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise damaged(path, error) from None
    return page(path, kind, path.stat().st_size)
