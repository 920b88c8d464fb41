"""Reading photos: check the file, convert it to 8-bit RGB, resize it.

Grey is repeated, 16 bits keep their upper 8 (65 535 is white), transparent pixels are drawn on black. Files with no
single meaning as a photo are refused: several frames, values without a white point.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from scrflow.core.errors import ScrflowError

with contextlib.suppress(ImportError):  # not in the environment of hloc
    from pillow_heif import register_heif_opener

    register_heif_opener()

if TYPE_CHECKING:  # the evaluation reads photos too, without loading torch
    import torch

MIN_SIDE_PX = 16
MAX_ASPECT = 20  # encoders resize to a fixed short side: a photo one pixel high would become millions of pixels wide
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
_NO_WHITE = ("I", "F")  # 32 bits a pixel
_DARK = 4096  # of 65 535: 12 bits of a camera stored in 16
_FRAMES = ("GIF", "PNG", "WEBP")  # their frames are an animation; those of MPO and TIFF are copies and pages
REPLACE = "replace it or remove its name from the lists"


def photo_bytes(path: Path) -> bytes:
    """The file's bytes; ScrflowError for a file that is missing, empty, not readable or not a regular file."""
    with _file_errors(Path(path)):
        return Path(path).read_bytes()


@contextlib.contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """For a block that opens the file: refuse folders, pipes and empty files, and report what cannot be read."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ScrflowError(f"{path}: is {what}, expected an image; {REPLACE}")
        if status.st_size == 0:
            raise ScrflowError(f"{path}: image is empty (0 bytes); {REPLACE}")
        yield
    except FileNotFoundError:
        if path.is_symlink():
            raise ScrflowError(
                f"{path}: image is missing: a link to {os.readlink(path)}, which does not exist; fix the link or "
                "remove its name from the lists"
            ) from None
        raise ScrflowError(
            f"{path}: image is missing; put it there or remove its name from the lists{_other_form(path)}"
        ) from None
    except UnidentifiedImageError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None)
        if reason is None:  # an error of Pillow: handled by ``opened``
            raise
        raise ScrflowError(
            f"{path}: image cannot be read ({reason}); fix its permissions or name, or remove it from the lists"
        ) from None


def _other_form(path: Path) -> str:
    """A hint if the folder has this name in other code points (macOS writes accents as characters of their own)."""
    import unicodedata

    same = unicodedata.normalize("NFC", path.name)
    with contextlib.suppress(OSError, ValueError):
        if any(unicodedata.normalize("NFC", name) == same for name in os.listdir(path.parent)):
            return " (the folder has this name in another Unicode form, NFC or NFD: rename it with convmv)"
    return ""


@contextlib.contextmanager
def opened(path: Path | str, data: bytes | None = None) -> Iterator[Image.Image]:
    """The image of a file, or of its bytes ``data``, not decoded yet; errors in the block become ScrflowErrors too."""
    files = _file_errors(Path(path)) if data is None else contextlib.nullcontext()
    try:
        with files, Image.open(path if data is None else io.BytesIO(data)) as image:
            yield image
    except Image.DecompressionBombError:
        most = 2 * Image.MAX_IMAGE_PIXELS / 1e6
        raise ScrflowError(
            f"{path}: image is huge, over {most:.0f} million pixels; make it smaller (and its camera with it) or "
            "remove its name from the lists"
        ) from None
    except UnidentifiedImageError:
        if Path(path).suffix.lower() in (".heic", ".heif") and ".heic" not in Image.registered_extensions():
            raise ScrflowError(f"{path}: image is HEIC; pip install pillow-heif, or convert it to JPEG") from None
        raise ScrflowError(f"{path}: image is damaged or truncated (not an image); {REPLACE}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ScrflowError(f"{path}: image is damaged or truncated ({reason}); {REPLACE}") from None


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in px, from the file's header."""
    with opened(path) as image:
        return image.size


def check_kind(image: Image.Image, path: Path | str) -> None:
    """ScrflowError if an opened image is no photo: an animation, values without a white point, a row of pixels."""
    frames = getattr(image, "n_frames", 1) if image.format in _FRAMES else 1
    if frames > 1:
        raise ScrflowError(f"{path}: image is animated ({frames} frames), expected a photo; save one frame of it")
    if image.mode in _NO_WHITE:
        raise ScrflowError(
            f"{path}: image has 32 bits a pixel (mode {image.mode}), and no value is known to be white; save it with 8 "
            "or 16 bits"
        )
    width, height = image.size
    if min(width, height) < MIN_SIDE_PX or max(width, height) > MAX_ASPECT * min(width, height):
        raise ScrflowError(
            f"{path}: image is {width}x{height} px, expected at least {MIN_SIDE_PX} px a side and no side over "
            f"{MAX_ASPECT} times the other; {REPLACE}"
        )


def read_rgb(path: Path, sha256: str | None = None) -> Image.Image:
    """The decoded photo in RGB; ScrflowError if it is missing, damaged, no photo, or of another digest (hex)."""
    data = photo_bytes(path)
    if sha256 is not None:
        check_unchanged(path, sha256, data)
    with opened(path, data) as image:
        return rgb(image, path)


def check_unchanged(path: Path, sha256: str, data: bytes | None = None) -> None:
    """ScrflowError if the file (its bytes ``data``, if read already) does not have the digest ``sha256``."""
    if hashlib.sha256(photo_bytes(path) if data is None else data).hexdigest() != sha256:
        raise ScrflowError(
            f"{path}: image is not the one that the scene was made of (its bytes have changed); put that one back, or "
            "build the scene again (snakemake --forcerun build_scene)"
        )


def rgb(image: Image.Image, name: Path | str) -> Image.Image:
    """An opened image in RGB, 8 bits a channel; a ScrflowError that begins with ``name`` if it is no photo."""
    check_kind(image, name)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.convert("RGB")
    if image.mode in _DEEP:
        return _grey_of_16_bits(image, name)
    if image.mode in ("LA", "PA", "La", "RGBa", "RGBA") or "transparency" in image.info:
        whole = image.convert("RGBA") if image.mode != "La" else image.convert("LA").convert("RGBA")
        if whole.getextrema()[3][0] == 255:
            return whole.convert("RGB")
        return Image.alpha_composite(Image.new("RGBA", whole.size, (0, 0, 0, 255)), whole).convert("RGB")
    return image.convert("RGB")


def _grey_of_16_bits(image: Image.Image, name: Path | str) -> Image.Image:
    """The upper 8 bits. (Pillow's own conversion clips all values above 255 to white.)"""
    grey = np.asarray(image).astype(np.uint16)
    brightest = int(grey.max(initial=0))
    if 0 < brightest < _DARK:
        raise ScrflowError(
            f"{name}: image of 16 bits whose brightest pixel is {brightest} of 65535, black in 8 bits; is it a depth "
            "image? Scale values of 10 or 12 bits to 16"
        )
    return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")


def resized_to_short_side(
    image: Image.Image, short_side: int, how: Literal["lanczos", "bilinear"] = "lanczos", multiple: int = 1
) -> Image.Image:
    """The image resized to a short side of ``short_side`` px (antialiased); smaller ones are enlarged. ``bilinear``: as
    torchvision does it, cutting off fractions of a side, which is then rounded up to a multiple (R-SCoRe's code)."""
    width, height = image.size
    if how == "bilinear":
        short = -(-short_side // multiple) * multiple
        sides = (-(-int(short * side / min(width, height)) // multiple) * multiple for side in (width, height))
        size = tuple(sides)
        return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)
    scale = short_side / min(width, height)
    size = (round(width * scale), round(height * scale))
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """[3, H, W] float32 in 0..1."""
    import torch

    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float().div_(255)
