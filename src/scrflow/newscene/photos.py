"""A look at every photo: size, EXIF, whether it can be read, whether a reader can use it as it is."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scrflow.core.errors import ScrflowError
from scrflow.core.images import check_kind, opened
from scrflow.core.progress import track
from scrflow.scene.checks import check_name, some
from scrflow.scene.photo_files import Exif, read_exif
from scrflow.scene.readers import Collection


@dataclass(frozen=True)
class Photo:
    """What the file of a photo says."""

    name: str
    size: tuple[int, int]  # width, height, px
    exif: Exif
    mode: str  # Pillow's: what a pixel is

    @property
    def depth_like(self) -> bool:
        """One channel of 16 bits or more."""
        return self.mode[0] in "IF"


def inspect_photos(folder: Path, names: list[str]) -> list[Photo]:
    """Decode every photo (JPEG at an eighth); ScrflowError naming those that cannot be, and how many they are."""
    for name in names:
        check_name(name, str(folder))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        looked = list(track(pool.map(lambda n: _look(folder / n, n), names), "looking at photos", total=len(names)))
    bad = [f"{name} ({result})" for name, result in zip(names, looked, strict=True) if isinstance(result, str)]
    if bad:
        raise ScrflowError(f"{folder}: {len(bad)} of {len(names)} photos cannot be used: {some(bad, 3)}; replace them")
    return [photo for photo in looked if isinstance(photo, Photo)]


def _look(path: Path, name: str) -> Photo | str:
    try:
        with opened(path) as image:
            size, mode = image.size, image.mode
            if mode[0] not in "IF":
                check_kind(image, path)
            image.draft("L", (image.width // 8, image.height // 8))
            image.load()  # before the EXIF, which a PNG may have at its end
            photo = Photo(name, size, read_exif(image), mode)
    except ScrflowError as error:
        return str(error).removeprefix(f"{path}: ").partition("; ")[0]
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
    # a folder of nothing but 16 bits is that of a grey camera
    if deep and not all(p.mode.startswith("I;16") for p in photos):
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
