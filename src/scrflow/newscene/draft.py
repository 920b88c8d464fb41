"""The draft of a scene's config: look at what is there, refuse what would stop the run, propose the rest."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pycolmap
import yaml

from scrflow.config import PhotosSource, SceneConfig
from scrflow.config.base import validate
from scrflow.core.errors import ScrflowError
from scrflow.newscene.forms import Found, detect
from scrflow.newscene.options import NewScene
from scrflow.newscene.photos import Photo, check_photos, inspect_photos
from scrflow.newscene.queries import Queries
from scrflow.newscene.report import Look, found_rows, missing_lines
from scrflow.newscene.text import scale_of, scene_text
from scrflow.pipeline.crosscheck import RESERVED
from scrflow.pipeline.project import Project
from scrflow.scene.checks import check_unique, some
from scrflow.scene.photo_files import list_photos
from scrflow.scene.readers import Collection, SourceImage, read_source
from scrflow.storage.artifact import write_text

_FOCAL_SPREAD = 1.05  # of EXIF focal lengths of one lens at one zoom


@dataclass(frozen=True, eq=False)
class Draft:
    """A scene's config that validates, and what to tell of it."""

    text: str
    config: SceneConfig
    rows: tuple[tuple[str, str], ...]  # what was found
    missing: tuple[str, ...]  # what was not, and what is done about it
    lists: tuple[tuple[Path, str], ...]  # list files to write with it


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
    _check_at_hand(collection)
    queries = Queries.of(options, found, collection)
    photos = inspect_photos(collection.image_root, sorted({*(i.name for i in collection.images), *queries.names}))
    check_photos(photos, collection)
    bare = found.source["reader"] == "photos"
    several = _several_cameras(photos) if bare else None
    if bare:
        found = replace(found, source={**found.source, "single_camera": _single_camera(options, photos, several)})
    unit = options.unit or found.unit
    scale = scale_of(collection.model, unit == "m", bare, options.outdoor)
    method = options.method or ("rscore" if gpu else "rscore-cpu")
    project.method(method)  # ScrflowError where there is none

    root, in_project = _portable_root(found.root, project)
    text = scene_text(
        comment=f"{found.form}: {found.evidence}.",
        description=options.description or f"{len(photos)} photos, form {found.form}.",
        licence=options.licence,
        root=root,
        in_project=in_project,
        source=found.source,
        split=queries.split,
        unit=unit,
        scale=scale,
        outdoor=options.outdoor,
        method=method,
    )
    config = validate(SceneConfig, yaml.safe_load(text), project.dir / "scenes" / f"{options.name}.yaml")
    look = Look(found, collection, photos, queries, unit, scale, several)
    return Draft(text, config, (*found_rows(look), ("method", method)), missing_lines(look), queries.lists)


def write_scene_config(draft: Draft, path: Path, force: bool) -> None:
    """Write the config and its lists; ScrflowError where one of them is there already, unless ``force``."""
    files = [*draft.lists, (path, draft.text)]
    for file, _ in files:
        check_free(file, force)
    for file, text in files:
        try:
            write_text(file, text)
        except OSError as error:
            raise ScrflowError(f"{file}: cannot be written ({error.strerror})") from None


def check_free(file: Path, force: bool) -> None:
    """ScrflowError where the file is there already, unless ``force``."""
    if file.exists() and not force:
        raise ScrflowError(f"{file}: is there already; --force overwrites it, or choose another name")


def frames_folder(name: str, project: Project) -> Path:
    """Where the frames of a video go unless said otherwise."""
    return project.data_root() / name / "images"


def check_scene_name(name: str, project: Project) -> None:
    """ScrflowError for a name that files, rules or other names of the project rule out."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise ScrflowError(f"{name!r}: the name of a scene has letters, digits, - _ and . only, no blank or slash")
    if name in project.methods or name in RESERVED:
        raise ScrflowError(f"{name!r}: a scene may not be named like a method or one of {', '.join(sorted(RESERVED))}")


def chosen_form(options: NewScene) -> Found:
    """The form asked for, or the most specific that fits; ScrflowError where it does not fit."""
    forms = detect(options.path)
    if options.form is None:
        return forms[0]
    for found in forms:
        if found.form.lower() == options.form.lower():
            return found
    raise ScrflowError(
        f"{options.path}: not of form {options.form!r}; it looks like {', '.join(f.form for f in forms)}"
    )


# --------------------------------------------------------------------------------------------------------------- parts


def _collection(found: Found) -> Collection:
    """What the reader of the form finds; of bare photos the names alone (their cameras come from SfM)."""
    minimal = {"description": "", "licence": "", "root": "", "method": "", "source": found.source}
    source = validate(SceneConfig, minimal, found.root).source
    if not isinstance(source, PhotosSource):
        try:
            return read_source(source, found.root)
        except ScrflowError as error:
            if "source.skip_missing: true" in str(error):
                raise ScrflowError(f"{error} (here --skip-missing)") from None
            raise
    folder = found.root / source.images
    unknown = pycolmap.Camera(model="SIMPLE_PINHOLE", width=0, height=0, params=[1, 0, 0])
    return Collection(folder, folder, tuple(SourceImage(name, unknown, None) for name in list_photos(folder)))


def _check_at_hand(collection: Collection) -> None:
    check_unique((image.name for image in collection.images), str(collection.where))
    gone = [i.name for i in collection.images if not (collection.image_root / i.name).is_file()]
    if gone:
        raise ScrflowError(
            f"{collection.where}: {len(gone)} of its {len(collection.images)} images are not under "
            f"{collection.image_root}: {some(gone)}; put them there, or let PATH be the folder that has both"
        )


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


def _single_camera(options: NewScene, photos: list[Photo], several: str | None) -> bool:
    if options.single_camera is None:
        return several is None
    if options.single_camera and len({p.size for p in photos}) > 1:
        raise ScrflowError(f"{options.path}: {several}, which one camera cannot have; leave out --single-camera")
    return options.single_camera


def _portable_root(root: Path, project: Project) -> tuple[str, bool]:
    """Key ``root`` and whether it is in the project: relative to data_root where it lies there, else to the project,
    else absolute (``data_root / root`` is then ``root``)."""
    data, here = Path(os.path.abspath(project.data_root())), Path.cwd()
    if root.is_relative_to(data):
        return root.relative_to(data).as_posix(), False
    if root.is_relative_to(here):
        return root.relative_to(here).as_posix(), True
    return root.as_posix(), False
