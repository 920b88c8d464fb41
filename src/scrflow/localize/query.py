"""The forms of a query: a path, a picture or an array, with a camera object, its numbers, EXIF, or none."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeAlias

import numpy as np
import pycolmap
from PIL import Image, ImageOps

from scrflow.core.errors import ScrflowError
from scrflow.core.images import opened, rgb
from scrflow.scene.checks import check_intrinsics
from scrflow.scene.colmap_model import copy_camera
from scrflow.scene.lists import camera_of_fields
from scrflow.scene.photo_files import camera_from_exif, read_exif

ImageLike: TypeAlias = str | Path | bytes | Image.Image | np.ndarray
CameraLike: TypeAlias = pycolmap.Camera | Mapping[str, Any] | Sequence[Any] | str

_QUARTER_TURNS = (5, 6, 7, 8)
_HOW = "'MODEL WIDTH HEIGHT PARAMS...' as COLMAP has it, e.g. 'PINHOLE 640 480 525 525 320 240'"


def query_photo(image: ImageLike, camera: CameraLike | None) -> tuple[Image.Image, pycolmap.Camera | None]:
    """The photo in RGB, upright, and the camera of its pixels, None where nothing tells its focal length. ScrflowError
    for an image or a camera that cannot be used.

    ``image``: a path, the bytes of a file, a PIL image, or uint8 [H, W, 3] or [H, W]. ``camera``: pycolmap.Camera; a
    dict of model, width, height, params; a tuple or string of these in this order; None: from the EXIF of a file
    (SIMPLE_PINHOLE). If EXIF asks viewers to turn the photo, the camera must be of the turned photo, and show it by its
    size.
    """
    name = str(image) if isinstance(image, str | Path) else "photo" if isinstance(image, bytes) else "image"
    photo = _opened(image, name)  # converted to RGB, it still has its EXIF
    orientation = read_exif(photo).orientation
    if camera is None:
        return ImageOps.exif_transpose(photo), _exif_camera(image, photo, orientation)
    given = camera_of(camera, name)
    width, height = photo.size
    if orientation == 1:
        if (given.width, given.height) != (width, height):
            raise ScrflowError(
                f"{name}: image is {width}x{height} px, its camera is {given.width}x{given.height}; use the image that "
                "the camera was calibrated for, or rescale the camera"
            )
        return photo, given
    if orientation in _QUARTER_TURNS and width != height and (given.width, given.height) == (height, width):
        return ImageOps.exif_transpose(photo), given
    raise ScrflowError(
        f"{name}: EXIF orientation {orientation} asks viewers to turn the image, and the camera "
        f"({given.width}x{given.height}) may be of the image as stored ({width}x{height}); turn the pixels first "
        "(scrflow upright), or remove the tag"
    )


def camera_of(camera: CameraLike, where: str) -> pycolmap.Camera:
    """The camera in any of its forms; a ScrflowError that begins with ``where``."""
    if isinstance(camera, pycolmap.Camera):
        check_intrinsics(camera, where)
        return copy_camera(camera)
    if isinstance(camera, str):
        fields = camera.split()
    else:
        try:
            if isinstance(camera, Mapping):
                camera = [camera[key] for key in ("model", "width", "height", "params")]
            model, width, height, params = camera
            fields = [str(v) for v in (getattr(model, "name", model), width, height, *np.ravel(params).tolist())]
        except (KeyError, ValueError, TypeError) as error:
            what = f"key {error} is missing" if isinstance(error, KeyError) else error
            raise ScrflowError(f"{where}: not a camera ({what}); expected model, width, height, params") from None
    if len(fields) < 4:
        raise ScrflowError(f"{where}: not a camera ({' '.join(fields)!r}); expected {_HOW}")
    found = camera_of_fields(fields, where)
    check_intrinsics(found, where)
    return found


def _opened(image: ImageLike, name: str) -> Image.Image:
    """The stored pixels in RGB."""
    if isinstance(image, np.ndarray):
        shape = image.shape
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and shape[2] in (1, 3))) or 0 in shape:
            raise ScrflowError(
                f"{name}: array of {image.dtype} {list(shape)}, expected uint8 [H, W, 3] or [H, W]; convert it"
            )
        return Image.fromarray(image[..., 0] if image.ndim == 3 and shape[2] == 1 else image).convert("RGB")
    if isinstance(image, Image.Image):
        return rgb(image, name)
    with opened(name, image if isinstance(image, bytes) else None) as photo:
        return rgb(photo, name)


def _exif_camera(image: ImageLike, photo: Image.Image, orientation: int) -> pycolmap.Camera | None:
    if isinstance(image, bytes):
        with NamedTemporaryFile() as file:  # COLMAP's list of cameras is only for files
            file.write(image)
            file.flush()
            try:
                return _exif_camera(file.name, photo, orientation)
            except ScrflowError as error:
                raise ScrflowError(str(error).replace(file.name, "photo")) from None
    if not isinstance(image, str | Path):
        return None
    camera, source = camera_from_exif(Path(image), "SIMPLE_PINHOLE")
    if source == "guess":
        return None
    if orientation in _QUARTER_TURNS:
        turned = (photo.height, photo.width)
        camera = pycolmap.Camera.create_from_model_name(0, "SIMPLE_PINHOLE", camera.mean_focal_length(), *turned)
    return camera
