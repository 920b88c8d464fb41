"""The scene artifact: posed mapping images, queries with intrinsics, reference poses of the queries where known.

A folder: ``mapping/`` (COLMAP model, binary), ``queries.txt`` (hloc list: name, camera model, width, height, params),
``query_poses.txt`` (name qw qx qy qz tx ty tz, cam_from_world; only when some are known) and ``scene.json``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pycolmap
from PIL import Image
from pydantic import BaseModel

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pose_numbers, rotation_from_quaternion
from scrflow.core.images import check_unchanged, read_rgb
from scrflow.scene.checks.validate import checked_size
from scrflow.scene.colmap_file import check_binary_model, write_binary_model
from scrflow.scene.textmodel import mend_names
from scrflow.storage.artifact import Stamp, atomic_dir, folder_digest, read_json, read_stamp, require, write_json
from scrflow.storage.checksum import what_to_delete
from scrflow.storage.listfile import listed, read_lines, split_name

KIND = "scene"
MODEL_DIGEST = "model"  # the key of folder_digest in what a stage writes beside a COLMAP model
WRITTEN = {"sfm.json": "sfm", "triangulation.json": "triangulation"}  # file -> kind


@dataclass(frozen=True, eq=False)
class View:
    """A posed mapping image."""

    name: str  # relative to Scene.image_root
    camera: pycolmap.Camera
    cam_from_world: np.ndarray  # [3, 4] float64


@dataclass(frozen=True, eq=False)
class Query:
    """An image to be localized."""

    name: str  # relative to Scene.image_root
    camera: pycolmap.Camera
    condition: str  # "all", "day", "night" ...


@dataclass(frozen=True, eq=False)
class Scene:
    """All that later stages know of a dataset. Lengths are in ``unit``."""

    folder: Path
    image_root: Path
    unit: str
    mapping: tuple[View, ...]  # sorted by name
    queries: tuple[Query, ...]  # sorted by name
    query_poses: dict[str, np.ndarray]  # query name -> cam_from_world [3, 4] float64; may be empty or partial
    stamp: Stamp
    # mapping image -> the room that it shows, for a scene of several: no two of them see the same; empty for one
    parts: Mapping[str, str] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)  # image -> digest of its file when the scene was made

    def image_path(self, name: str) -> Path:
        """Where the image with this name is."""
        return self.image_root / name

    def photo(self, name: str) -> Image.Image:
        """The image with this name, in RGB; ScrflowError where it is no longer the one that the scene was made of."""
        return read_rgb(self.image_path(name), self.sha256.get(name))

    def check_photos(self, names: Sequence[str]) -> None:
        """For those that read the files themselves (COLMAP): ScrflowError where one is no longer that of the scene."""
        for name in names:
            check_unchanged(self.image_path(name), self.sha256[name])

    def same_part(self) -> np.ndarray | None:
        """[N, N] bool: whether two mapping images show the same room; None for a scene that is not one of several."""
        if not self.parts:
            return None
        parts = np.array([self.parts[v.name] for v in self.mapping])
        return parts[:, None] == parts[None]


# ------------------------------------------------------------------------------------------------------------- writing


def write_scene(
    out: Path,
    *,
    config: BaseModel,
    code: str,
    image_root: Path,
    unit: str,
    mapping: Sequence[View],
    queries: Sequence[Query],
    query_poses: Mapping[str, np.ndarray],
    image_sha256: Mapping[str, str],
    model: pycolmap.Reconstruction | None = None,
    inputs: Mapping[str, Path | str] | None = None,
    parts: Mapping[str, str] | None = None,
) -> None:
    """Write the scene artifact to the folder ``out`` at once, in place of an older one.

    ``image_sha256`` holds the digest of every image; with the digest of the written files it makes the stamp's inputs,
    so another photo or another pose is another scene. ``model``, when given, is the COLMAP model of exactly the mapping
    images and is written as it is (with its points); otherwise one without points is made of ``mapping``. ``parts``
    names the room of every mapping image, where the scene is made of several.
    """
    mapping = sorted(mapping, key=lambda v: v.name)
    queries = sorted(queries, key=lambda q: q.name)
    with atomic_dir(out) as folder:
        (folder / "mapping").mkdir()
        write_binary_model(model or model_of_views(mapping), folder / "mapping")
        (folder / "queries.txt").write_text("".join(query_line(q.name, q.camera) + "\n" for q in queries), "utf-8")
        if query_poses:
            lines = [pose_line(q.name, query_poses[q.name]) + "\n" for q in queries if q.name in query_poses]
            (folder / "query_poses.txt").write_text("".join(lines), "utf-8")
        images = "".join(f"{name} {sha}\n" for name, sha in sorted(image_sha256.items()))
        stamp = Stamp.make(
            KIND, config, code, images=_digest(images), content=folder_digest(folder), **dict(inputs or {})
        )
        values = {
            "image_root": _portable(image_root),
            "unit": unit,
            "mapping_images": len(mapping),
            "queries": len(queries),
            "queries_with_pose": len(query_poses),
            "conditions": {q.name: q.condition for q in queries},
            "sha256": dict(sorted(image_sha256.items())),
        }
        if parts:
            values["parts"] = dict(sorted(parts.items()))
        write_json(folder / "scene.json", values, stamp)


def model_of_views(views: Sequence[View]) -> pycolmap.Reconstruction:
    """A COLMAP model without points; equal cameras are stored once."""
    model = pycolmap.Reconstruction()
    camera_ids: dict[tuple, int] = {}
    for image_id, view in enumerate(views, start=1):
        c = view.camera
        key = (c.model.name, c.width, c.height, *np.asarray(c.params).tolist())
        if key not in camera_ids:
            camera_ids[key] = len(camera_ids) + 1
            model.add_camera_with_trivial_rig(copy_camera(c, camera_ids[key]))
        image = pycolmap.Image(name=view.name, camera_id=camera_ids[key], image_id=image_id)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(np.asarray(view.cam_from_world, np.float64)))
    return model


def query_line(name: str, camera: pycolmap.Camera) -> str:
    """``name MODEL width height params...`` (hloc)."""
    params = " ".join(repr(float(p)) for p in camera.params)
    return f"{listed(name)} {camera.model.name} {camera.width} {camera.height} {params}"


def pose_line(name: str, pose: np.ndarray | Sequence[float], digits: int | None = None) -> str:
    """``name qw qx qy qz tx ty tz`` (visuallocalization.net) of a pose [3, 4], or of its seven numbers; with all digits
    that float64 needs, or rounded to ``digits``."""
    numbers = pose_numbers(pose) if isinstance(pose, np.ndarray) else pose
    return " ".join((listed(name), *(repr(v) if digits is None else f"{v:.{digits}g}" for v in numbers)))


def copy_camera(camera: pycolmap.Camera, camera_id: int = 1) -> pycolmap.Camera:
    """The same camera under an id of its own, independent of the model that it came from."""
    return pycolmap.Camera(
        model=camera.model,
        width=camera.width,
        height=camera.height,
        params=np.array(camera.params),
        camera_id=camera_id,
        has_prior_focal_length=camera.has_prior_focal_length,
    )


def _portable(path: Path) -> str:
    """Relative to the working directory (the project) where it lies in it or was given so; absolute otherwise."""
    path = Path(path)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return Path(os.path.normpath(path)).as_posix()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------- reading


def load_scene(folder: Path) -> Scene:
    """The scene artifact in ``folder``; ScrflowError when it is damaged or an image of it is gone."""
    folder = Path(folder)
    require(folder, "scene")
    info_path = folder / "scene.json"
    stamp = read_stamp(info_path, KIND)
    info = read_json(info_path, KIND)
    if folder_digest(folder, info_path.name) != stamp.inputs.get("content"):
        raise _damaged(folder, "its files are not those that were written with scene.json")
    try:
        image_root = Path(info["image_root"])
        conditions, sha256, unit = info["conditions"], info["sha256"], info["unit"]
        counts = {k: info[k] for k in ("mapping_images", "queries", "queries_with_pose")}
        if not (isinstance(conditions, dict) and isinstance(sha256, dict) and isinstance(unit, str)):
            raise TypeError("conditions, sha256 or unit of another type")
    except KeyError as error:
        raise _damaged(info_path, f"key {error} is missing") from None
    except TypeError as error:
        raise _damaged(info_path, str(error)) from None

    mapping = views_of_model(read_model(folder / "mapping"))
    queries = []
    for name, camera in read_query_list(require(folder / "queries.txt", "query list")).items():
        if camera is None or name not in conditions:
            raise _damaged(folder / "queries.txt", f"query {name} has no camera or no condition")
        queries.append(Query(name, camera, conditions[name]))
    poses_path = folder / "query_poses.txt"
    query_poses = read_poses(poses_path) if poses_path.exists() else {}
    found = {"mapping_images": len(mapping), "queries": len(queries), "queries_with_pose": len(query_poses)}
    if found != counts:
        raise _damaged(folder, f"scene.json speaks of {counts}, the files hold {found}")
    for name in [v.name for v in mapping] + [q.name for q in queries]:
        if name not in sha256:
            raise _damaged(info_path, f"image {name} is not listed in it")
        if not (image_root / name).is_file():
            raise ScrflowError(
                f"{image_root / name}: image of the scene in {folder} is gone; put it back or build the scene again"
            )
    parts = info.get("parts", {})
    if parts and (not isinstance(parts, dict) or set(parts) != {v.name for v in mapping}):
        raise _damaged(info_path, "key parts does not name the mapping images")
    return Scene(folder, image_root, unit, mapping, tuple(queries), query_poses, stamp, parts, sha256)


def read_model(folder: Path) -> pycolmap.Reconstruction:
    """A COLMAP model (bin or text); ScrflowError when a file is missing or damaged."""
    folder = Path(folder)
    _check_written(folder)  # first: of a stage's own model the folder is to be named, from which it is made again
    for suffix in (".bin", ".txt"):
        names = [f"{n}{suffix}" for n in ("cameras", "images", "points3D")]
        if (folder / names[0]).is_file():
            break
    else:
        raise ScrflowError(f"{folder}: no COLMAP model; expected cameras, images and points3D as .bin or .txt")
    for name in names:
        if not (folder / name).is_file():
            raise ScrflowError(f"{folder / name}: file of the COLMAP model is missing")
    if suffix == ".bin":
        check_binary_model(folder)
    model = pycolmap.Reconstruction()
    try:
        (model.read_binary if suffix == ".bin" else model.read_text)(str(folder))
        if suffix == ".txt":
            mend_names(model, folder / "images.txt")
    except Exception as error:  # pycolmap raises RuntimeError, ValueError or IndexError, as it comes
        message = " ".join(str(error).split()) or type(error).__name__
        raise ScrflowError(f"{folder}: COLMAP model cannot be read ({message}); copy or build it again") from None
    for image_id, image in model.images.items():
        try:
            image.name  # noqa: B018 - pycolmap decodes it now
        except UnicodeDecodeError:
            raise ScrflowError(
                f"{folder}: name of image {image_id} is no UTF-8; rename it, build the model again"
            ) from None
    return model


def _check_written(folder: Path) -> None:
    """A model that a stage of this package wrote must be what that stage left; of others nothing is known."""
    for name, kind in WRITTEN.items():
        report = folder / name
        if report.exists() and folder_digest(folder, name) != read_json(report, kind).get(MODEL_DIGEST):
            raise ScrflowError(
                f"{folder}: damaged: its files are not those that were written with {name}; delete "
                f"{what_to_delete(report)} and run again"
            )


def views_of_model(model: pycolmap.Reconstruction) -> tuple[View, ...]:
    """The registered images of a COLMAP model, sorted by name, with cameras that do not depend on it."""
    cameras = {i: copy_camera(c, i) for i, c in model.cameras.items()}
    images = [model.image(i) for i in model.reg_image_ids()]
    views = [View(im.name, cameras[im.camera_id], np.array(im.cam_from_world().matrix(), np.float64)) for im in images]
    return tuple(sorted(views, key=lambda v: v.name))


def read_query_list(path: Path) -> dict[str, pycolmap.Camera | None]:
    """Names of a list file with their cameras: lines ``name`` (camera None) or ``name MODEL w h params...`` (hloc).

    Empty lines and those that begin with # are passed over. ScrflowError names the line of a damaged or a double entry.
    """
    out: dict[str, pycolmap.Camera | None] = {}
    for number, line in read_lines(path):
        name, rest = split_name(line)
        if name in out:
            raise ScrflowError(f"{path}: line {number}: {name} is listed twice; remove one")
        out[name] = camera_of_fields(rest, f"{path}: line {number}") if rest else None
    return out


def camera_of_fields(fields: list[str], where: str) -> pycolmap.Camera:
    """The camera of ``MODEL width height params...``; ScrflowError beginning with ``where``."""
    if len(fields) < 4:
        raise ScrflowError(f"{where}: expected 'name' or 'name MODEL width height params...'")
    model = pycolmap.CameraModelId.__members__.get(fields[0])
    if model is None or fields[0] == "INVALID":
        raise ScrflowError(f"{where}: no COLMAP camera model {fields[0]!r}")
    try:
        width, height = int(fields[1]), int(fields[2])
        params = [float(p) for p in fields[3:]]
    except ValueError as error:
        raise ScrflowError(f"{where}: {str(error)[:200]}") from None
    width, height = checked_size(width, height, where)
    camera = pycolmap.Camera(model=model, width=width, height=height, params=params)
    if not camera.verify_params():
        raise ScrflowError(f"{where}: {fields[0]} takes parameters {camera.params_info}, found {len(params)} numbers")
    return camera


def read_poses(path: Path) -> dict[str, np.ndarray]:
    """name -> cam_from_world [3, 4] of lines ``name qw qx qy qz tx ty tz``; ScrflowError for a damaged line."""
    out: dict[str, np.ndarray] = {}
    for number, line in read_lines(path):
        name, fields = split_name(line)
        try:
            values = np.array([float(f) for f in fields])
        except ValueError:
            values = np.empty(0)
        if values.shape != (7,) or not 1e-6 < np.linalg.norm(values[:4]) < 1e6 or not np.isfinite(values).all():
            raise ScrflowError(f"{path}: line {number}: expected 'name qw qx qy qz tx ty tz' with finite numbers")
        if name in out:
            raise ScrflowError(f"{path}: line {number}: {name} is listed twice; remove one")
        out[name] = np.column_stack([rotation_from_quaternion(values[:4]), values[4:]])
    return out


def _damaged(path: Path, why: str) -> ScrflowError:
    return ScrflowError(f"{path}: damaged scene ({why}); delete the scene's folder and run again")
