"""``scrflow new-scene``: propose a scene's config for what the survey finds, tell of it, and write the YAML."""

import math
import os
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pycolmap
import yaml

from scrflow.config import SceneConfig, SfmConfig
from scrflow.config.base import validate
from scrflow.core.device import device_for
from scrflow.core.errors import ScrflowError
from scrflow.newscene.capture import FEW, Capture, look_at
from scrflow.newscene.gather import folders_to_gather, gathered
from scrflow.newscene.queries import NewScene
from scrflow.newscene.survey import Findings, chosen_form, survey
from scrflow.pipeline.configs import RESERVED
from scrflow.pipeline.project import Project
from scrflow.scene.checks import DEPTH_IMAGES, median_depth
from scrflow.scene.lists import files_below
from scrflow.sfm.alignment import read_gps, read_targets
from scrflow.storage.artifact import write_text
from scrflow.storage.listfile import read_text

if TYPE_CHECKING:
    from rich.console import Console

WRITTEN_BY = "# Written by: "
_UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "km": 1000.0, "ft": 0.3048, "in": 0.0254}
_UNREAD = frozenset({".avif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"})


@dataclass(frozen=True, eq=False)
class Draft:
    """A scene's config that validates, and what to tell of it."""

    text: str
    config: SceneConfig
    rows: tuple[tuple[str, str], ...]  # what was found
    missing: tuple[str, ...]  # what was not, and what is done about it
    lists: tuple[tuple[Path, str], ...]  # list files to write with it
    bare: tuple[Path, tuple[str, ...]] | None = None  # photos that SfM has to pose: their folder, their names


def new_scene(
    options: NewScene,
    config_dir: Path,
    out: Path | None = None,
    images: Path | None = None,
    max_frames: int = 300,
    force: bool = False,
    dry_run: bool = False,
) -> Path:
    """Write OUT/NAME.yaml (OUT: the config's scenes) and print what was found; with ``dry_run`` only print.

    The frames of a video, and photos that COLMAP cannot take as they are, go to ``images``, or resources/NAME/images
    in the project. ScrflowError as in ``draft_scene``. Returns the path of the config.
    """
    from rich.console import Console

    project = Project(config_dir)
    _check_scene_name(options.name, project)
    scenes = config_dir / "scenes"
    path = (out or scenes) / f"{options.name}.yaml"
    _check_free(path, force or dry_run)
    console = Console(soft_wrap=True)
    found = chosen_form(options)
    if images is not None and found.form not in ("video", "ROS bag", "photos"):
        raise ScrflowError(
            f"{options.path}: --images is for the frames of a video, this is of form {found.form}; leave it out"
        )
    folder = Path(os.path.abspath(images or Path("resources", options.name, "images")))
    folders = folders_to_gather(options, found) if found.form == "photos" else {}
    kinds = {"video": "frames of the video", "ROS bag": "photos of the ROS bag"}
    wanted = f"up to {max_frames} {kinds[found.form]} {found.root}" if found.form in kinds else ""
    wanted = f"upright JPEGs of {', '.join(map(str, folders))}" if folders else wanted
    if wanted and dry_run:
        console.print(f"{wanted} would go to {folder}", markup=False)
        return path
    made = None
    if found.form == "video":
        from scrflow.newscene.video import pick_frames

        picked = pick_frames(found.root, folder, max_frames)
        console.print(f"{len(picked.names)} of {picked.decoded} frames of {found.root} in {folder}", markup=False)
        inside = folder.name == "images"
        made = options.model_copy(update={"path": folder.parent if inside else folder, "form": "photos"})
    elif found.form == "ROS bag":
        from scrflow.newscene.rosbag import unpack_bag

        bag = unpack_bag(found.root, folder, max_frames)
        console.print(f"{bag.photos} of {bag.of} photos of {bag.topic} in {folder}", markup=False)
        made = options.model_copy(update={"path": folder, "form": "TUM RGB-D" if bag.posed else "photos"})
    elif folders:
        made = gathered(options, found, folders, folder)
        console.print(f"{wanted}, and links, in {folder}", markup=False)
    try:
        draft = draft_scene(made or options, project, device_for().type == "cuda", command_of(options))
    except BaseException:
        if made is not None and not dry_run:  # or the next try would find it there
            shutil.rmtree(folder)
        raise
    capture = look_at(*draft.bare) if draft.bare else Capture()
    print_findings(console, (*draft.rows, *capture.rows), (*draft.missing, *capture.advice))
    if dry_run:
        console.print(draft.text, markup=False, highlight=False)
        return path
    files = [*draft.lists, (path, draft.text)]
    for file, _ in files:
        _check_free(file, force)
    for file, text in files:
        try:
            write_text(file, text)
        except OSError as error:
            raise ScrflowError(
                f"{file}: cannot be written ({error.strerror}); correct its permissions or choose another --out"
            ) from None
        console.print(f"written: {file}", markup=False)
    return path


def print_findings(console: "Console", rows: Iterable[tuple[str, str]], advice: Iterable[str]) -> None:
    """A table of what was found, and lines on what to do about it."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("what", "found")
    for what, row in rows:
        table.add_row(what, escape(row))
    console.print(table, soft_wrap=False)
    for line in advice:
        console.print(f"- {escape(line)}", highlight=False, soft_wrap=False)


def command_of(options: NewScene) -> list[str]:
    """The command that wrote a config, which is its first line: ``scrflow run PATH`` finds the config by it."""
    given = options.model_dump(exclude={"name", "path", "licence", "description"}, exclude_defaults=True)
    words = ["scrflow", "new-scene", options.name, str(options.path)]
    if options.known_distance:
        words += ["--known-distance", *given.pop("known_distance")]
    for key, value in given.items():
        for each in value if isinstance(value, tuple) else (value,):
            words += [f"--{key.replace('_', '-')}", *([] if each is True else [str(each)])]
    return words


def written_by(config: Path) -> list[str]:
    """The words of the command that wrote a scene's config; none where new-scene did not write it."""
    first = read_text(config).partition("\n")[0]
    return shlex.split(first.removeprefix(WRITTEN_BY)) if first.startswith(WRITTEN_BY) else []


def draft_scene(options: NewScene, project: Project, gpu: bool, command: list[str] | None = None) -> Draft:
    """Look at ``options.path`` and propose a config, which says that ``command`` wrote it. Nothing is written.

    ScrflowError, one line, for all that would stop the run.
    """
    _check_scene_name(options.name, project)
    findings = survey(options, chosen_form(options), Path(os.path.abspath(project.dir / "scenes")))
    method = options.method or ("rscore" if gpu else "landmarks")
    project.method(method)  # ScrflowError where there is none
    aligned = _alignment(options, findings)
    unit = options.unit or ("m" if aligned else findings.found.unit)
    scale = _scale(findings.collection.model, unit == "m" or findings.bare, options.outdoor)
    root = _portable_root(findings.found.root, project)
    text = _yaml(findings, options, unit, scale, aligned, method, *root, shlex.join(command or command_of(options)))
    config = validate(SceneConfig, yaml.safe_load(text), project.dir / "scenes" / f"{options.name}.yaml")
    rows = (*_rows(findings, unit, scale), ("method", method))
    names = tuple(image.name for image in findings.collection.images)
    bare = (findings.collection.image_root, names) if findings.bare else None
    return Draft(text, config, rows, tuple(_missing(findings, unit, scale)), findings.queries.lists, bare)


def _check_free(file: Path, force: bool) -> None:
    if file.exists() and not force:
        raise ScrflowError(f"{file}: already exists; --force overwrites it, or choose another name")


def _check_scene_name(name: str, project: Project) -> None:
    """ScrflowError for a name that files, rules or other names of the project rule out."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise ScrflowError(f"{name!r}: the name of a scene has letters, digits, - _ and . only; choose such a name")
    if name in project.methods or name in RESERVED:
        taken = ", ".join(sorted(RESERVED))
        raise ScrflowError(f"{name!r}: a scene may not be named like a method or one of {taken}; choose another name")


def _portable_root(root: Path, project: Project) -> tuple[str, bool]:
    """Key ``root`` (relative to data_root or the project, else absolute) and whether it is in the project."""
    data, here = Path(os.path.abspath(project.data_root())), Path.cwd()
    for base in (data, here):
        if root.is_relative_to(base):
            return root.relative_to(base).as_posix(), base is here
    return root.as_posix(), False


@dataclass(frozen=True)
class _Scale:
    """Proposed lengths, in the scene's unit."""

    keys: dict[str, Any]  # of the config
    median: float | None  # depth of the source's own 3D points
    usual: float  # median depth that the proposal is meant for, and that SfM of bare photos is scaled to
    note: str = ""


def _scale(model: pycolmap.Reconstruction | None, metric: bool, outdoor: bool) -> _Scale:
    """R-SCoRe's lengths for rooms or outdoors; scaled by the model's median depth unless the unit is ``metric``."""
    if outdoor:
        usual, bias, errors = 10.0, 3.0, ((0.25, 2.0), (0.5, 5.0), (5, 10.0))
    else:
        usual, bias, errors = 2.5, 0.3, ((0.01, 1.0), (0.02, 2.0), (0.05, 5.0))
    found = median_depth(model, DEPTH_IMAGES) if model is not None else 0.0
    median = found if found > 0 else None  # None without points
    factor = 1.0 if metric or median is None else median / usual
    note = ""
    if metric and median is not None and median > 15 and not outdoor:
        note = f"Indoors? The median depth is {median:.3g} m: --outdoor."
    if factor != 1 and not 0.05 < factor < 50:
        note = (
            f"The model's median depth is {median:.3g} units. The losses are made for metres (0.1 to 1000): rescale it "
            f"to a median depth of some {usual:g} (colmap model_transformer)."
        )
    bias, target = (_two_digits(length * factor) for length in (bias, 10))
    keys = {
        "depth_bias": bias,
        **({"target_depth": target} if target != 10 else {}),
        "thresholds": [[_two_digits(length * factor), degrees] for length, degrees in errors],
    }
    return _Scale(keys, median, usual, note)


def _two_digits(value: float) -> float:
    return round(value, 1 - math.floor(math.log10(abs(value))))


def _alignment(options: NewScene, findings: Findings) -> dict[str, Any]:
    """Keys of ``sfm`` that give a model a scale; empty where the options name none. ScrflowError for options that
    exclude each other, for given poses, and for positions and photos that are not there."""
    given = [name for name in ("gps", "positions", "known_distance") if getattr(options, name)]
    named = " and ".join(f"--{name.replace('_', '-')}" for name in given)
    if len(given) > 1:
        raise ScrflowError(f"{named}: give one of them")
    if given and not findings.bare:
        raise ScrflowError(
            f"{options.path}: poses are given ({findings.found.form}), so {named} does nothing; leave it out"
        )
    keys: dict[str, Any] = {}
    if options.gps or options.positions:
        keys["positions"] = "gps" if options.gps else str(options.positions)
    elif options.known_distance:
        *photos, length = options.known_distance
        keys["known_distances"] = [[*photos, _metres(length)]]
    folder = findings.collection.image_root
    read_targets(SfmConfig(**keys), Path(findings.found.root), folder, [p.name for p in findings.photos])
    return keys


def _metres(length: str) -> float:
    found = re.fullmatch(r"([0-9.]+) ?([a-z]*)", length.strip())
    try:
        value = float(found[1]) * _UNITS[found[2] or "m"]
    except (TypeError, KeyError, ValueError):
        value = 0.0
    if value <= 0:
        raise ScrflowError(f"--known-distance {length}: expected a length such as 3.2m ({', '.join(_UNITS)})")
    return value


def _yaml(
    findings: Findings,
    options: NewScene,
    unit: str,
    scale: _Scale,
    aligned: dict[str, Any],
    method: str,
    root: str,
    in_project: bool,
    command: str,
) -> str:
    """The scene's config with comments."""
    found, split = findings.found, findings.queries.split
    source = {**found.source, **({"queries_in_sfm": True} if findings.bare else {})}
    config = {
        "description": options.description or f"{len(findings.photos)} photos, form {found.form}.",
        "licence": options.licence,
        "root": root,
        **({"in_project": True} if in_project else {}),
        "source": source,
        **({"split": split} if split else {}),
        **({"sfm": aligned or {"median_depth": scale.usual}} if findings.bare else {}),
        "unit": unit,
        **scale.keys,
        "method": method,
    }
    comments = {
        "single_camera": "one phone, no zoom: true; several cameras, sizes or focal lengths: false",
        "queries_in_sfm": "query photos are registered too, and their SfM poses are the reference",
        "poses": "which of the given poses",
        "skip_missing": "frames without an image are left out",
        "median_depth": "SfM has no scale: median depth of its points; measured in m, unit can be m",
        "positions": "SfM is moved there: gps (of EXIF), or lines 'name x y z'",
        "known_distances": f"photo, photo, {unit} between the places where they were taken; SfM is scaled by them",
        "thresholds": f"({unit}, degrees) of the table, finest first",
    }
    if not in_project:
        here_alone = root.startswith("/")
        comments["root"] = (
            "not under data_root: this path holds only on this machine" if here_alone else "under data_root"
        )
    lines = [
        f"{WRITTEN_BY}{command}",
        f"# {found.form}: {found.evidence}.",
        "# Check what has a comment; every key is explained in workflow/schemas/scene.schema.json.",
    ]
    for line in yaml.dump(config, Dumper=_Blocks, sort_keys=False, allow_unicode=True, width=1 << 20).splitlines():
        key = line.strip().partition(":")[0]
        if key in comments:
            lines.append(f"{line[: line.index(key)]}# {comments[key]}")
        lines.append(line)
    return "\n".join(lines) + "\n"


class _Blocks(yaml.SafeDumper):
    """Mappings a line a key, lists in one line."""

    def represent_sequence(self, tag, sequence, flow_style=None):
        return super().represent_sequence(tag, sequence, flow_style=True)


def _rows(findings: Findings, unit: str, scale: _Scale) -> Iterator[tuple[str, str]]:
    """(what, found)."""
    photos, found, collection = findings.photos, findings.found, findings.collection
    sizes = Counter(p.size for p in photos)
    mm = sorted({p.exif.focal_35mm for p in photos if p.exif.focal_35mm})
    lens = f", 35 mm equivalent {', '.join(f'{f:g}' for f in mm[:4])} mm" if mm else ""
    depth = f"; median depth {scale.median:.3g} {unit}" if scale.median else ""
    yield "form", f"{found.form} ({found.evidence})"
    absent = f"; {collection.absent} without a file are left out" if collection.absent else ""
    yield "photos", f"{len(photos)} under {collection.image_root}{absent}"
    yield "sizes", ", ".join(f"{w}x{h}: {n}" for (w, h), n in sizes.most_common(4))
    yield "EXIF focal lengths", f"{sum(bool(p.focal_mm) for p in photos)} of {len(photos)} photos{lens}"
    if findings.bare:
        yield "cameras", f"by SfM, one for {'all' if found.source['single_camera'] else 'each photo'}"
        yield "poses", "none, SfM finds them"
    else:
        cameras = (image.camera for image in collection.images)
        models = Counter(key[0] for key in dict.fromkeys((c.model.name, c.width, c.height, *c.params) for c in cameras))
        yield "cameras", ", ".join(f"{count} {model}" for model, count in models.most_common())
        yield "poses", f"{len(_posed(findings))} of {len(collection.images)}"
    yield "3D points", "none" if collection.model is None else f"{collection.model.num_points3D()}{depth}"
    yield "queries", findings.queries.told
    yield "unit", unit
    yield "thresholds", ", ".join(f"{a:g} {unit} {b:g}°" for a, b in scale.keys["thresholds"])


def _posed(findings: Findings) -> set[str]:
    return {image.name for image in findings.collection.images if image.cam_from_world is not None}


def _missing(findings: Findings, unit: str, scale: _Scale) -> Iterator[str]:
    """What is not there, and what is done about it."""
    photos, queries, several = findings.photos, findings.queries, findings.several_cameras
    if several and findings.found.source["single_camera"]:
        yield f"Signs of one camera: {several}. One is assumed nevertheless."
    elif several:
        yield f"One camera for all: {several}. Each photo gets intrinsics of its own."
    if findings.bare:
        if unit != "m":
            folder = findings.collection.image_root
            gps = sum(read_gps(folder / p.name) is not None for p in photos)
            yield (
                f"Scale: SfM has none. The model is scaled to a median depth of {scale.usual:g} units. For metres: "
                f"--gps (EXIF has it of {gps} photos), --known-distance A.jpg B.jpg 3.2m, or --positions LIST."
            )
        without = sum(not p.focal_mm for p in photos)
        if without:
            yield f"Focal length: not in EXIF of {without} photos; SfM starts from a guess."
    elif unit != "m":
        known = "" if scale.median else ", nor 3D points that would tell depths"
        yield f"Scale: this form has no unit{known}. If it is metres: --unit m."
    yield from findings.passed_over
    yield from queries.missing
    blind = len(set(queries.names) - _posed(findings))
    if blind and not findings.bare:
        yield f"Reference poses of {blind} queries: the run ends with poses.txt, without errors of them."
    folder = findings.collection.image_root
    unread = Counter(p.suffix.lower() for p in files_below(folder) if p.suffix.lower() in _UNREAD)
    if unread:
        yield f"Photos that are left out: {', '.join(f'{n} {s}' for s, n in unread.items())}. Convert them to JPEG."
    mapping = len(photos) - len(queries.names)
    if mapping < FEW:
        yield f"Photos: {mapping} to map are few; rooms take {FEW} to 200. Add photos from further places."
    if scale.note:
        yield scale.note
