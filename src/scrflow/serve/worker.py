"""A process that localizes photos with maps, one at a time, for the service."""

import contextlib
import json
import signal
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import torch

from scrflow.core.errors import ScrflowError, error_line
from scrflow.core.geometry import invert_pose, pinhole_rays, pixels_from_rays, pose_numbers
from scrflow.core.images import REPLACE, opened
from scrflow.localize.hint import hint_of
from scrflow.localize.query import query_photo
from scrflow.localize.result import Localization
from scrflow.localize.router import Router, check_alike, localizers_of
from scrflow.map.file import Map, load_map
from scrflow.serve.pool import SHOWN_MATCHES, Job, Reply

MAX_PIXELS = 40_000_000  # of a photo, checked before it is decoded: 120 MB in RGB
# of what Pillow opens, the formats of cameras, phones and screens; others, such as EPS, call further programs
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "HEIF", "AVIF", "TIFF", "BMP")
_SHOWN_POINTS, _SHOWN_CAMERAS = 20_000, 3_000


def work(connection: Connection, paths: Mapping[str, Path], device: str | None, threads: int) -> None:
    """Load the maps, send ``(described, routed)`` or the error's line, then answer each Job with a Reply until the
    connection closes."""
    for number in (signal.SIGINT, signal.SIGTERM):  # some reach all processes; the service ends this one
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(threads)
    with contextlib.suppress(EOFError, OSError):  # the service has ended
        try:
            maps = Maps(paths, device)
        except Exception as error:
            connection.send(error_line(error) or traceback.format_exc())
            return
        connection.send((maps.described, maps.routed))
        while True:
            connection.send(_reply(maps, connection.recv()))


class Maps:
    """The maps of a service, ready to localize photos."""

    def __init__(self, paths: Mapping[str, Path], device: str | None = None):
        maps = {name: load_map(path) for name, path in paths.items()}
        self._localizers = localizers_of(maps, device)
        self._router = None
        if len(maps) > 1:
            try:
                check_alike(maps)
                self._router = Router(self._localizers)
            except ScrflowError:  # of several scenes: the client names one
                pass
        self.described = {name: _described(map_, paths[name]) for name, map_ in maps.items()}
        self.routed = self._router is not None

    def localize(self, job: Job) -> dict[str, Any]:
        """The fields of an Answer. ScrflowError for a photo or a text that cannot be used."""
        name = job.map if self.routed and job.map is None else self._chosen(job.map)
        hint = hint_of(job.near, "near")
        check_photo(job.photo)
        photo, camera = query_photo(job.photo, job.camera)
        if name is None:
            routed = self._router.localize(photo, camera, hint)
            name, found = routed.map, routed.found
        else:
            found = self._localizers[name].localize(photo, camera, hint=hint)
        source = "estimated" if camera is None else "exif" if job.camera is None else "given"
        fields = answer_of(found, camera or found.camera, source, job.matches)
        return {"map": name, "unit": self.described[name]["unit"], **fields}

    def _chosen(self, name: str | None) -> str:
        names = ", ".join(self._localizers)
        if name is None and len(self._localizers) > 1:
            raise ScrflowError(f"map: several are served, of several scenes; name one of {names}")
        if name is not None and name not in self._localizers:
            raise ScrflowError(f"map: there is no {name[:100]!r}; name one of {names}")
        return name or names


def check_photo(data: bytes) -> None:
    """ScrflowError for bytes that are no photo, or one of too many pixels; nothing is decoded."""
    with opened("photo", data) as image:
        kind, (width, height) = image.format, image.size
    if kind not in _FORMATS:
        raise ScrflowError(f"photo: image is {kind}; send a JPEG, PNG, HEIC or WebP")
    if width * height > MAX_PIXELS:
        raise ScrflowError(
            f"photo: image is {width}x{height} px; send at most {MAX_PIXELS / 1e6:.0f} million pixels, and make its "
            "camera smaller with it"
        )


def answer_of(found: Localization, camera: pycolmap.Camera, source: str, matches: bool) -> dict[str, Any]:
    """Fields of an Answer. ``camera`` is the one that the pose rests on."""
    pose, facts = found.cam_from_world, found.facts()
    return {
        "cam_from_world": None if pose is None else _pose(pose),
        "world_from_cam": None if pose is None else _pose(invert_pose(pose)),
        "covariance": None if found.covariance is None else found.covariance.tolist(),
        **{key: facts[key] for key in ("confidence", "reason", "inliers", "keypoints", "ms")},
        "camera": {
            "model": camera.model.name,
            "width": camera.width,
            "height": camera.height,
            "params": camera.params.tolist(),
            "source": source,
            "focal_spread": facts.get("focal_spread"),
        },
        "turned": found.turned,
        "matches": _matches(found, camera) if matches else None,
    }


def _reply(maps: Maps, job: Job) -> Reply:
    try:
        return Reply(answer=maps.localize(job))
    except ScrflowError as error:
        # the client has no lists
        text = str(error).replace(REPLACE, "send another").replace(" or remove its name from the lists", "")
        return Reply(refused=text)
    except Exception:
        return Reply(failed=traceback.format_exc())


def _pose(pose: np.ndarray) -> dict[str, Any]:
    numbers = pose_numbers(pose)
    return {"rotation_wxyz": numbers[:4], "translation": numbers[4:]}


def _matches(found: Localization, camera: pycolmap.Camera) -> list[dict[str, Any]]:
    rows = np.flatnonzero(found.inliers)
    if len(rows) > SHOWN_MATCHES:
        rows = rows[np.linspace(0, len(rows) - 1, SHOWN_MATCHES).round().astype(int)]
    pixels = pixels_from_rays(camera, pinhole_rays(found.view.pixels[rows], found.view.K)).round(1)
    points = found.xyz_world[rows].round(4)
    return [{"pixel": p, "xyz_world": x} for p, x in zip(pixels.tolist(), points.tolist(), strict=True)]


def _described(map_: Map, path: Path) -> dict[str, Any]:
    """Fields of a MapInfo, and ``scene``: JSON of the points and mapping cameras that the page draws."""
    parts = [what for what, part in (("head", map_.head), ("landmarks", map_.landmarks)) if part is not None]
    return {
        "kind": " and ".join(parts),
        "unit": map_.config.unit,
        "mapping_photos": len(map_.names),
        "megabytes": round(path.stat().st_size / 1e6, 2),
        "thresholds": map_.config.thresholds,
        "scene": _scene(map_),
    }


def _scene(map_: Map) -> str:
    points, views = np.zeros((0, 3)) if map_.landmarks is None else map_.landmarks.xyz, map_.views
    if len(points) > _SHOWN_POINTS:
        points = np.random.default_rng(0).permutation(points)[:_SHOWN_POINTS]
    cameras = []
    if views is not None:
        step = -(-len(views.centre) // _SHOWN_CAMERAS)
        cameras = [
            {"at": at, "forward": forward, "up": up}
            for at, forward, up in zip(
                *(v[::step].tolist() for v in (views.centre, views.direction, views.up)), strict=True
            )
        ]
    return json.dumps({"points": points.astype(np.float32).ravel().tolist(), "cameras": cameras})
