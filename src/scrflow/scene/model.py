"""The scene artifact: posed mapping images, queries with intrinsics, reference poses of the queries where known.

A folder: ``mapping/`` (COLMAP model, binary), ``queries.txt`` (hloc list: name, camera model, width, height, params),
``query_poses.txt`` (name qw qx qy qz tx ty tz, cam_from_world; only when some are known) and ``scene.json``.
"""

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
from scrflow.core.images import check_unchanged, read_rgb
from scrflow.scene.colmap_model import View, model_of_views, read_model, views_of_model, write_binary_model
from scrflow.scene.lists import pose_line, query_line, read_poses, read_query_list
from scrflow.storage.artifact import Stamp, atomic_dir, folder_digest, read_json, read_stamp, require, write_json

KIND = "scene"


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
    parts: Mapping[str, str] = field(default_factory=dict)  # mapping image -> its room, for a scene of several
    sha256: Mapping[str, str] = field(default_factory=dict)  # image -> digest of its file when the scene was made

    def image_path(self, name: str) -> Path:
        """Where the image with this name is."""
        return self.image_root / name

    def query_views(self) -> list[View]:
        """The queries with their reference poses, which may be None."""
        return [View(q.name, q.camera, self.query_poses.get(q.name)) for q in self.queries]

    def photo(self, name: str) -> Image.Image:
        """The image in RGB; ScrflowError where it has changed since the scene was made."""
        return read_rgb(self.image_path(name), self.sha256.get(name))

    def check_photos(self, names: Sequence[str]) -> None:
        """ScrflowError where an image file, to be read by COLMAP, has changed since the scene was made."""
        for name in names:
            check_unchanged(self.image_path(name), self.sha256[name])

    def same_part(self) -> np.ndarray | None:
        """[N, N] bool: whether two mapping images show the same room; None for a scene of one."""
        if not self.parts:
            return None
        parts = np.array([self.parts[v.name] for v in self.mapping])
        return parts[:, None] == parts[None]


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

    The stamp's inputs hold digests of the images and the written files. ``model`` is the COLMAP model of exactly the
    mapping images, with its points; without it one of ``mapping`` is made. ``parts`` names each mapping image's room.
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
        lines = "".join(f"{name} {sha}\n" for name, sha in sorted(image_sha256.items()))
        images = hashlib.sha256(lines.encode()).hexdigest()[:16]
        stamp = Stamp.make(KIND, config, code, images=images, content=folder_digest(folder), **dict(inputs or {}))
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


def _portable(path: Path) -> str:
    """Relative to the working directory (the project) where it lies in it or was given so; absolute otherwise."""
    path = Path(path)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return Path(os.path.normpath(path)).as_posix()


def load_scene(folder: Path) -> Scene:
    """The scene artifact in ``folder``; ScrflowError when it is damaged or an image of it is gone."""
    folder = Path(folder)
    require(folder, "scene")
    info_path = folder / "scene.json"
    stamp = read_stamp(info_path, KIND)
    info = read_json(info_path, KIND)
    if folder_digest(folder, info_path.name) != stamp.inputs.get("content"):
        raise _damaged(folder, "its files are not those that were written with scene.json")
    mapping = views_of_model(read_model(folder / "mapping"))
    poses = folder / "query_poses.txt"
    try:
        queries = [
            Query(name, camera, info["conditions"][name])
            for name, camera in read_query_list(folder / "queries.txt").items()
        ]
        scene = Scene(
            folder,
            Path(info["image_root"]),
            info["unit"],
            mapping,
            tuple(queries),
            read_poses(poses) if poses.exists() else {},
            stamp,
            {v.name: info["parts"][v.name] for v in mapping} if info.get("parts") else {},
            {item.name: info["sha256"][item.name] for item in (*mapping, *queries)},
        )
    except (KeyError, TypeError) as error:
        raise _damaged(info_path, f"{type(error).__name__}: {error}") from None
    for name in scene.sha256:
        if not scene.image_path(name).is_file():
            raise ScrflowError(f"{scene.image_path(name)}: image of the scene in {folder} is gone; put it back")
    return scene


def _damaged(path: Path, why: str) -> ScrflowError:
    return ScrflowError(f"{path}: damaged scene ({why}); delete the scene's folder and run again")
