"""What new-scene says: the config's text with its comments, proposed lengths, and what was found and what was not."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import yaml

from scrflow.newscene.forms import Found
from scrflow.scene.photo_files import Exif
from scrflow.scene.readers import Collection

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


# -------------------------------------------------------------------------------------------------------------- lengths


def scale_of(model: pycolmap.Reconstruction | None, metric: bool, outdoor: bool) -> Scale:
    """Depth range, b of the depth adjustment and thresholds: R-SCoRe's for rooms or outdoors where the unit is
    (``metric``) or is near the metre, otherwise the same times the model's median depth over the usual one."""
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


# --------------------------------------------------------------------------------------------------------------- config


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


# -------------------------------------------------------------------------------------------------------------- report


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
