"""Scale and frame of an SfM model from GPS, a list of positions, or known distances.

GPS is converted to metres east, north and up of the median of the photos' positions (WGS84); a list is used as it is.
COLMAP's RANSAC fits the similarity from camera centres to positions. Known distances between photos give the scale
alone. The residuals are reported. A fit that leaves the scale uncertain is refused.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from PIL import ExifTags, Image

from scrflow.config import SfmConfig
from scrflow.core.errors import ScrflowError
from scrflow.scene.checks import some
from scrflow.scene.lists import PhotoNames, read_numbers

log = logging.getLogger("scrflow")

_GPS_ERROR = 10.0  # m; positions farther off are outliers
_LIST_ERROR = 0.1  # of the spread of the positions; a list's positions farther off are outliers
_LEAST = 3  # positions of registered photos
_DOUBT = 0.1  # relative standard deviation of the scale, or half the disagreement of distances, that stops the run
_LINE = 3.0  # times the errors: positions that spread less across than this lie on a line


@dataclass(frozen=True)
class Targets:
    """Positions or distances that a model is aligned to."""

    what: str  # for messages
    positions: dict[str, np.ndarray]  # photo -> [3], in the scene's unit
    distances: tuple[tuple[str, str, float], ...] = ()
    origin: tuple[float, float, float] | None = None  # latitude, longitude (degrees), altitude (m) of GPS's frame


def read_targets(sfm: SfmConfig, root: Path, folder: Path, names: Sequence[str]) -> Targets | None:
    """The targets that the config names for the photos ``names`` of ``folder``; None without any. ScrflowError, before
    SfM begins, for photos that do not exist and for too few positions."""
    photos = PhotoNames(names)
    if sfm.known_distances:
        pairs = tuple((_named(a, photos, folder), _named(b, photos, folder), d) for a, b, d in sfm.known_distances)
        return Targets("known distances", {}, pairs)
    if sfm.positions is None:
        return None
    if sfm.positions == "gps":
        found = {name: gps for name in names if (gps := read_gps(folder / name)) is not None}
        what, origin = "GPS", None
        if len(found) >= _LEAST:
            values = np.array(list(found.values()))
            values[:, 2] = 0 if np.isnan(values).any() else values[:, 2]
            origin = tuple(np.median(values, axis=0).tolist())
            ellipsoid = pycolmap.GPSTransform(pycolmap.GPSTransformEllipsoid.WGS84)
            found = dict(zip(found, ellipsoid.ellipsoid_to_enu(values, *origin), strict=True))
    else:
        path = root / sfm.positions
        listed = read_numbers(path, "x y z")
        what, origin = str(path), None
        found = {_named(name, photos, path): values for name, (_, values) in listed.items()}
    if len(found) < _LEAST:
        raise ScrflowError(
            f"{folder}: {what} gives positions of {len(found)} of {len(names)} photos, and {_LEAST} are needed; name "
            "other positions, or give sfm.known_distances (new-scene --known-distance), or neither"
        )
    return Targets(what, found, (), origin)


def _named(name: str, names: PhotoNames, where: Path) -> str:
    found = names.find(name, where)
    if found is None:
        raise ScrflowError(f"{where}: {name}: no such photo; correct or remove it")
    return found


def read_gps(path: Path) -> tuple[float, float, float] | None:
    """Latitude, longitude (degrees) and altitude (m; NaN if missing) from EXIF; None without a position."""
    with Image.open(path) as image:
        tags = image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    try:
        latitude, longitude = (
            (-1 if tags[at] in minus else 1) * float(np.dot([float(v) for v in tags[at + 1]], [1, 1 / 60, 1 / 3600]))
            for at, minus in ((1, "Ss"), (3, "Ww"))
        )
        known = 6 in tags and np.isfinite(float(tags[6]))
        altitude = float(tags[6]) * (-1 if tags.get(5) in (1, b"\x01") else 1) if known else np.nan
    except (KeyError, ValueError, TypeError, ZeroDivisionError):
        return None
    if not (abs(latitude) <= 90 and abs(longitude) <= 180) or (latitude, longitude) == (0, 0):
        return None
    return latitude, longitude, altitude


def align(model: pycolmap.Reconstruction, targets: Targets, seed: int) -> dict[str, Any]:
    """Align the model to the targets; returns the entry of sfm.json. ScrflowError if the scale stays uncertain."""
    centres = {(image := model.image(i)).name: image.projection_center() for i in model.reg_image_ids()}
    report = _scale(model, targets, centres) if targets.distances else _move(model, targets, centres, seed)
    log.info("sfm: aligned to %s: %s", targets.what, ", ".join(f"{key} {value}" for key, value in report.items()))
    return {"to": targets.what, **report}


def _scale(
    model: pycolmap.Reconstruction, targets: Targets, centres: dict[str, np.ndarray]
) -> dict[str, float | list[float]]:
    for name in (n for a, b, _ in targets.distances for n in (a, b)):
        if name not in centres:
            raise ScrflowError(f"sfm.known_distances: {name} could not be registered; name another photo")
    given = np.array([d for _, _, d in targets.distances])
    measured = np.array([np.linalg.norm(centres[a] - centres[b]) for a, b, _ in targets.distances])
    extent = np.linalg.norm(np.ptp(list(centres.values()), axis=0))
    if measured.min() < 1e-3 * extent:
        a, b, _ = targets.distances[int(measured.argmin())]
        raise ScrflowError(f"sfm.known_distances: {a} and {b} were taken at one place; name photos farther apart")
    scale = float(np.exp(np.log(given / measured).mean()))
    residuals = scale * measured / given - 1
    if np.abs(residuals).max() > _DOUBT:
        raise ScrflowError(
            "sfm.known_distances: they disagree: "
            + ", ".join(
                f"{a} to {b}: {d:g} given, {d * (1 + r):.3g} by the others"
                for (a, b, d), r in zip(targets.distances, residuals, strict=True)
            )
            + "; measure again"
        )
    model.transform(pycolmap.Sim3d(scale, pycolmap.Rotation3d(), np.zeros(3)))
    return {
        "scale": _digits(scale),
        "residuals": [_digits(float(d * r)) for d, r in zip(given, residuals, strict=True)],
    }


def _move(
    model: pycolmap.Reconstruction, targets: Targets, centres: dict[str, np.ndarray], seed: int
) -> dict[str, Any]:
    names = [name for name in targets.positions if name in centres]
    wanted = np.array([targets.positions[name] for name in names]).reshape(-1, 3)
    spread = float(np.sqrt(((wanted - wanted.mean(0)) ** 2).sum(1).mean())) if names else 0.0
    options = pycolmap.RANSACOptions(random_seed=seed, num_threads=1)
    options.max_error = _GPS_ERROR if targets.origin else max(_LIST_ERROR * spread, 1e-9)
    moved = None
    if len(names) >= _LEAST and spread > 0:
        moved = pycolmap.align_reconstruction_to_locations(model, names, wanted, _LEAST, options)
    if moved is None:
        raise ScrflowError(
            f"{targets.what}: the positions of {len(names)} registered photos do not fit the model; check their axes "
            "and names, or give sfm.known_distances instead"
        )
    errors = np.array([moved * centres[name] for name in names]) - wanted
    lengths = np.linalg.norm(errors, axis=1)
    near = lengths <= options.max_error
    sigma = float(np.sqrt((errors[near] ** 2).sum() / max(3 * near.sum() - 7, 1)))
    axes = np.linalg.svd(wanted[near] - wanted[near].mean(0), compute_uv=False)
    told = {
        "scale": _digits(moved.scale),
        "scale_spread": _digits(sigma / float(np.linalg.norm(axes))),
        "photos": len(names),
        "outliers": int((~near).sum()),
        "median_residual": _digits(float(np.median(lengths))),
        "max_residual": _digits(float(lengths[near].max())),
        **({} if targets.origin is None else {"origin": [round(v, 7) for v in targets.origin]}),
    }
    if near.sum() < max(_LEAST, len(names) / 2) or told["scale_spread"] > _DOUBT:
        raise ScrflowError(
            f"{targets.what}: the positions do not tell the scale: they spread over {spread:.3g} and the model is "
            f"{told['median_residual']:g} off them (median; {told['outliers']} of {len(names)} are outliers); walk "
            "farther, name better positions, or give sfm.known_distances instead"
        )
    if axes[1] / np.sqrt(near.sum()) < _LINE * sigma:
        log.warning("sfm: the positions lie on a line, so which way is up is not known; lengths are right")
    if told["outliers"]:
        log.warning(
            "sfm: %s: positions of outliers: %s",
            targets.what,
            some([n for n, k in zip(names, near, strict=True) if not k]),
        )
    model.transform(moved)
    return told


def _digits(value: float) -> float:
    return float(f"{value:.6g}")
