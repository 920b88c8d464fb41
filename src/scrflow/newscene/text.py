"""The text of a new scene's config: proposed lengths, and comments that say what to check."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycolmap
import yaml

# median depths for which the proposals below are meant
_INDOOR, _OUTDOOR = 2.5, 10.0
_VIEWS = 200  # images whose points tell the depths
_COMMENTS = {
    "single_camera": "one phone, no zoom: true; several cameras, sizes or focal lengths: false",
    "poses": "which of the given poses",
    "skip_missing": "frames without an image are left out",
}


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


def scale_of(model: pycolmap.Reconstruction | None, metric: bool, bare: bool, outdoor: bool) -> Scale:
    """Depth range, b of the depth adjustment and thresholds.

    R-SCoRe's for rooms or outdoors where the unit is the metre, or SfM is scaled to be near it; otherwise the same
    times the model's median depth over the usual one.
    """
    usual = _OUTDOOR if outdoor else _INDOOR
    median = median_depth(model) if model is not None else None
    factor = 1.0 if metric or bare or median is None else median / usual
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
        (_round(0.1 * factor), _round(far * factor)),
        _round(bias * factor),
        _round(10 * factor),
        tuple((_round(a * factor), float(b)) for a, b in errors),
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
    if not depths:
        return None
    median = float(np.median(np.concatenate(depths)))
    return median if median > 0 else None


def _round(value: float) -> float:
    """To two digits."""
    return round(value, 1 - math.floor(math.log10(abs(value))))


def scene_text(
    *,
    comment: str,
    description: str,
    licence: str,
    root: str,
    in_project: bool,
    source: dict[str, Any],
    split: dict[str, Any],
    unit: str,
    scale: Scale,
    outdoor: bool,
    method: str,
) -> str:
    """YAML of a scene's config with comments; every key is explained in workflow/schemas/scene.schema.json."""
    bare = source["reader"] == "photos"
    lines = [
        f"# Written by scrflow new-scene. {comment}",
        "# Check what has a comment; every key is explained in workflow/schemas/scene.schema.json.",
        f"description: {_scalar(description)}",
        f"licence: {_scalar(licence)}",
    ]
    if in_project:
        lines += [f"root: {_scalar(root)}", "in_project: true"]
    elif root.startswith("/"):
        lines += ["# not under data_root: this path holds on this machine alone", f"root: {_scalar(root)}"]
    else:
        lines += [f"root: {_scalar(root)} # under data_root"]
    lines += _block("source", source, _COMMENTS)
    if bare:
        lines += [
            "  # query photos are registered too, and their SfM poses are the reference",
            "  queries_in_sfm: true",
        ]
    if split:
        lines += _block("split", split)
    if bare:
        lines += [
            "sfm:",
            "  # SfM has no scale: median depth of its points, which makes the unit; measured in m, unit can be m",
            f"  median_depth: {scale.sfm_median:g}",
        ]
    place = "outdoors" if outdoor else "in rooms"
    lines += [
        f"unit: {_scalar(unit)}",
        f"# depths that occur, {place}; frustum overlap is measured in it",
        f"depth_range: [{scale.depth_range[0]:g}, {scale.depth_range[1]:g}]",
        f"depth_bias: {scale.depth_bias:g}",
    ]
    if scale.target_depth != 10:
        lines += [f"target_depth: {scale.target_depth:g}"]
    lines += [
        f"# ({unit}, degrees) of the table, finest first",
        "thresholds: [" + ", ".join(f"[{a:g}, {b:g}]" for a, b in scale.thresholds) + "]",
        f"method: {_scalar(method)}",
    ]
    return "\n".join(lines) + "\n"


def _block(key: str, values: dict[str, Any], comments: dict[str, str] | None = None) -> list[str]:
    lines = [f"{key}:"]
    for name, value in values.items():
        lines += [f"  # {comments[name]}"] if comments and name in comments else []
        if isinstance(value, dict):
            lines += [f"  {line}" for line in (_block(name, value) if value else [f"{name}: {{}}"])]
        else:
            lines += [f"  {_scalar(name)}: {_scalar(value)}"]
    return lines


def _scalar(value: Any) -> str:
    """Plain where YAML reads the same back, quoted otherwise."""
    if not isinstance(value, str):
        return json.dumps(value)
    plain = "\n" not in value and not value.startswith(("#", "- ")) and " #" not in value
    try:
        return (
            value if plain and yaml.safe_load(f"k: {value}") == {"k": value} else json.dumps(value, ensure_ascii=False)
        )
    except yaml.YAMLError:
        return json.dumps(value, ensure_ascii=False)
