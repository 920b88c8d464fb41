"""The queries of a new scene: given, fixed by the layout, listed beside the photos, or every n-th image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pycolmap

from scrflow.core.errors import ScrflowError
from scrflow.newscene.forms import Found
from scrflow.newscene.options import NewScene
from scrflow.scene.checks import some
from scrflow.scene.lists import read_query_list
from scrflow.scene.photo_files import camera_from_exif, every_nth, list_photos
from scrflow.scene.readers import Collection
from scrflow.storage.listfile import listed


@dataclass(frozen=True, eq=False)
class Queries:
    """Which images are queries, and how the config says so."""

    split: dict[str, Any]  # of the config; empty where the layout fixes it
    names: tuple[str, ...]
    said: str
    lists: tuple[tuple[Path, str], ...] = ()  # list files to write
    from_exif: int = 0  # queries whose intrinsics EXIF alone tells
    guessed: int = 0
    every: int | None = None

    @classmethod
    def of(cls, options: NewScene, found: Found, collection: Collection) -> Queries:
        """The queries given; else those that the layout fixes; else lists beside the scene; else every eighth image."""
        if options.queries is not None and options.every is not None:
            raise ScrflowError("--queries and --every exclude each other; give one")
        if options.queries is not None:
            path = Path(os.path.abspath(options.queries))
            if path.is_dir():
                return cls._in_folder(options, found, collection, path)
            return cls._listed(options, found, collection, {"all": path})
        if options.every is None:
            if collection.split is not None:
                queries = collection.split[1]
                return cls({}, tuple(queries), f"{len(queries)}, given by the layout")
            lists = {_condition(p): p for p in sorted(found.root.glob("queries*.txt"))}
            if lists and _at_hand(lists.values(), collection.image_root):
                return cls._listed(options, found, collection, lists)
        every = options.every or 8
        _, queries = every_nth([image.name for image in collection.images], every)
        return cls({"every": every}, tuple(queries), f"{len(queries)}: every {every}th image", every=every)

    @classmethod
    def _in_folder(cls, options: NewScene, found: Found, collection: Collection, folder: Path) -> Queries:
        images = collection.image_root
        if not folder.is_relative_to(images):
            raise ScrflowError(f"{folder}: query photos belong under {images}, which names are relative to; move them")
        names = [(folder / name).relative_to(images).as_posix() for name in list_photos(folder)]
        path = found.root / f"{options.name}-queries.txt"
        from_exif, guessed = _without_camera(dict.fromkeys(names), options, collection, folder)
        split = _split({"all": path}, found.root, options)
        text = "".join(f"{listed(name)}\n" for name in names)
        return cls(split, tuple(names), f"{len(names)}, in {folder}", ((path, text),), from_exif, guessed)

    @classmethod
    def _listed(cls, options: NewScene, found: Found, collection: Collection, lists: Mapping[str, Path]) -> Queries:
        images, names, from_exif, guessed = collection.image_root, [], 0, 0
        for path in lists.values():
            cameras = read_query_list(path)
            gone = [name for name in cameras if not (images / name).is_file()]
            if gone:
                raise ScrflowError(
                    f"{path}: {len(gone)} of {len(cameras)} queries are not under {images}, which names are relative "
                    f"to: {some(gone)}; mend the list, or put them there"
                )
            names += cameras
            counts = _without_camera(cameras, options, collection, path)
            from_exif, guessed = from_exif + counts[0], guessed + counts[1]
        split = _split(lists, found.root, options)
        mapping = found.root / "mapping.txt"
        if options.queries is None and mapping.is_file():
            split = {"mapping": "mapping.txt", **split}
        said = f"{len(names)}, listed in {', '.join(p.name for p in lists.values())}"
        return cls(split, tuple(names), said, (), from_exif, guessed)


def _at_hand(lists: Iterable[Path], images: Path) -> bool:
    return all((images / name).is_file() for path in lists for name in read_query_list(path))


def _condition(path: Path) -> str:
    return path.stem.removeprefix("queries").strip("_-") or "all"


def _split(lists: Mapping[str, Path], root: Path, options: NewScene) -> dict[str, Any]:
    """The config's ``split``: lists relative to root where they lie in it."""

    def key(path: Path) -> str:
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()

    guess = {"guess_cameras": True} if options.guess_cameras else {}
    return {"queries": {condition: key(path) for condition, path in lists.items()}, **guess}


def _without_camera(
    cameras: Mapping[str, pycolmap.Camera | None], options: NewScene, collection: Collection, where: Path
) -> tuple[int, int]:
    """How many queries have intrinsics from EXIF alone, and how many a guess; ScrflowError where guesses are not asked
    for. SfM tells those of bare photos."""
    known = {image.name: image.camera for image in collection.images}
    unknown = [name for name, camera in cameras.items() if camera is None and name not in known]
    blind = [n for n in unknown if camera_from_exif(collection.image_root / n, "SIMPLE_PINHOLE")[1] == "guess"]
    if blind and not options.guess_cameras:
        raise ScrflowError(
            f"{where}: {len(blind)} queries have no intrinsics, neither in the model nor listed, and no focal length "
            f"in EXIF ({some(blind, 3)}); list them as 'name MODEL width height params...', or give --guess-cameras"
        )
    return len(unknown) - len(blind), len(blind)
