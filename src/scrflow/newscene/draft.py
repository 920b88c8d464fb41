"""``scrflow new-scene``: look at what is there, refuse what would stop the run, propose the rest, write the config."""

from __future__ import annotations

import functools
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import yaml
from pydantic import Field

from scrflow.config import SceneConfig, Strict
from scrflow.config.base import validate
from scrflow.core.errors import ScrflowError
from scrflow.core.images import check_kind, opened
from scrflow.core.progress import track
from scrflow.newscene.forms import Found, detect
from scrflow.pipeline.configs import RESERVED
from scrflow.pipeline.project import Project
from scrflow.scene.checks import check_name, check_unique, some
from scrflow.scene.colmap_model import View
from scrflow.scene.lists import read_query_list
from scrflow.scene.photo_files import Exif, camera_from_exif, every_nth, list_photos, read_exif
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

    ScrflowError, one line, for all that would stop the run.
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
    """Key ``root`` (relative to data_root or the project, else absolute) and whether it is in the project."""
    data, here = Path(os.path.abspath(project.data_root())), Path.cwd()
    for base in (data, here):
        if root.is_relative_to(base):
            return root.relative_to(base).as_posix(), base is here
    return root.as_posix(), False


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
            f"scrflow upright {folder} OUT"
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
            f"{collection.where}: {len(odd)} images have another size than their camera ({odd[0]}); use the model's"
        )


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
    """How many queries have intrinsics from EXIF alone, and how many a guess, which must be asked for."""
    known = {image.name for image in collection.images}
    unknown = [name for name, camera in cameras.items() if camera is None and name not in known]
    blind = [n for n in unknown if camera_from_exif(collection.image_root / n, "SIMPLE_PINHOLE")[1] == "guess"]
    if blind and not options.guess_cameras:
        raise ScrflowError(
            f"{where}: {len(blind)} queries have no intrinsics, neither in the model nor listed, and no focal length "
            f"in EXIF ({some(blind, 3)}); list them as 'name MODEL width height params...', or give --guess-cameras"
        )
    return len(unknown) - len(blind), len(blind)


# median depths for which the proposals below are meant
_INDOOR, _OUTDOOR = 2.5, 10.0
_VIEWS = 200  # images whose points tell the depths
_FEW = 20  # mapping photos
_UNREAD = frozenset({".heic", ".heif", ".avif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"})


@dataclass(frozen=True)
class Photo:
    """What the file of a photo says."""

    name: str
    size: tuple[int, int]  # width, height, px
    exif: Exif
    mode: str  # Pillow's: what a pixel is


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


@dataclass(frozen=True)
class Scale:
    """Proposed lengths, in the scene's unit."""

    depth_range: tuple[float, float]
    depth_bias: float
    target_depth: float
    thresholds: tuple[tuple[float, float], ...]
    median: float | None  # depth of the source's own 3D points
    sfm_median: float  # depth that SfM of bare photos is scaled to
    note: str = ""


@dataclass(frozen=True, eq=False)
class Look:
    """All that is known of the scene."""

    found: Found
    collection: Collection
    photos: list[Photo]
    queries: Queries
    unit: str
    several_cameras: str | None  # why bare photos are not of one camera
    outdoor: bool

    @functools.cached_property
    def scale(self) -> Scale:
        return scale_of(self.collection.model, self.unit == "m" or self.bare, self.outdoor)

    @property
    def bare(self) -> bool:
        return self.found.source["reader"] == "photos"


def scale_of(model: pycolmap.Reconstruction | None, metric: bool, outdoor: bool) -> Scale:
    """R-SCoRe's lengths for rooms or outdoors; scaled by the model's median depth unless the unit is ``metric``."""
    usual = _OUTDOOR if outdoor else _INDOOR
    median = median_depth(model) if model is not None else None
    factor = 1.0 if metric or median is None else median / usual
    far, bias = (50.0, 3.0) if outdoor else (8.0, 0.3)
    errors = ((0.25, 2), (0.5, 5), (5, 10)) if outdoor else ((0.01, 1), (0.02, 2), (0.05, 5))
    note = ""
    if metric and median is not None and median > 15 and not outdoor:
        note = f"Indoors? The median depth is {median:.3g} m: --outdoor."
    if factor != 1 and not 0.05 < factor < 50:
        note = (
            f"The model's median depth is {median:.3g} units. The losses are made for metres (0.1 to 1000): rescale it "
            f"to a median depth of some {usual:g} (colmap model_transformer)."
        )
    return Scale(
        (_rounded(0.1 * factor), _rounded(far * factor)),
        _rounded(bias * factor),
        _rounded(10 * factor),
        tuple((_rounded(a * factor), float(b)) for a, b in errors),
        median,
        usual,
        note,
    )


def median_depth(model: pycolmap.Reconstruction) -> float | None:
    """Median depth of the points in the cameras that see them, of evenly chosen images; None without points."""
    ids = sorted(model.reg_image_ids())
    depths = []
    for image_id in ids[:: max(1, len(ids) // _VIEWS)]:
        image = model.image(image_id)
        seen = [p.point3D_id for p in image.points2D if p.has_point3D()]
        if seen:
            pose = image.cam_from_world().matrix()
            depths.append(np.array([model.point3D(i).xyz for i in seen]) @ pose[2, :3] + pose[2, 3])
    median = float(np.median(np.concatenate(depths))) if depths else 0.0
    return median if median > 0 else None


def _rounded(value: float) -> float:
    """To two digits."""
    return round(value, 1 - math.floor(math.log10(abs(value))))


def scene_text(look: Look, values: Mapping[str, Any], root: str, in_project: bool) -> str:
    """YAML of a scene's config with comments. ``values`` are description, licence and method."""
    scale, source = look.scale, dict(look.found.source)
    place = "outdoors" if look.outdoor else "in rooms"
    where = "# not under data_root: this path holds only on this machine" if root.startswith("/") else ""
    if look.bare:
        source["queries_in_sfm"] = True
    comments = {
        "single_camera": "# one phone, no zoom: true; several cameras, sizes or focal lengths: false",
        "queries_in_sfm": "# query photos are registered too, and their SfM poses are the reference",
        "poses": "# which of the given poses",
        "skip_missing": "# frames without an image are left out",
        "median_depth": "# SfM has no scale: median depth of its points; measured in m, unit can be m",
        "depth_range": f"# depths that occur, {place}; frustum overlap is measured in it",
        "thresholds": f"# ({look.unit}, degrees) of the table, finest first",
        "root": where if where or in_project else "# under data_root",
    }
    config = {"description": values["description"], "licence": values["licence"], "root": root}
    config |= {"in_project": True} if in_project else {}
    config |= {"source": source}
    config |= {"split": look.queries.split} if look.queries.split else {}
    config |= {"sfm": {"median_depth": scale.sfm_median}} if look.bare else {}
    config |= {"unit": look.unit, "depth_range": list(scale.depth_range), "depth_bias": scale.depth_bias}
    config |= {"target_depth": scale.target_depth} if scale.target_depth != 10 else {}
    config |= {"thresholds": [list(pair) for pair in scale.thresholds], "method": values["method"]}
    lines = [
        f"# Written by scrflow new-scene. {look.found.form}: {look.found.evidence}.",
        "# Check what has a comment; every key is explained in workflow/schemas/scene.schema.json.",
    ]
    for line in yaml.dump(config, Dumper=_Blocks, sort_keys=False, allow_unicode=True, width=1 << 20).splitlines():
        comment = comments.get(line.strip().partition(":")[0])
        lines += [line[: len(line) - len(line.lstrip())] + comment] if comment else []
        lines.append(line)
    return "\n".join(lines) + "\n"


class _Blocks(yaml.SafeDumper):
    """Mappings a line a key, lists in one line."""

    def represent_sequence(self, tag, sequence, flow_style=None):
        return super().represent_sequence(tag, sequence, flow_style=True)


def found_rows(look: Look) -> tuple[tuple[str, str], ...]:
    """(what, found)."""
    photos, unit, scale = look.photos, look.unit, look.scale
    sizes = Counter(p.size for p in photos)
    focal = [p for p in photos if p.exif.focal_35mm or p.exif.focal_mm]
    mm = sorted({p.exif.focal_35mm for p in focal if p.exif.focal_35mm})
    lens = f", 35 mm equivalent {', '.join(f'{f:g}' for f in mm[:4])} mm" if mm else ""
    poses = sum(image.cam_from_world is not None for image in look.collection.images)
    model = look.collection.model
    depth = f"; median depth {scale.median:.3g} {unit}" if scale.median else ""
    return (
        ("form", f"{look.found.form} ({look.found.evidence})"),
        ("photos", f"{len(photos)} under {look.collection.image_root}"),
        ("sizes", ", ".join(f"{w}x{h}: {n}" for (w, h), n in sizes.most_common(4))),
        ("EXIF focal lengths", f"{len(focal)} of {len(photos)} photos{lens}"),
        ("cameras", _cameras(look)),
        ("poses", "none, SfM finds them" if look.bare else f"{poses} of {len(look.collection.images)}"),
        ("3D points", f"{model.num_points3D()}{depth}" if model is not None else "none"),
        ("queries", look.queries.said),
        ("unit", unit),
        ("depth range", f"{scale.depth_range[0]:g} to {scale.depth_range[1]:g} {unit}"),
        ("thresholds", ", ".join(f"{a:g} {unit} {b:g}°" for a, b in scale.thresholds)),
    )


def _cameras(look: Look) -> str:
    if look.bare:
        return f"by SfM, one for {'all' if look.found.source['single_camera'] else 'each photo'}"
    cameras = (image.camera for image in look.collection.images)
    models = Counter(key[0] for key in {(c.model.name, c.width, c.height, *np.asarray(c.params)) for c in cameras})
    return ", ".join(f"{count} {model}" for model, count in models.most_common())


def missing_lines(look: Look) -> Iterator[str]:
    """What is not there, and what is done about it."""
    photos, queries, scale = look.photos, look.queries, look.scale
    if look.several_cameras and not look.found.source["single_camera"]:
        yield f"One camera for all: {look.several_cameras}. Each photo gets intrinsics of its own."
    elif look.several_cameras:
        yield f"Signs of one camera: {look.several_cameras}. One is assumed nevertheless."
    if look.bare:
        yield (
            f"Scale: SfM has none. The model is scaled to a median depth of {scale.sfm_median:g} units; measure a "
            "length and correct key sfm.median_depth."
        )
        without = sum(not (p.exif.focal_35mm or p.exif.focal_mm) for p in photos)
        if without:
            yield f"Focal length: not in EXIF of {without} photos; SfM starts from a guess."
    elif look.unit != "m":
        known = "" if scale.median else ", nor 3D points that would tell depths"
        yield f"Scale: this form has no unit{known}. If it is metres: --unit m. Else check depth_range."
    if queries.every:
        yield f"Queries: none given, so every {queries.every}th image is one. Others: --queries LIST."
    if queries.from_exif:
        yield f"Intrinsics of {queries.from_exif} queries: from EXIF, not calibrated."
    if queries.guessed:
        yield f"Intrinsics of {queries.guessed} queries: a guess, as --guess-cameras asks."
    posed = {image.name for image in look.collection.images if image.cam_from_world is not None}
    blind = sum(name not in posed for name in queries.names)
    if blind and not look.bare:
        yield f"Reference poses of {blind} queries: the run ends with poses.txt, without errors of them."
    unread = Counter(p.suffix.lower() for p in look.collection.image_root.rglob("*") if p.suffix.lower() in _UNREAD)
    if unread:
        yield f"Photos of other forms: {', '.join(f'{n} {s}' for s, n in unread.items())}. Convert them to JPEG."
    mapping = len(photos) - len(queries.names)
    if mapping < _FEW:
        yield f"Photos: {mapping} to map are few."
    if scale.note:
        yield scale.note
