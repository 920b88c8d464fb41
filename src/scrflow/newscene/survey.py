"""Inspect a folder: its form, images, cameras and queries. Refuse what would stop the run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pycolmap
from pydantic import Field, ValidationInfo, field_validator

from scrflow.config import SceneConfig, Source, Strict
from scrflow.config.base import validate
from scrflow.core.errors import ScrflowError
from scrflow.core.images import check_kind, opened
from scrflow.core.progress import track
from scrflow.newscene.forms import detect, passed_over
from scrflow.newscene.splits import Stated, in_query_folders, stated_split
from scrflow.scene.checks import check_name, check_unique, some
from scrflow.scene.colmap_model import View
from scrflow.scene.photo_files import Exif, camera_from_exif, every_nth, list_photos, read_exif
from scrflow.scene.photo_names import PhotoNames, read_photo_list
from scrflow.scene.readers import Collection, Found, read_source
from scrflow.scene.readers.photos import PhotosSource
from scrflow.storage.listfile import listed

_FOCAL_SPREAD = 1.05  # of EXIF focal lengths of one lens at one zoom


class NewScene(Strict):
    """The options of ``scrflow new-scene``; None means: detect."""

    name: str
    path: Path
    form: str | None = None
    queries: tuple[Path, ...] = ()
    every: int | None = Field(None, ge=2)
    outdoor: bool = False
    unit: str | None = None
    single_camera: bool | None = None
    skip_missing: bool = False
    guess_cameras: bool = False
    gps: bool = False
    positions: Path | None = None
    known_distance: tuple[str, str, str] | None = None  # photo, photo, length such as 3.2m
    method: str | None = None
    licence: str = "of the owner of the photos"
    description: str | None = None

    @field_validator("path", "queries", "positions", mode="before")
    @classmethod
    def _absolute(cls, value: Any, info: ValidationInfo) -> Any:
        paths = [value] if isinstance(value, str | Path) else value or ()
        paths = tuple(Path(os.path.abspath(Path(path).expanduser())) for path in paths)
        return paths if info.field_name == "queries" else next(iter(paths), None)


@dataclass(frozen=True)
class Photo:
    """What the file of a photo says."""

    name: str
    size: tuple[int, int]  # width, height, px
    exif: Exif
    mode: str  # Pillow's: what a pixel is

    @property
    def focal_mm(self) -> float | None:
        """Focal length by EXIF, of a 35 mm equivalent where it is given."""
        return self.exif.focal_35mm or self.exif.focal_mm


@dataclass(frozen=True, eq=False)
class Queries:
    """Which images are queries, and how the config says so."""

    split: dict[str, Any]  # of the config; empty where the layout fixes it
    names: tuple[str, ...]
    told: str
    lists: tuple[tuple[Path, str], ...] = ()  # list files to write
    missing: tuple[str, ...] = ()  # notes on what the user should add


@dataclass(frozen=True, eq=False)
class Findings:
    """All that is known of the scene."""

    found: Found
    collection: Collection
    photos: list[Photo]
    queries: Queries
    several_cameras: str | None  # why bare photos cannot share one camera
    passed_over: tuple[str, ...]  # files that look like poses and are not read

    @property
    def bare(self) -> bool:
        """Whether there are only photos, so that SfM has to find their poses."""
        return self.found.source["reader"] == "photos"


def survey(options: NewScene, found: Found, spare: Path) -> Findings:
    """Inspect the images of a form. ScrflowError of one line for what would stop the run. New lists go to the folder
    ``spare`` if the scene's own is read-only."""
    if found.form in ("video", "ROS bag"):
        raise ScrflowError(f"{found.root}: a {found.form} has no photos yet; extract them by scrflow new-scene")
    if options.skip_missing:
        found = replace(found, source={**found.source, "skip_missing": True})
    collection = _collection(found)
    queries = _queries(options, found, collection, spare)
    photos = _inspect(collection.image_root, sorted({*(i.name for i in collection.images), *queries.names}))
    _check_photos(photos, collection)
    several = None
    if found.source["reader"] == "photos":
        several = _several_cameras(photos)
        if options.single_camera and len({p.size for p in photos}) > 1:
            raise ScrflowError(f"{options.path}: {several}, which one camera cannot have; leave out --single-camera")
        single = several is None if options.single_camera is None else options.single_camera
        found = replace(found, source={**found.source, "single_camera": single})
    return Findings(found, collection, photos, queries, several, passed_over(options.path, found, source_of(found)))


def chosen_form(options: NewScene) -> Found:
    """The form asked for, or the most specific that fits; ScrflowError where it does not fit."""
    forms = detect(options.path)
    for found in forms:
        if options.form is None or found.form.lower() == options.form.lower():
            return found
    likely = ", ".join(f.form for f in forms)
    raise ScrflowError(
        f"{options.path}: not of form {options.form!r}; it looks like {likely}: correct or leave out --form"
    )


def source_of(found: Found) -> Source:
    """The source of a form, as the scene's config would have it."""
    minimal = {"description": "", "licence": "", "root": "", "method": "", "source": found.source}
    return validate(SceneConfig, minimal, found.root).source


def _collection(found: Found) -> Collection:
    """What the reader of the form finds; of bare photos only the names (their cameras come from SfM)."""
    source = source_of(found)
    if isinstance(source, PhotosSource):
        folder = found.root / source.images
        unknown = pycolmap.Camera(model="SIMPLE_PINHOLE", width=0, height=0, params=[1, 0, 0])
        return Collection(folder, folder, tuple(View(name, unknown, None) for name in list_photos(folder)))
    try:
        collection = read_source(source, found.root)
    except ScrflowError as error:
        if "source.skip_missing: true" in str(error):
            raise ScrflowError(f"{error} (here --skip-missing)") from None
        raise
    check_unique((image.name for image in collection.images), str(collection.where))
    gone = [i.name for i in collection.images if not os.path.isfile(collection.image_root / i.name)]
    if gone:
        raise ScrflowError(
            f"{collection.where}: {len(gone)} of its {len(collection.images)} images are not under "
            f"{collection.image_root}: {some(gone)}; put them there, let PATH be the folder that has both, or give "
            "--skip-missing"
        )
    return collection


def _queries(options: NewScene, found: Found, collection: Collection, spare: Path) -> Queries:
    """The given queries; else those of the layout, of lists or folders in the scene; else every eighth image."""
    root, images = found.root, collection.image_root
    lists_in = root if os.access(root, os.W_OK) else spare
    if options.queries and options.every is not None:
        raise ScrflowError("--queries and --every exclude each other; give one")
    if options.queries:
        return _given_queries(options, found, collection, lists_in)
    if options.every is None:
        if collection.split is not None:
            queries = collection.split[1]
            return Queries({}, tuple(queries), f"{len(queries)}, given by the layout")
        stated = stated_split(root, PhotoNames(images))
        queries = _stated_queries(stated, options, found, collection, lists_in)
        return replace(queries, missing=(*queries.missing, *stated.passed_over))
    return _every_nth(options.every, collection)


def _stated_queries(stated: Stated, options: NewScene, found: Found, collection: Collection, lists_in: Path) -> Queries:
    """The queries that files or folders state; else every eighth image."""
    photos = PhotoNames(collection.image_root)
    mapping, lists, texts, made = stated.mapping, dict(stated.queries), [], {}
    names_of = {
        part: [name for name in names if not options.skip_missing or photos.has(name)]
        for part, names in stated.names.items()
    }
    for part, names in names_of.items():  # of a JSON file
        path = lists_in / f"{options.name}-{part}.txt"
        if part == "mapping":
            mapping, texts = path, [(path, _list_of(names))]
        else:
            made[path], lists = (stated.queries["all"], names), {"all": path}
    if lists:
        queries = _listed_queries(lists, options, found, collection, made)
        split = {**({"mapping": _key(mapping, found.root)} if mapping else {}), **queries.split}
        return replace(queries, split=split, lists=(*texts, *queries.lists))
    every_name = [image.name for image in collection.images]
    names = in_query_folders(every_name)
    told = f"{len(names)}, in the folder {Path(names[0]).parent}" if names else ""
    if mapping and not names:
        mapped = names_of.get("mapping") or read_photo_list(mapping, photos, options.skip_missing)
        names = [name for name in every_name if name not in mapped]
        told = f"{len(names)}, all that {stated.mapping.name} does not list"
    if not names:
        return _every_nth(8, collection)
    path = lists_in / f"{options.name}-queries.txt"
    return Queries(_split_of(options, found.root, {"all": path}), tuple(names), told, ((path, _list_of(names)),))


def _list_of(names: Iterable[str]) -> str:
    return "".join(f"{listed(name)}\n" for name in names)


def _every_nth(every: int, collection: Collection) -> Queries:
    _, names = every_nth([image.name for image in collection.images], every)
    missing = f"Queries: none given, so one of every {every} images is one. Others: --queries LIST."
    return Queries({"every": every}, tuple(names), f"{len(names)}: one of every {every} images", missing=(missing,))


def _given_queries(options: NewScene, found: Found, collection: Collection, lists_in: Path) -> Queries:
    """Queries of the given lists and folders, each a condition if there are several. For a folder a list is written."""
    images, several = collection.image_root, len(options.queries) > 1
    lists: dict[str, Path] = {}
    made: dict[Path, tuple[Path, list[str]]] = {}
    for given in options.queries:
        condition, path = given.stem, given
        if given.is_dir():
            if not given.is_relative_to(images):
                raise ScrflowError(
                    f"{given}: query photos belong under {images}, which names are relative to; move them"
                )
            condition = given.relative_to(images).as_posix().replace("/", "-")
            path = lists_in / f"{options.name}-queries{f'-{condition}' if several else ''}.txt"
            made[path] = given, [(given / name).relative_to(images).as_posix() for name in list_photos(given)]
        if condition in lists:
            raise ScrflowError(f"{given}: a second --queries named {condition}; rename one of the two")
        lists[condition if several else "all"] = path
    return _listed_queries(lists, options, found, collection, made)


def _listed_queries(
    lists: dict[str, Path],
    options: NewScene,
    found: Found,
    collection: Collection,
    made: Mapping[Path, tuple[Path, list[str]]],
) -> Queries:
    """The queries of lists, by condition. ``made``: list to write -> the folder or file that states it, its photos."""
    images = collection.image_root
    names: list[str] = []
    texts: list[tuple[Path, str]] = []
    missing: tuple[str, ...] = ()
    for path in lists.values():
        where, stated = made.get(path, (path, None))
        if stated is None:
            cameras = read_photo_list(path, PhotoNames(images), options.skip_missing)
        else:
            cameras = dict.fromkeys(stated)
            texts.append((path, _list_of(cameras)))
        gone = [name for name in cameras if not os.path.isfile(images / name)]
        if gone:
            raise ScrflowError(
                f"{where}: {len(gone)} of {len(cameras)} queries are not under {images}, which names are relative "
                f"to: {some(gone)}; correct the list, or put them there"
            )
        names += cameras
        unknown = [name for name, camera in cameras.items() if camera is None]
        missing += _missing_cameras(unknown, options, collection, where)
    sources = (made[path][0] if path in made else path for path in lists.values())
    told = f"{len(names)}, of {', '.join(p.name if p.is_file() else str(p) for p in sources)}"
    return Queries(_split_of(options, found.root, lists), tuple(names), told, tuple(texts), missing)


def _split_of(options: NewScene, root: Path, lists: dict[str, Path]) -> dict[str, Any]:
    """The config's ``split``: lists relative to root where they lie in it."""
    keys = {condition: _key(path, root) for condition, path in lists.items()}
    return {"queries": keys, **({"guess_cameras": True} if options.guess_cameras else {})}


def _key(path: Path, root: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _missing_cameras(names: list[str], options: NewScene, collection: Collection, where: Path) -> tuple[str, ...]:
    """Notes on intrinsics that neither the source nor a list gives. ScrflowError if they need a guess not asked for."""
    known = {image.name for image in collection.images}
    unknown = [name for name in names if name not in known]
    blind = [n for n in unknown if camera_from_exif(collection.image_root / n, "SIMPLE_PINHOLE")[1] == "guess"]
    if blind and not options.guess_cameras:
        raise ScrflowError(
            f"{where}: {len(blind)} queries have no intrinsics, neither in the model nor listed, and no focal length "
            f"in EXIF ({some(blind, 3)}); list them as 'name MODEL width height params...', or give --guess-cameras"
        )
    origins = {"from EXIF, not calibrated": len(unknown) - len(blind), "a guess, as --guess-cameras asks": len(blind)}
    return tuple(f"Intrinsics of {count} queries: {origin}." for origin, count in origins.items() if count)


def _inspect(folder: Path, names: list[str]) -> list[Photo]:
    """Decode every photo (JPEG at an eighth). ScrflowError with number and names of those that cannot be used."""
    for name in names:
        check_name(name, str(folder))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        looked = list(track(pool.map(lambda n: _photo(folder / n, n), names), "looking at photos", total=len(names)))
    bad = [f"{name} ({result})" for name, result in zip(names, looked, strict=True) if isinstance(result, str)]
    if bad:
        raise ScrflowError(f"{folder}: {len(bad)} of {len(names)} photos cannot be used: {some(bad, 3)}; replace them")
    return [photo for photo in looked if isinstance(photo, Photo)]


def _photo(path: Path, name: str) -> Photo | str:
    """The photo, or why it cannot be used."""
    try:
        with opened(path) as image:
            size, mode = image.size, image.mode
            if mode[0] not in "IF":
                check_kind(image, path)
            image.draft("L", (image.width // 8, image.height // 8))
            image.load()  # before the EXIF, which a PNG may have at its end
            return Photo(name, size, read_exif(image), mode)
    except ScrflowError as error:
        return str(error).removeprefix(f"{path}: ").partition("; ")[0]


def _check_photos(photos: list[Photo], collection: Collection) -> None:
    """ScrflowError for photos that EXIF turns, depth maps, and photos of another size than their camera's."""
    folder = collection.image_root
    turned = [p.name for p in photos if p.exif.orientation != 1]
    if turned:
        raise ScrflowError(
            f"{folder}: {len(turned)} of {len(photos)} photos are turned by their EXIF tag alone ({some(turned, 3)}): "
            f"turn the pixels by scrflow upright {folder} OUT"
        )
    deep = [p.name for p in photos if p.mode[0] in "IF"]  # one channel of 16 bits or more
    # if all images have 16 bits, they are photos of a grey camera
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
            f"{collection.where}: {len(odd)} images have another size than their camera ({odd[0]}); give "
            "the images that the model was made from"
        )


def _several_cameras(photos: list[Photo]) -> str | None:
    """Why the photos cannot be of one camera at one zoom, by size and EXIF; None if they can."""
    sizes, models = Counter(p.size for p in photos), Counter(p.exif.model for p in photos if p.exif.model)
    focal = [p.focal_mm for p in photos if p.focal_mm]
    if len(sizes) > 1:
        return f"{len(sizes)} sizes ({', '.join(f'{w}x{h}: {n}' for (w, h), n in sizes.most_common(4))})"
    if len(models) > 1:
        return f"{len(models)} cameras ({some(list(models), 3)})"
    if focal and max(focal) > _FOCAL_SPREAD * min(focal):
        return f"focal lengths of {min(focal):g} to {max(focal):g} mm (zoom, or several lenses)"
    return None
