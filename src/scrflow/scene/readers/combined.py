"""Several scenes side by side in one world: i7, i12 and i19 (ESAC, ICCV 2019; GLACE, CVPR 2024).

n rooms fill a grid of ceil(sqrt(n)) columns row by row; a room's centre comes to (-row, -column, 0) times the cell's
side. Rooms overlap, so the scene keeps which room an image shows, and images of different rooms never count as
covisible. 3D points of the parts are not taken over.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from scrflow.config import Source
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_centre
from scrflow.scene.checks import some
from scrflow.scene.colmap_model import View
from scrflow.scene.model import Scene, load_scene
from scrflow.scene.readers import Collection


class CombinedSource(Source):
    """Several scenes side by side in one world, each in a cell of a grid (i7, i12, i19 of ESAC and GLACE)."""

    reader: Literal["combined"]
    scenes: tuple[str, ...] = Field(min_length=2, description="names of the scenes, in the order of the cells")
    cell: float = Field(5.0, gt=0, description="side of a cell, in the scenes' unit")
    columns: int | None = Field(
        None, ge=1, description="cells a row; the root of their number, rounded up, if not given"
    )
    centres: dict[str, tuple[float, float, float]] = Field(
        default_factory=dict,
        description="scene -> its point that comes to the cell's corner; not listed: the mean of its mapping cameras",
    )
    allow_units: bool = Field(False, description="combine scenes of different units as if they were one")

    @model_validator(mode="after")
    def _parts(self) -> CombinedSource:
        if len(set(self.scenes)) < len(self.scenes):
            raise ValueError("scenes: a scene is listed twice")
        unknown = sorted(set(self.centres) - set(self.scenes))
        if unknown:
            raise ValueError(f"centres: {', '.join(unknown)} not among scenes")
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        return self.scenes


SOURCE = CombinedSource


def read(
    source: CombinedSource, root: Path, sfm_model: Path | None = None, parts: Mapping[str, Path] | None = None
) -> Collection:
    """The images of all ``parts`` (name -> scene artifact); the condition of a query is its part."""
    missing = [name for name in source.scenes if name not in (parts or {})]
    if missing or parts is None:
        raise ScrflowError(f"reader combined: no scene artifact of {some(missing)} given; run its scene stage")
    scenes = {name: load_scene(parts[name]) for name in source.scenes}
    units = {name: scene.unit for name, scene in scenes.items()}
    if len(set(units.values())) > 1 and not source.allow_units:
        told = ", ".join(f"{name}: {unit}" for name, unit in units.items())
        raise ScrflowError(f"reader combined: the scenes' units differ ({told}); or set allow_units: true")
    image_root = common_root([scene.image_root for scene in scenes.values()])
    shifts = grid_shifts(source, scenes)
    images: dict[str, View] = {}
    part_of: dict[str, str] = {}
    mapping, queries = [], []
    for part, scene in scenes.items():
        for names, views in ((mapping, scene.mapping), (queries, scene.query_views())):
            for view in views:
                name = Path(os.path.relpath(scene.image_path(view.name), image_root)).as_posix()
                if name in images:
                    raise ScrflowError(f"{image_root / name}: image of both {part_of[name]} and {part}; drop a scene")
                pose = None if view.cam_from_world is None else _shifted(view.cam_from_world, shifts[part])
                images[name] = View(name, view.camera, pose)
                part_of[name] = part
                names.append(name)
    return Collection(
        image_root,
        image_root,
        tuple(images.values()),
        split=(tuple(mapping), tuple(queries)),
        conditions={name: part_of[name] for name in queries},
        inputs={f"part_{name}": scene.stamp.digest for name, scene in scenes.items()},
        parts=part_of,
    )


def grid_shifts(source: CombinedSource, scenes: Mapping[str, Scene]) -> dict[str, np.ndarray]:
    """part -> shift [3]: a point x of the part is at x + shift in the combined world."""
    columns = source.columns or math.ceil(math.sqrt(len(source.scenes)))
    shifts = {}
    for index, name in enumerate(source.scenes):
        row, column = divmod(index, columns)
        centre = source.centres.get(name)
        if centre is None:
            centre = camera_centre(np.stack([v.cam_from_world for v in scenes[name].mapping])).mean(0)
        shifts[name] = np.array([-row, -column, 0.0]) * source.cell - np.asarray(centre)
    return shifts


def _shifted(cam_from_world: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The pose [3, 4] in a world whose points are x + shift: R x + t = R (x + shift) + (t - R shift)."""
    R = cam_from_world[:, :3]
    return np.column_stack([R, cam_from_world[:, 3] - R @ shift])


def common_root(folders: list[Path]) -> Path:
    """The deepest folder that all are in; relative to the working directory where all folders are given so."""
    root = Path(os.path.commonpath([Path(os.path.abspath(f)) for f in folders]))
    relative = not any(Path(f).is_absolute() for f in folders)
    return Path(os.path.relpath(root)) if relative else root
