"""A scene made of other scenes: a part of one, or several side by side. 3D points are not taken over."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator
from scipy.cluster.vq import kmeans2
from scipy.spatial import cKDTree

from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_centre
from scrflow.core.seeds import numpy_generator
from scrflow.scene.checks import some
from scrflow.scene.colmap_model import View
from scrflow.scene.model import Scene, load_scene
from scrflow.scene.readers import Collection, Reader


class CombinedSource(Reader):
    """Several scenes side by side in one world, each in a cell of a grid (i7, i12, i19 of ESAC and GLACE)."""

    # ESAC, ICCV 2019; GLACE, CVPR 2024. n rooms fill a grid of ceil(sqrt(n)) columns row by row; a room's centre comes
    # to (-row, -column, 0) times the cell's side. Rooms overlap, so the scene keeps which room an image shows, and
    # images of different rooms never count as covisible.
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
    def _parts(self) -> Self:
        if len(set(self.scenes)) < len(self.scenes):
            raise ValueError("scenes: a scene is listed twice")
        unknown = sorted(set(self.centres) - set(self.scenes))
        if unknown:
            raise ValueError(f"centres: {', '.join(unknown)} not among scenes")
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        return self.scenes

    def read(self, root: Path, parts: Mapping[str, Path] | None = None) -> Collection:
        """The images of all ``parts`` (name -> scene artifact); the condition of a query is its part."""
        scenes = _loaded(self, parts)
        units = {name: scene.unit for name, scene in scenes.items()}
        if len(set(units.values())) > 1 and not self.allow_units:
            told = ", ".join(f"{name}: {unit}" for name, unit in units.items())
            raise ScrflowError(f"reader combined: the scenes' units differ ({told}); or set allow_units: true")
        image_root = _common_root([scene.image_root for scene in scenes.values()])
        shifts = self._shifts(scenes)
        images: dict[str, View] = {}
        part_of: dict[str, str] = {}
        mapping, queries = [], []
        for part, scene in scenes.items():
            for names, views in ((mapping, scene.mapping), (queries, scene.query_views())):
                for view in views:
                    name = Path(os.path.relpath(scene.image_path(view.name), image_root)).as_posix()
                    if name in images:
                        both = f"{part_of[name]} and {part}"
                        raise ScrflowError(f"{image_root / name}: image of both {both}; drop a scene")
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

    def _shifts(self, scenes: Mapping[str, Scene]) -> dict[str, np.ndarray]:
        """part -> shift [3]: a point x of the part is at x + shift in the combined world."""
        columns = self.columns or math.ceil(math.sqrt(len(scenes)))
        shifts = {}
        for index, (name, scene) in enumerate(scenes.items()):
            row, column = divmod(index, columns)
            centre = self.centres.get(name)
            if centre is None:
                centre = camera_centre(np.stack([v.cam_from_world for v in scene.mapping])).mean(0)
            shifts[name] = np.array([-row, -column, 0.0]) * self.cell - np.asarray(centre)
        return shifts


class RegionSource(Reader):
    """A part of another scene, by where its mapping cameras are; all its queries. Poses stay in the one frame."""

    # For maps of a city that are trained one by one: poses from any of them compare. Photos near a region's border
    # belong to its neighbours too.
    part_of_a_scene: ClassVar[bool] = True
    reader: Literal["region"]
    scene: str = Field(description="name of the scene that is cut")
    regions: int = Field(ge=2, description="number of regions that it is cut into")
    region: int = Field(ge=1, description="which of them, from 1")
    overlap: float = Field(
        0.0,
        ge=0,
        description="in the scene's unit: a camera this near to one of another region's belongs to that one too; as "
        "far as the photos see clearly",
    )
    by: Literal["bisect", "kmeans"] = Field(
        "bisect",
        description="bisect: equal numbers of photos, cut across the direction of largest variance, again and again; "
        "kmeans: clusters of the cameras' centres",
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.region > self.regions:
            raise ValueError(f"region {self.region} of {self.regions}: they are numbered from 1; correct it")
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.scene,)

    def read(self, root: Path, parts: Mapping[str, Path] | None = None) -> Collection:
        """The mapping photos of one region of the scene ``scene``, whose artifact (a folder) is in ``parts``."""
        base = _loaded(self, parts)[self.scene]
        if len(base.mapping) < self.regions:
            raise ScrflowError(
                f"reader region: {self.regions} regions of {self.scene}, which has {len(base.mapping)} mapping images; "
                "set fewer regions"
            )
        centres_N3 = camera_centre(np.stack([v.cam_from_world for v in base.mapping]))
        inside = self._members(centres_N3)[:, self.region - 1]
        views = [view for view, wanted in zip(base.mapping, inside, strict=True) if wanted]
        return Collection(
            base.folder,
            base.image_root,
            (*views, *base.query_views()),
            split=(tuple(v.name for v in views), tuple(q.name for q in base.queries)),
            conditions={q.name: q.condition for q in base.queries},
            inputs={f"part_{self.scene}": base.stamp.digest},
        )

    def _members(self, centres_N3: np.ndarray) -> np.ndarray:
        """[N, regions] bool: which regions each camera belongs to, its own and those within ``overlap``."""
        if self.by == "bisect":
            labels = bisected(centres_N3, self.regions)
        else:
            rng = numpy_generator(0, "region", self.regions)
            _, labels = kmeans2(centres_N3, self.regions, iter=50, minit="++", rng=rng)
            if len(np.unique(labels)) < self.regions:
                raise ScrflowError(f"reader region: k-means leaves a region of {self.scene} empty; set by: bisect")
        member = labels[:, None] == np.arange(self.regions)
        if self.overlap > 0:
            for region in range(self.regions):
                distance, _ = cKDTree(centres_N3[labels == region]).query(centres_N3)
                member[:, region] |= distance <= self.overlap
        return member


def _loaded(source: Reader, parts: Mapping[str, Path] | None) -> dict[str, Scene]:
    """The scenes that ``source`` names, in its order."""
    missing = [name for name in source.parts if name not in (parts or {})]
    if missing:
        raise ScrflowError(f"reader {source.reader}: no scene artifact of {some(missing)} given; run its scene stage")
    return {name: load_scene(parts[name]) for name in source.parts}


def _shifted(cam_from_world: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The pose [3, 4] in a world whose points are x + shift: R x + t = R (x + shift) + (t - R shift)."""
    R = cam_from_world[:, :3]
    return np.column_stack([R, cam_from_world[:, 3] - R @ shift])


def _common_root(folders: list[Path]) -> Path:
    """The deepest folder that all are in; relative to the working directory where all folders are given so."""
    root = Path(os.path.commonpath([Path(os.path.abspath(f)) for f in folders]))
    relative = not any(Path(f).is_absolute() for f in folders)
    return Path(os.path.relpath(root)) if relative else root


def bisected(points_N3: np.ndarray, regions: int) -> np.ndarray:
    """Labels [N] of regions of nearly equal numbers: cut across the direction of largest variance, recursively."""
    labels = np.zeros(len(points_N3), np.int64)
    if regions == 1:
        return labels
    first = regions // 2
    offsets = points_N3 - points_N3.mean(0)
    axis = np.linalg.eigh(offsets.T @ offsets)[1][:, -1]
    # an eigenvector has no sign of its own: make its largest component positive
    axis = axis * np.sign(axis[np.argmax(np.abs(axis))])
    order = np.argsort(offsets @ axis, kind="stable")
    cut = len(points_N3) * first // regions
    low, high = order[:cut], order[cut:]
    labels[low] = bisected(points_N3[low], first)
    labels[high] = first + bisected(points_N3[high], regions - first)
    return labels
