"""A part of another scene, for maps of a city that are trained one by one: some of its mapping photos, all its queries.

Photos near a region's border belong to its neighbours too. Poses stay in the base scene's frame, so poses from any of
the maps compare. 3D points are not taken over.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from scipy.cluster.vq import kmeans2
from scipy.spatial import cKDTree

from scrflow.config import Source
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import camera_centre
from scrflow.core.seeds import numpy_generator
from scrflow.scene.model import load_scene
from scrflow.scene.readers import Collection


class RegionSource(Source):
    """A part of another scene, by where its mapping cameras are; all its queries. Poses stay in the one frame."""

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
    def _one_of_them(self) -> RegionSource:
        if self.region > self.regions:
            raise ValueError(f"region {self.region} of {self.regions}: they are numbered from 1; correct it")
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.scene,)


SOURCE = RegionSource


def read(
    source: RegionSource, root: Path, sfm_model: Path | None = None, parts: Mapping[str, Path] | None = None
) -> Collection:
    """The mapping photos of one region of the scene ``source.scene``, whose artifact (a folder) is in ``parts``."""
    folder = (parts or {}).get(source.scene)
    if folder is None:
        raise ScrflowError(f"reader region: no scene artifact of {source.scene} given; run its scene stage")
    base = load_scene(folder)
    if len(base.mapping) < source.regions:
        raise ScrflowError(
            f"reader region: {source.regions} regions of {source.scene}, which has {len(base.mapping)} mapping images; "
            "set fewer regions"
        )
    centres_N3 = camera_centre(np.stack([v.cam_from_world for v in base.mapping]))
    inside = region_members(source, centres_N3)[:, source.region - 1]
    views = [view for view, wanted in zip(base.mapping, inside, strict=True) if wanted]
    return Collection(
        base.folder,
        base.image_root,
        (*views, *base.query_views()),
        split=(tuple(v.name for v in views), tuple(q.name for q in base.queries)),
        conditions={q.name: q.condition for q in base.queries},
        inputs={f"part_{source.scene}": base.stamp.digest},
    )


def region_members(source: RegionSource, centres_N3: np.ndarray) -> np.ndarray:
    """[N, regions] bool: which regions each camera belongs to, its own and those within ``overlap``."""
    if source.by == "bisect":
        labels = bisected(centres_N3, source.regions)
    else:
        rng = numpy_generator(0, "region", source.regions)
        _, labels = kmeans2(centres_N3, source.regions, iter=50, minit="++", rng=rng)
        if len(np.unique(labels)) < source.regions:
            raise ScrflowError(f"reader region: k-means leaves a region of {source.scene} empty; set by: bisect")
    member = labels[:, None] == np.arange(source.regions)
    if source.overlap > 0:
        for region in range(source.regions):
            distance, _ = cKDTree(centres_N3[labels == region]).query(centres_N3)
            member[:, region] |= distance <= source.overlap
    return member


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
