"""Which photos are queries: given, stated by the layout, by lists, JSON files or folders, or every eighth."""

import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, Self

from pydantic import Field, ValidationInfo, field_validator

from scrflow.config import Strict
from scrflow.core.errors import ScrflowError
from scrflow.scene.checks import some
from scrflow.scene.lists import PhotoNames, read_photo_list
from scrflow.scene.photo_files import camera_from_exif, every_nth, list_photos
from scrflow.scene.readers import Collection
from scrflow.scene.readers.shared import finds, first_rows, json_of, numbers_only, photo_names, walk
from scrflow.storage.listfile import listed

_MAPPING = re.compile(r"(mapping|train)([_-].*)?")
_QUERIES = [re.compile(rf"({words})([_-].*)?") for words in ("queries|query|test", "val")]  # val where nothing else is
_WORDS = re.compile(r"^(queries|query|test|val)|list|images|split")
_FOLDERS = ("queries", "query", "test", "val")
_JSON = re.compile(r".*(split|train|test|dataset).*")
_TABLES = (".csv", ".tsv", ".yaml", ".yml", ".npy", ".npz")  # not read


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


@dataclass(frozen=True, eq=False)
class Queries:
    """Which images are queries, and how the config says so."""

    split: dict[str, Any]  # of the config; empty where the layout fixes it
    names: tuple[str, ...]
    told: str
    lists: tuple[tuple[Path, str], ...] = ()  # list files to write
    missing: tuple[str, ...] = ()  # notes on what the user should add


@dataclass(frozen=True)
class Listed:
    """Photos that a list names, or a JSON file or a folder, for which a list is to be written."""

    by: Path
    names: Sequence[str] | None = None  # None where ``by`` is the list
    part: str = "queries"  # the end of the new list's name


@dataclass(frozen=True)
class Stated:
    """The split that files state."""

    queries: dict[str, Listed] = field(default_factory=dict)  # by condition
    mapping: Listed | None = None
    passed_over: tuple[str, ...] = ()  # a line for each file that looks like a split and is not taken

    def lists(self) -> list[Listed]:
        return [*self.queries.values(), *([self.mapping] if self.mapping else [])]


def find_queries(options: NewScene, root: Path, collection: Collection, spare: Path) -> Queries:
    """The given queries; else those of the layout, of lists or folders in the scene; else every eighth image. New lists
    go to the folder ``spare`` if the scene's own is read-only."""
    images = collection.image_root
    if options.queries and options.every is not None:
        raise ScrflowError("--queries and --every exclude each other; give one")
    found = _Lists(options, root, collection, root if os.access(root, os.W_OK) else spare)
    if options.queries:
        return found.queries(_given(options.queries, images))
    if options.every is not None:
        return _every_nth(options.every, collection)
    if collection.split is not None:
        names = tuple(collection.split[1])
        return Queries({}, names, f"{len(names)}, given by the layout")
    stated = stated_split(root, found.photos)
    lists, told, every = stated.queries, None, [image.name for image in collection.images]
    if not lists and (names := _in_query_folders(every)):
        lists = {"all": Listed(images / Path(names[0]).parent, names)}
    elif not lists and stated.mapping:
        mapped = found.names_of(stated.mapping)
        lists = {"all": Listed(stated.mapping.by, [name for name in every if name not in mapped])}
        told = f"all that {stated.mapping.by.name} does not list"
    if any(listed.names != [] for listed in lists.values()):
        queries = found.queries(lists, stated.mapping if stated.queries else None, told)
    else:
        queries = _every_nth(8, collection)
    return replace(queries, missing=(*queries.missing, *stated.passed_over))


def _every_nth(every: int, collection: Collection) -> Queries:
    _, names = every_nth([image.name for image in collection.images], every)
    missing = f"Queries: none given, so one of every {every} images is one. Others: --queries LIST."
    return Queries({"every": every}, tuple(names), f"{len(names)}: one of every {every} images", missing=(missing,))


def _given(given: Sequence[Path], images: Path) -> dict[str, Listed]:
    """The given lists and folders, each a condition if there are several."""
    lists: dict[str, Listed] = {}
    for path in given:
        condition, names, part = path.stem, None, "queries"
        if path.is_dir():
            if not path.is_relative_to(images):
                raise ScrflowError(
                    f"{path}: query photos belong under {images}, which names are relative to; move them"
                )
            condition = path.relative_to(images).as_posix().replace("/", "-")
            names = [(path / name).relative_to(images).as_posix() for name in list_photos(path)]
            part = f"queries-{condition}" if len(given) > 1 else "queries"
        condition = condition if len(given) > 1 else "all"
        if condition in lists:
            raise ScrflowError(f"{path}: a second --queries named {condition}; rename one of the two")
        lists[condition] = Listed(path, names, part)
    return lists


@dataclass(frozen=True)
class _Lists:
    """What a scene's lists are read and written with."""

    options: NewScene
    root: Path
    collection: Collection
    folder: Path  # of new lists

    @functools.cached_property
    def photos(self) -> PhotoNames:
        return PhotoNames(self.collection.image_root)

    def path(self, listed: Listed) -> Path:
        return listed.by if listed.names is None else self.folder / f"{self.options.name}-{listed.part}.txt"

    def names_of(self, listed: Listed) -> dict[str, Any]:
        """Name -> camera, or None where a list gives none."""
        photos, skip = self.photos, self.options.skip_missing
        if listed.names is None:
            return read_photo_list(listed.by, photos, skip)
        return {name: None for name in listed.names if not skip or photos.has(name)}

    def queries(self, lists: dict[str, Listed], mapping: Listed | None = None, told: str | None = None) -> Self:
        """The queries of lists, by condition."""
        images = self.collection.image_root
        names: list[str] = []
        missing: tuple[str, ...] = ()
        for each in lists.values():
            cameras = self.names_of(each)
            gone = [name for name in cameras if not os.path.isfile(images / name)]
            if gone:
                raise ScrflowError(
                    f"{each.by}: {len(gone)} of {len(cameras)} queries are not under {images}, which names are "
                    f"relative to: {some(gone)}; correct the list, or put them there"
                )
            names += cameras
            missing += self._missing_cameras([name for name, camera in cameras.items() if camera is None], each.by)
        everything = [*([mapping] if mapping else []), *lists.values()]
        texts = tuple(
            (self.path(each), "".join(f"{listed(name)}\n" for name in self.names_of(each)))
            for each in everything
            if each.names is not None
        )
        split: dict[str, Any] = {"mapping": self._key(mapping)} if mapping else {}
        split["queries"] = {condition: self._key(each) for condition, each in lists.items()}
        if self.options.guess_cameras:
            split["guess_cameras"] = True
        told = told or "of " + ", ".join(each.by.name if each.by.is_file() else str(each.by) for each in lists.values())
        return Queries(split, tuple(names), f"{len(names)}, {told}", texts, missing)

    def _key(self, listed: Listed) -> str:
        """Relative to root where the list lies in it."""
        path = self.path(listed)
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()

    def _missing_cameras(self, names: list[str], where: Path) -> tuple[str, ...]:
        """Notes on intrinsics that neither the source nor a list gives. ScrflowError if they need a guess not asked
        for."""
        known = {image.name for image in self.collection.images}
        unknown = [name for name in names if name not in known]
        images = self.collection.image_root
        blind = [n for n in unknown if camera_from_exif(images / n, "SIMPLE_PINHOLE")[1] == "guess"]
        if blind and not self.options.guess_cameras:
            raise ScrflowError(
                f"{where}: {len(blind)} queries have no intrinsics, neither in the model nor listed, and no focal "
                f"length in EXIF ({some(blind, 3)}); list them as 'name MODEL width height params...', or give "
                "--guess-cameras"
            )
        exif = len(unknown) - len(blind)
        origins = {"from EXIF, not calibrated": exif, "a guess, as --guess-cameras asks": len(blind)}
        return tuple(f"Intrinsics of {count} queries: {origin}." for origin, count in origins.items() if count)


# ------------------------------------------------------------------------------------------------- what files state


def stated_split(root: Path, names: PhotoNames) -> Stated:
    """Of lists (queries.txt, queries_night.txt, test.txt, train_list.txt ...), or of a JSON file with lists of train
    and test, in the nearest folder under the scene's that has them. A line at least names a photo; lines that do not
    are the list's fault."""
    taken, others = Stated(), []
    files = sorted((p for p in walk(root) if _looks(p)), key=lambda p: (len(p.parts), p))
    for _, inside in groupby(files, key=lambda p: p.parent):
        here = list(inside)
        if not taken.lists():
            taken = _of_lists(here, names) or _of_json(here, names) or taken
        others += [p for p in here if p not in [each.by for each in taken.lists()]]
    chosen = next((each.by for each in taken.lists()), None)
    why = f"{chosen.relative_to(root)} is taken" if chosen else "it has no list of photos that are there"
    told = (f"Split passed over: {p.relative_to(root)} ({why}); give --queries LIST for another." for p in others)
    return replace(taken, passed_over=tuple(told))


def _looks(path: Path) -> bool:
    """Whether a file may be meant as a split, by its name and, of text, its first lines."""
    stem, suffix = path.stem.lower(), path.suffix.lower()
    if suffix == ".json":
        values = json_of(path) if _JSON.fullmatch(stem) and path.is_file() else None
        return isinstance(values, dict | list) and "frames" not in values
    named = any(form.fullmatch(stem) for form in (_MAPPING, *_QUERIES)) or "split" in stem
    if suffix not in (".txt", *_TABLES) or not named or not path.is_file():
        return False
    # lines with numbers after the name are poses
    return suffix != ".txt" or not any(numbers_only(fields[:1], 1) for _, fields in first_rows(path))


def _of_lists(files: Sequence[Path], names: PhotoNames) -> Stated | None:
    lists = [p for p in files if p.suffix.lower() == ".txt" and any(finds(names, name) for name, _ in first_rows(p))]
    mapping = next((Listed(p) for p in lists if _MAPPING.fullmatch(p.stem.lower())), None)
    for form in _QUERIES:
        found = {_WORDS.sub("", p.stem).strip("_-") or "all": p for p in lists if form.fullmatch(p.stem.lower())}
        if found:
            return Stated({condition: Listed(path) for condition, path in found.items()}, mapping)
    return Stated({}, mapping) if mapping else None


def _of_json(files: Sequence[Path], names: PhotoNames) -> Stated | None:
    for file in files:
        values = json_of(file) if file.suffix.lower() == ".json" else None
        if not isinstance(values, dict):
            continue
        found = {}
        for part, forms in (("mapping", (_MAPPING,)), ("queries", _QUERIES)):
            keys = (key for form in forms for key in values if form.fullmatch(key.lower()))
            stated = next((photo_names(v) for key in keys if isinstance(v := values[key], list)), [])
            if any(finds(names, name) for name in stated):
                found[part] = Listed(file, [names.find(name, file) or name for name in stated], part)
        if found:
            return Stated({"all": found["queries"]} if "queries" in found else {}, found.get("mapping"))
    return None


def _in_query_folders(names: Sequence[str]) -> list[str]:
    """The photos in folders that are called as queries are, of the first such name; none where all are in them."""
    for folder in _FOLDERS:
        found = [n for n in names if folder in (part.lower() for part in PurePosixPath(n).parts[:-1])]
        if found and len(found) < len(names):
            return found
    return []
