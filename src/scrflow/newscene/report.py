"""What to tell of a new scene: a table of what was found, and lines on what was not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scrflow.newscene.forms import Found
from scrflow.newscene.photos import Photo
from scrflow.newscene.queries import Queries
from scrflow.newscene.text import Scale
from scrflow.scene.readers import Collection

_UNREAD = frozenset({".heic", ".heif", ".avif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"})
_FEW = 20  # mapping photos


@dataclass(frozen=True, eq=False)
class Look:
    """All that is known of the scene."""

    found: Found
    collection: Collection
    photos: list[Photo]
    queries: Queries
    unit: str
    scale: Scale
    several_cameras: str | None  # why bare photos are not of one camera

    @property
    def bare(self) -> bool:
        return self.found.source["reader"] == "photos"


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


def missing_lines(look: Look) -> tuple[str, ...]:
    """What is not there, and what is done about it."""
    return tuple(_missing(look))


def _missing(look: Look) -> Iterator[str]:
    photos, queries, scale = look.photos, look.queries, look.scale
    if look.several_cameras and not look.found.source["single_camera"]:
        yield f"One camera for all: {look.several_cameras}. Each photo gets intrinsics of its own."
    elif look.several_cameras:
        yield f"Signs of one camera: {look.several_cameras}. One is assumed all the same."
    if look.bare:
        yield (
            f"Scale: SfM has none. The model is scaled to a median depth of {scale.sfm_median:g} units; measure a "
            "length and mend key sfm.median_depth."
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
