"""Inspect a path: its form (one of the readers', a ROS bag or a video), images, cameras and queries. Refuse what would
stop the run."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pycolmap

from scrflow.config import SceneConfig, Source
from scrflow.config.base import validate
from scrflow.core.errors import ScrflowError
from scrflow.core.images import check_kind, opened
from scrflow.core.progress import track
from scrflow.newscene.queries import NewScene, Queries, find_queries
from scrflow.scene.checks import check_name, check_unique, some
from scrflow.scene.colmap_model import View
from scrflow.scene.photo_files import Exif, list_photos, read_exif
from scrflow.scene.readers import BARE, MODEL, Collection, Found, detect_forms, has, read_source
from scrflow.scene.readers.colmap import PhotosSource
from scrflow.scene.readers.pose_lines import NEEDS_CAMERA
from scrflow.scene.readers.shared import first_lines, json_of, numbers_only, walk
from scrflow.storage.listfile import has_suffix

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mts", ".m2ts", ".3gp", ".mpg", ".mpeg"})
_FOCAL_SPREAD = 1.05  # of EXIF focal lengths of one lens at one zoom


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
    queries = find_queries(options, found.root, collection, spare)
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
    forms = _forms(options.path)
    for found in forms:
        if options.form is None or found.form.lower() == options.form.lower():
            return found
    likely = ", ".join(f.form for f in forms)
    raise ScrflowError(
        f"{options.path}: not of form {options.form!r}; it looks like {likely}: correct or leave out --form"
    )


def _forms(path: Path) -> list[Found]:
    """All forms that fit ``path``, the most specific first; ScrflowError where none does."""
    path = Path(os.path.abspath(path))
    if not path.exists():
        raise ScrflowError(f"{path}: no such file or folder; correct the path")
    found = detect_forms(path)
    found = [f for f in (_bag(path),) if f] + found
    if not found and (video := _video(path)):
        found = [video]
    if found:
        return found
    if any(has_suffix(p.name) for p in walk(path)):
        list_photos(path)  # ScrflowError: a link to a photo leads nowhere
    suffixes = sorted({p.suffix.lower() for p in walk(path) if p.is_file() and p.suffix})
    what = f"no photos and no form known in it, only {', '.join(suffixes[:8])}" if suffixes else "an empty folder"
    what = "a file of no known form" if path.is_file() else what
    raise ScrflowError(f"{path}: {what}; give photos, a video, or a dataset of a form that docs/datasets.md lists")


_BINARY = frozenset({".bag", ".db3", ".mcap", ".nvm", ".sfm", ".log"})  # ROS bags, VisualSFM, Meshroom, Redwood
_KEYS = ("frames", "poses", "extrinsics", "shots", "trajectory", "cameras")  # of JSON files with poses
_GROUP = 3  # files of a folder with one suffix that are named one by one


def passed_over(path: Path, found: Found, source: Source) -> tuple[str, ...]:
    """A line for each file under ``path`` that looks like poses and that ``source`` does not read."""
    folder = Path(os.path.abspath(path))
    folder = folder if folder.is_dir() else folder.parent
    used = {os.path.realpath(p) for p in source.files(found.root)}
    groups: dict[str, list[tuple[Path, str]]] = {}
    for file in walk(folder):
        if file.is_file() and os.path.realpath(file) not in used and (what := _poses_in(file)):
            groups.setdefault(f"{file.parent.relative_to(folder) / '*'}{file.suffix}", []).append((file, what))
    others = [f.form for f in detect_forms(folder) if f.rank > BARE and f.form != found.form] if groups else []
    lines = []
    for pattern, files in groups.items():
        file, what = files[0]
        if detect_forms(file) or _bag(file):
            fix = "name the file to take it"
        elif _bag(file.parent):
            fix = "name its folder to take it"
        elif others:
            fix = f"if it is of form {' or '.join(others)}, --form takes it"
        else:
            fix = "no reader takes it: convert it to a form that docs/datasets.md lists"
        if what == _BY_TIME:
            fix = f"to use it, have rgb.txt with lines 'time file' (or photos named by their time), and {NEEDS_CAMERA}"
        names = [f.relative_to(folder).as_posix() for f, _ in files]
        names = names if len(files) <= _GROUP else [f"{pattern} ({len(files)} files)"]
        lines.append(f"Poses passed over: {', '.join(names)} ({what}); {fix}.")
    return tuple(lines)


_BY_TIME = "a trajectory by time"


def _poses_in(file: Path) -> str | None:
    """What poses a file seems to have, by its name, its keys or its first lines; None for any other file."""
    suffix, name = file.suffix.lower(), file.name.lower()
    if (
        suffix in _BINARY
        or name in ("images.bin", "images.txt", "poses_bounds.npy")
        or ("pose" in name and suffix == ".npy")
    ):
        return "a model or recording"
    if suffix == ".json" and not (file.with_suffix(".png").exists() or file.with_suffix(".jpg").exists()):
        values = json_of(file)
        values = values[0] if isinstance(values, list) and values else values
        keys = [key for key in _KEYS if isinstance(values, dict) and key in values]
        return f"JSON with {', '.join(keys)}" if keys else None
    if suffix == ".xml":
        return "XML with cameras" if any("<camera" in line for line in first_lines(file)) else None
    if suffix not in (".txt", ".csv", ".tum", ".kitti"):
        return None
    rows = [line.replace(",", " ").split() for line in first_lines(file)]
    if rows and not numbers_only(rows[0][:1], 1) and all(numbers_only(row[:1], 1) for row in rows[1:]):
        rows = rows[1:]  # after a header
    named = bool(rows) and not numbers_only(rows[0][:1], 1)
    rows = [row[named:] for row in rows]
    if not rows:
        return None
    if not named and all(numbers_only(row, 8) for row in rows):
        return _BY_TIME
    if len(rows) == 4 and all(numbers_only(row, 4) for row in rows) and "pose" in f"{file.parent.name}/{name}":
        return "a pose"
    return "lines of poses" if all(numbers_only(row, 7, 8, 9, 12, 16, 17) for row in rows) else None


def _bag(path: Path) -> Found | None:
    """A ROS 1 bag, or the folder of a rosbag2; ``root`` is the path."""
    recorded = has(path, "metadata.yaml") and (has(path, "*.db3*") or has(path, "*.mcap*"))
    if recorded or (path.is_file() and path.suffix.lower() == ".bag"):
        return Found("ROS bag", path, {"reader": "photos", "images": "images"}, path.name, "m", MODEL)
    return None


def _video(path: Path) -> Found | None:
    """A video, or the only one in a folder; ``root`` is its file."""
    if path.is_dir():
        videos = [p for p in sorted(path.iterdir()) if p.suffix.lower() in VIDEO_SUFFIXES]
        path = videos[0] if len(videos) == 1 else path
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        return Found("video", path, {"reader": "photos", "images": "images"}, path.name, "unit", BARE)
    return None


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
