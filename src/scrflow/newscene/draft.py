"""``scrflow new-scene``: look at what is there, refuse what would stop the run, propose the rest, write the config."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pycolmap
import yaml
from pydantic import Field

from scrflow.config import SceneConfig, Strict
from scrflow.config.base import validate
from scrflow.core.errors import ScrflowError
from scrflow.core.images import check_kind, opened
from scrflow.core.progress import track
from scrflow.newscene.forms import Found, detect
from scrflow.newscene.text import Look, Photo, Queries, found_rows, missing_lines, scene_text
from scrflow.pipeline.configs import RESERVED
from scrflow.pipeline.project import Project
from scrflow.scene.checks import check_name, check_unique, some
from scrflow.scene.colmap_model import View
from scrflow.scene.lists import read_query_list
from scrflow.scene.photo_files import camera_from_exif, every_nth, list_photos, read_exif
from scrflow.scene.readers import Collection, read_source
from scrflow.scene.readers.photos import PhotosSource
from scrflow.storage.artifact import write_text
from scrflow.storage.listfile import listed

_FOCAL_SPREAD = 1.05  # of EXIF focal lengths of one lens at one zoom


class NewScene(Strict):
    """The options of ``scrflow new-scene``; what is None is found out."""

    name: str
    path: Path
    form: str | None = None
    queries: Path | None = None
    every: int | None = Field(None, ge=2)
    outdoor: bool = False
    unit: str | None = None
    single_camera: bool | None = None
    skip_missing: bool = False
    guess_cameras: bool = False
    method: str | None = None
    licence: str = "of the owner of the photos"
    description: str | None = None


@dataclass(frozen=True, eq=False)
class Draft:
    """A scene's config that validates, and what to tell of it."""

    text: str
    config: SceneConfig
    rows: tuple[tuple[str, str], ...]  # what was found
    missing: tuple[str, ...]  # what was not, and what is done about it
    lists: tuple[tuple[Path, str], ...]  # list files to write with it


def new_scene(
    options: NewScene,
    config_dir: Path,
    out: Path | None,
    images: Path | None,
    max_frames: int,
    force: bool,
    dry_run: bool,
) -> None:
    """Write OUT/NAME.yaml (OUT: the config's scenes) and print what was found; with ``dry_run`` only print.

    The frames of a video go to ``images``, or NAME/images under data_root. ScrflowError as in ``draft_scene``.
    """
    import torch
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    project = Project(config_dir)
    check_scene_name(options.name, project)
    path = (out or config_dir / "scenes") / f"{options.name}.yaml"
    _check_free(path, force or dry_run)
    console = Console(soft_wrap=True)
    found = chosen_form(options)
    if images is not None and found.form != "video":
        raise ScrflowError(f"{options.path}: --images is for the frames of a video, this is of form {found.form}")
    if found.form == "video":
        folder = images or project.data_root() / options.name / "images"
        if dry_run:
            console.print(f"{found.root}: a video; up to {max_frames} frames would go to {folder}", markup=False)
            return
        from scrflow.newscene.video import PickOptions, pick_frames

        picked = pick_frames(found.root, folder, PickOptions(max_frames=max_frames))
        console.print(f"{len(picked.names)} of {picked.decoded} frames of {found.root} in {folder}", markup=False)
        inside = folder.name == "images"
        options = options.model_copy(update={"path": folder.parent if inside else folder, "form": "photos"})
    draft = draft_scene(options, project, torch.cuda.is_available())
    table = Table("what", "found")
    for what, row in draft.rows:
        table.add_row(what, escape(row))
    console.print(table, soft_wrap=False)
    for line in draft.missing:
        console.print(f"- {escape(line)}", highlight=False, soft_wrap=False)
    if dry_run:
        console.print(draft.text, markup=False, highlight=False)
        return
    write_scene_config(draft, path, force)
    for file, _ in (*draft.lists, (path, "")):
        console.print(f"written: {file}", markup=False)
    scenes = config_dir / "scenes"
    run = f"snakemake --cores all results/{options.name}/poses.txt"
    there = path.parent.resolve() == scenes.resolve()
    console.print(f"next: look at it, {f'then {run}' if there else f'and put it into {scenes}'}", markup=False)


def draft_scene(options: NewScene, project: Project, gpu: bool) -> Draft:
    """Look at ``options.path`` and propose a config. Nothing is written.

    ScrflowError, one line, for all that would stop the run: no photos, unreadable or turned ones, a model without its
    images, sizes that contradict cameras, queries that are not there or have no intrinsics.
    """
    check_scene_name(options.name, project)
    found = chosen_form(options)
    if found.form == "video":
        raise ScrflowError(f"{found.root}: a video has no photos yet; pick frames first (scrflow pick-frames)")
    if options.skip_missing:
        if found.form != "nerfstudio":
            raise ScrflowError(f"{options.path}: --skip-missing is for the form nerfstudio, this is {found.form}")
        found = replace(found, source={**found.source, "skip_missing": True})
    collection = _collection(found)
    queries = _queries(options, found, collection)
    photos = inspect_photos(collection.image_root, sorted({*(i.name for i in collection.images), *queries.names}))
    _check_photos(photos, collection)
    several = None
    if found.source["reader"] == "photos":
        several = _several_cameras(photos)
        if options.single_camera and len({p.size for p in photos}) > 1:
            raise ScrflowError(f"{options.path}: {several}, which one camera cannot have; leave out --single-camera")
        single = several is None if options.single_camera is None else options.single_camera
        found = replace(found, source={**found.source, "single_camera": single})
    method = options.method or ("rscore" if gpu else "rscore-cpu")
    project.method(method)  # ScrflowError where there is none

    look = Look(found, collection, photos, queries, options.unit or found.unit, several, options.outdoor)
    description = options.description or f"{len(photos)} photos, form {found.form}."
    values = {"description": description, "licence": options.licence, "method": method}
    text = scene_text(look, values, *_portable_root(found.root, project))
    config = validate(SceneConfig, yaml.safe_load(text), project.dir / "scenes" / f"{options.name}.yaml")
    return Draft(text, config, (*found_rows(look), ("method", method)), tuple(missing_lines(look)), queries.lists)


def write_scene_config(draft: Draft, path: Path, force: bool) -> None:
    """Write the config and its lists; ScrflowError where one of them exists, unless ``force``."""
    files = [*draft.lists, (path, draft.text)]
    for file, _ in files:
        _check_free(file, force)
    for file, text in files:
        try:
            write_text(file, text)
        except OSError as error:
            raise ScrflowError(f"{file}: cannot be written ({error.strerror})") from None


def _check_free(file: Path, force: bool) -> None:
    if file.exists() and not force:
        raise ScrflowError(f"{file}: already exists; --force overwrites it, or choose another name")


def check_scene_name(name: str, project: Project) -> None:
    """ScrflowError for a name that files, rules or other names of the project rule out."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise ScrflowError(f"{name!r}: the name of a scene has letters, digits, - _ and . only, no blank or slash")
    if name in project.methods or name in RESERVED:
        raise ScrflowError(f"{name!r}: a scene may not be named like a method or one of {', '.join(sorted(RESERVED))}")


def chosen_form(options: NewScene) -> Found:
    """The form asked for, or the most specific that fits; ScrflowError where it does not fit."""
    forms = detect(options.path)
    for found in forms:
        if options.form is None or found.form.lower() == options.form.lower():
            return found
    raise ScrflowError(
        f"{options.path}: not of form {options.form!r}; it looks like {', '.join(f.form for f in forms)}"
    )


def _collection(found: Found) -> Collection:
    """What the reader of the form finds; of bare photos only the names (their cameras come from SfM)."""
    minimal = {"description": "", "licence": "", "root": "", "method": "", "source": found.source}
    source = validate(SceneConfig, minimal, found.root).source
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
    gone = [i.name for i in collection.images if not (collection.image_root / i.name).is_file()]
    if gone:
        raise ScrflowError(
            f"{collection.where}: {len(gone)} of its {len(collection.images)} images are not under "
            f"{collection.image_root}: {some(gone)}; put them there, or let PATH be the folder that has both"
        )
    return collection


def _several_cameras(photos: list[Photo]) -> str | None:
    """Why the photos are not of one camera at one zoom, as sizes and EXIF tell; None where they may be."""
    sizes, models = Counter(p.size for p in photos), Counter(p.exif.model for p in photos if p.exif.model)
    focal = [p.exif.focal_35mm or p.exif.focal_mm for p in photos if p.exif.focal_35mm or p.exif.focal_mm]
    if len(sizes) > 1:
        return f"{len(sizes)} sizes ({', '.join(f'{w}x{h}: {n}' for (w, h), n in sizes.most_common(4))})"
    if len(models) > 1:
        return f"{len(models)} cameras ({some(list(models), 3)})"
    if focal and max(focal) > _FOCAL_SPREAD * min(focal):
        return f"focal lengths of {min(focal):g} to {max(focal):g} mm (zoom, or several lenses)"
    return None


def _portable_root(root: Path, project: Project) -> tuple[str, bool]:
    """Key ``root`` and whether it is in the project: relative to data_root where it lies there, else to the project,
    else absolute (``data_root / root`` is then ``root``)."""
    data, here = Path(os.path.abspath(project.data_root())), Path.cwd()
    for base in (data, here):
        if root.is_relative_to(base):
            return root.relative_to(base).as_posix(), base is here
    return root.as_posix(), False


# -------------------------------------------------------------------------------------------------------------- photos


def inspect_photos(folder: Path, names: list[str]) -> list[Photo]:
    """Decode every photo (JPEG at an eighth); ScrflowError naming those that cannot be, and how many they are."""
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
    folder = collection.image_root
    turned = [p.name for p in photos if p.exif.orientation != 1]
    if turned:
        raise ScrflowError(
            f"{folder}: {len(turned)} of {len(photos)} photos are turned by their EXIF tag alone ({some(turned, 3)}): "
            f"scrflow upright {folder} OUT writes turned copies; give OUT as PATH"
        )
    deep = [p.name for p in photos if p.mode[0] in "IF"]  # one channel of 16 bits or more
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


# ------------------------------------------------------------------------------------------------------------- queries


def _queries(options: NewScene, found: Found, collection: Collection) -> Queries:
    """The queries given; else those that the layout fixes; else lists beside the scene; else every eighth image."""
    if options.queries is not None and options.every is not None:
        raise ScrflowError("--queries and --every exclude each other; give one")
    if options.queries is not None:
        path = Path(os.path.abspath(options.queries))
        return (_queries_in if path.is_dir() else _listed_queries)(options, found, collection, path)
    if options.every is None:
        if collection.split is not None:
            queries = collection.split[1]
            return Queries({}, tuple(queries), f"{len(queries)}, given by the layout")
        lists = sorted(found.root.glob("queries*.txt"))
        if lists and all((collection.image_root / name).is_file() for path in lists for name in read_query_list(path)):
            return _listed_queries(options, found, collection, *lists)
    every = options.every or 8
    _, names = every_nth([image.name for image in collection.images], every)
    return Queries({"every": every}, tuple(names), f"{len(names)}: every {every}th image", every=every)


def _queries_in(options: NewScene, found: Found, collection: Collection, folder: Path) -> Queries:
    images = collection.image_root
    if not folder.is_relative_to(images):
        raise ScrflowError(f"{folder}: query photos belong under {images}, which names are relative to; move them")
    names = [(folder / name).relative_to(images).as_posix() for name in list_photos(folder)]
    path = found.root / f"{options.name}-queries.txt"
    counts = _without_camera(dict.fromkeys(names), options, collection, folder)
    text = "".join(f"{listed(name)}\n" for name in names)
    split = _split(options, found, {"all": path})
    return Queries(split, tuple(names), f"{len(names)}, in {folder}", ((path, text),), *counts)


def _listed_queries(options: NewScene, found: Found, collection: Collection, *paths: Path) -> Queries:
    """Queries of lists; beside the scene these are queries.txt, queries_night.txt ..., by condition."""
    images, given = collection.image_root, options.queries is not None
    lists = {"all" if given else p.stem.removeprefix("queries").strip("_-") or "all": p for p in paths}
    names, from_exif, guessed = [], 0, 0
    for path in lists.values():
        cameras = read_query_list(path)
        gone = [name for name in cameras if not (images / name).is_file()]
        if gone:
            raise ScrflowError(
                f"{path}: {len(gone)} of {len(cameras)} queries are not under {images}, which names are relative "
                f"to: {some(gone)}; correct the list, or put them there"
            )
        names += cameras
        counts = _without_camera(cameras, options, collection, path)
        from_exif, guessed = from_exif + counts[0], guessed + counts[1]
    split = _split(options, found, lists)
    if not given and (found.root / "mapping.txt").is_file():
        split = {"mapping": "mapping.txt", **split}
    said = f"{len(names)}, listed in {', '.join(p.name for p in lists.values())}"
    return Queries(split, tuple(names), said, (), from_exif, guessed)


def _split(options: NewScene, found: Found, lists: Mapping[str, Path]) -> dict[str, Any]:
    """The config's ``split``: lists relative to root where they lie in it."""
    root = found.root
    keys = {c: (p.relative_to(root) if p.is_relative_to(root) else p).as_posix() for c, p in lists.items()}
    return {"queries": keys, **({"guess_cameras": True} if options.guess_cameras else {})}


def _without_camera(
    cameras: Mapping[str, pycolmap.Camera | None], options: NewScene, collection: Collection, where: Path
) -> tuple[int, int]:
    """How many queries have intrinsics from EXIF alone, and how many a guess; ScrflowError where guesses are not asked
    for. SfM tells those of bare photos."""
    known = {image.name for image in collection.images}
    unknown = [name for name, camera in cameras.items() if camera is None and name not in known]
    blind = [n for n in unknown if camera_from_exif(collection.image_root / n, "SIMPLE_PINHOLE")[1] == "guess"]
    if blind and not options.guess_cameras:
        raise ScrflowError(
            f"{where}: {len(blind)} queries have no intrinsics, neither in the model nor listed, and no focal length "
            f"in EXIF ({some(blind, 3)}); list them as 'name MODEL width height params...', or give --guess-cameras"
        )
    return len(unknown) - len(blind), len(blind)
