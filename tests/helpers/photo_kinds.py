"""Photos of every kind, good and bad, written from one picture; and a little scene with pose lists to put them in."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bad import half
from PIL import Image
from small_datasets import pose_text, source_for, stage_of

from scrflow.config import Split

REPO = Path(__file__).resolve().parents[2]
SIZE = (160, 120)
LINE = "PINHOLE 160 120 130 130 80 60"


def picture() -> Image.Image:
    """A photo of the demo, 160 x 120."""
    with Image.open(REPO / "demo/images/mapping/000.jpg") as image:
        return image.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)


def saved(image: Image.Image, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, **options)
    return out.getvalue()


def png_of_16_bits(channels_HWC: np.ndarray, colour_type: int) -> bytes:
    """Pillow writes 16 bits of grey alone."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = channels_HWC.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in channels_HWC)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def bomb(width: int, height: int) -> bytes:
    """Under 200 bytes that say they are a PNG of that size."""
    whole = bytearray(png_of_16_bits(np.zeros((1, 1, 1), np.uint16), 0))
    whole[16:24] = struct.pack(">II", width, height)
    whole[29:33] = struct.pack(">I", zlib.crc32(bytes(whole[12:29])))
    return bytes(whole)


def _animated(form: str, **options) -> bytes:
    first = picture()
    return saved(first, format=form, save_all=True, append_images=[first.rotate(90), first.rotate(180)], **options)


def _half_clear() -> bytes:
    image = picture().convert("RGBA")
    image.paste((255, 255, 255, 0), (0, 0, SIZE[0] // 2, SIZE[1]))  # white, and not to be seen
    return saved(image, format="PNG")


def _on_black() -> Image.Image:
    image = picture()
    image.paste((0, 0, 0), (0, 0, SIZE[0] // 2, SIZE[1]))
    return image


def _grey(mode: str) -> Image.Image:
    return picture().convert(mode)


def _grey_16(form: str) -> bytes:
    return saved(Image.fromarray(np.asarray(_grey("L")).astype(np.uint16) * 257), format=form)


# name of the kind -> (file name, bytes, what it must look like, largest mean difference in grey levels). Lossless
# formats have 0; measured: CMYK in JPEG 1.2, progressive JPEG 2.1, palette 2.6
UNUSUAL: dict[str, tuple[str, Callable[[], bytes], Callable[[], Image.Image], float]] = {
    "grey with alpha": ("a.png", lambda: saved(_grey("LA"), format="PNG"), lambda: _grey("L"), 0),
    "16-bit grey PNG": ("a.png", lambda: _grey_16("PNG"), lambda: _grey("L"), 0),
    "16-bit grey TIFF": ("a.tif", lambda: _grey_16("TIFF"), lambda: _grey("L"), 0),
    "16-bit RGB PNG": ("a.png", lambda: png_of_16_bits(np.uint16(257) * np.asarray(picture()), 2), picture, 0),
    "CMYK JPEG": ("a.jpg", lambda: saved(picture().convert("CMYK"), format="JPEG", quality=95), picture, 3),
    "palette": ("a.png", lambda: saved(picture().quantize(256), format="PNG"), picture, 5),
    "RGBA, half transparent": ("a.png", _half_clear, _on_black, 0),
    "progressive JPEG": ("a.jpg", lambda: saved(picture(), format="JPEG", progressive=True, quality=95), picture, 5),
    "PNG named .jpg": ("a.jpg", lambda: saved(picture(), format="PNG"), picture, 0),
    "several pictures in a JPEG (MPO)": ("a.jpg", lambda: _animated("MPO", quality=95), picture, 5),
}

_CUT = r"image is damaged or truncated \(.+\); replace it"

# name of the kind -> (file name, bytes, the error after the file's name)
REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "zero bytes": ("a.jpg", lambda: b"", r"image is empty \(0 bytes\); replace it"),
    "JPEG cut in half": ("a.jpg", lambda: half(saved(picture(), format="JPEG")), _CUT),
    "PNG cut in half": ("a.png", lambda: half(saved(picture(), format="PNG")), _CUT),
    "TIFF cut in half": ("a.tif", lambda: half(saved(picture(), format="TIFF", compression="tiff_lzw")), _CUT),
    "WebP cut in half": ("a.webp", lambda: half(saved(picture(), format="WEBP")), _CUT),
    "HTML named .jpg": ("a.jpg", lambda: b"<!doctype html><title>404</title>", r".+\(not an image\); replace it"),
    "animated GIF": ("a.png", lambda: _animated("GIF"), r"image is animated \(3 frames\), expected a photo"),
    "animated WebP": ("a.webp", lambda: _animated("WEBP", lossless=True), r"image is animated \(3 frames\)"),
    "bomb": ("a.png", lambda: bomb(60_000, 60_000), r"image is huge, over 179 million pixels"),
    "one pixel high": ("a.png", lambda: saved(picture().resize((640, 1)), format="PNG"), "image is 640x1 px, expected"),
    "32-bit numbers": (
        "a.tif",
        lambda: saved(Image.fromarray(np.asarray(_grey("L")).astype(np.float32)), format="TIFF"),
        r"image has 32 bits a pixel \(mode F\)",
    ),
    "16-bit depth image": (
        "a.png",
        lambda: saved(Image.fromarray(np.full((120, 160), 2000, np.uint16)), format="PNG"),
        r"image of 16 bits whose brightest pixel is 2000 of 65535",
    ),
}


# ----------------------------------------------------------------------------------------------------------- no files

NO_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a folder named x.jpg": (Path.mkdir, r"is a folder, expected an image"),
    "broken link": (lambda path: path.symlink_to("gone.jpg"), r"image is missing: a link to gone\.jpg"),
    "named pipe": (os.mkfifo, r"is not a regular file, expected an image"),
}


# ------------------------------------------------------------------------------------------------------------- a scene

STAGE = stage_of(source_for("poselist", poses="poses.txt", images="images"), Split(every=4))


def pose_of(i: int) -> np.ndarray:
    """[3, 4]: along a line, looking at it from the side and turning a little."""
    angle = 0.05 * i
    R = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    return np.column_stack([R, -R @ [0.2 * i, 0.03 * i, 0]])


def dataset(root: Path, count: int = 6) -> Path:
    """``count`` photos 0.jpg ... (the same picture, a pixel brighter each) and poses.txt with their focal lengths."""
    (root / "images").mkdir(parents=True)
    for i in range(count):
        picture().point(lambda v, i=i: min(255, v + i)).save(root / f"images/{i}.jpg")
    (root / "poses.txt").write_text("".join(pose_text(f"{i}.jpg", pose_of(i), 130.0) for i in range(count)))
    return root
