"""A look at every photo: size, EXIF, whether it can be read, whether a reader can use it as it is."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from scrflow.errors import ScrflowError
from scrflow.progress import track
from scrflow.scene.photo_files import Exif, read_exif
from scrflow.scene.readers import Collection
from scrflow.scene.validate import check_name, some


@dataclass(frozen=True)
class Photo:
    """What the file of a photo says."""

    name: str
    size: tuple[int, int]  # width, height, px
    exif: Exif
    depth_like: bool  # one channel of 16 bits or more


def inspect_photos(folder: Path, names: list[str]) -> list[Photo]:
    """Decode every photo (JPEG at an eighth); ScrflowError naming those that cannot be, and how many they are."""
    for name in names:
        check_name(name, str(folder))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        looked = list(track(pool.map(lambda n: _look(folder / n, n), names), "looking at photos", total=len(names)))
    bad = [f"{name} ({result})" for name, result in zip(names, looked, strict=True) if isinstance(result, str)]
    if bad:
        raise ScrflowError(f"{folder}: {len(bad)} of {len(names)} photos cannot be read: {some(bad, 3)}; replace them")
    return [photo for photo in looked if isinstance(photo, Photo)]


def _look(path: Path, name: str) -> Photo | str:
    try:
        with Image.open(path) as image:
            photo = Photo(name, image.size, read_exif(image), image.mode[0] in "IF")
            image.draft("L", (image.width // 8, image.height // 8))
            image.load()
    except UnidentifiedImageError:
        return "not an image"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error)
    return photo


def check_photos(photos: list[Photo], collection: Collection) -> None:
    folder = collection.image_root
    turned = [p.name for p in photos if p.exif.orientation != 1]
    if turned:
        raise ScrflowError(
            f"{folder}: {len(turned)} of {len(photos)} photos are turned by their EXIF tag alone ({some(turned, 3)}): "
            f"scrflow upright {folder} OUT writes turned copies; give OUT as PATH"
        )
    deep = [p.name for p in photos if p.depth_like]
    if deep:
        raise ScrflowError(f"{folder}: {len(deep)} images are depth maps or the like ({some(deep, 3)}); move them away")
    sizes = {p.name: p.size for p in photos}
    odd = [
        f"{i.name} is {sizes[i.name][0]}x{sizes[i.name][1]}, its camera {i.camera.width}x{i.camera.height}"
        for i in collection.images
        if i.camera.width and (i.camera.width, i.camera.height) != sizes[i.name]  # width 0: bare photos
    ]
    if odd:
        raise ScrflowError(
            f"{collection.where}: {len(odd)} images have another size than their camera ({odd[0]}); "
            "use the images that the model was made from"
        )
