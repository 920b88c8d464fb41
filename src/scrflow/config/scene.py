"""config/scenes: a scene's source, split, units and scale."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from scrflow.config.base import Strict
from scrflow.config.sources import Source


class Split(Strict):
    """Which images are mapped and which are queries: lists (files of names, relative to root), or every n-th image."""

    mapping: str | None = None
    queries: dict[str, str] = Field(default_factory=dict, description="condition (all, day, night) -> list file")
    every: int | None = Field(None, ge=2, description="instead of lists: the 1st, (n+1)th, ... image is a query")

    @model_validator(mode="after")
    def _one_way(self) -> Split:
        if self.every is not None and (self.mapping is not None or self.queries):
            raise ValueError("give either every, or the lists mapping and queries")
        return self


class Archive(Strict):
    """A published archive (zip, tar, tar.gz, tar.bz2, tar.xz)."""

    url: str = Field(pattern=r"^https://")
    sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="not given: recorded at the first download, checked from then on"
    )
    into: str = Field(".", description="folder that it is unpacked in, relative to the scene's root")
    nested: str | None = Field(
        None, description="glob, in that folder, of archives in the archive; each is unpacked where it lies"
    )
    skip: tuple[str, ...] = Field((), description="globs of members that are left out")


class Download(Strict):
    """Where a dataset comes from when it is not under data_root."""

    files: str | None = Field(
        None, description="TSV with columns path, sha256, url, one line a file; relative to config/scenes"
    )
    archives: tuple[Archive, ...] = ()
    page: str | None = Field(
        None, pattern=r"^https://", description="where a person gets the dataset by hand, having agreed to its terms"
    )

    @model_validator(mode="after")
    def _some(self) -> Download:
        if self.files is None and not self.archives and self.page is None:
            raise ValueError("give files, archives or page")
        return self


class SfmConfig(Strict):
    """Structure from motion on bare photos."""

    features: Literal["sift"] = "sift"
    max_features: int = Field(8192, ge=256)
    max_image_size: int = Field(1600, ge=64, description="px, long side")
    exhaustive_up_to: int = Field(60, ge=2, description="more images than this are paired by retrieval")
    retrieval_pairs: int = Field(20, ge=2, description="pairs an image when paired by retrieval")
    mapper: Literal["incremental", "global"] = "incremental"
    min_registered: float = Field(0.8, gt=0, le=1, description="a smaller registered fraction stops the run")
    median_depth: float | None = Field(
        None, gt=0, description="rescale the model to this median point depth (an SfM model has no scale of its own)"
    )


class SceneConfig(Strict):
    """One scene: source, split, units and the scale that losses and graphs assume."""

    extends: str | None = None
    description: str
    licence: str
    citation: str = ""
    synthetic: bool = False
    root: str = Field(description="folder of the scene, relative to data_root (or to the project with in_project)")
    in_project: bool = False
    source: Source
    split: Split = Split()
    download: Download | None = None
    sfm: SfmConfig = SfmConfig()
    unit: str = Field("m", description="name of the unit of length, for tables")
    min_mapping_images: int = Field(3, ge=2)
    depth_range: tuple[float, float] = Field(
        (0.1, 8.0), description="frustum overlap samples depths in it: 8 indoors, 50 outdoors"
    )
    depth_bias: float = Field(0.3, ge=0, description="b of R-SCoRe's depth adjustment; 3 m outdoors")
    target_depth: float = Field(10.0, gt=0, description="depth that invalid predictions are pulled to (GLACE eq. 3)")
    thresholds: tuple[tuple[float, float], ...] = Field(((0.05, 5.0),), description="(unit, degrees), finest first")
    method: str = Field(description="the method of results/SCENE/poses.txt")
    graph: str = Field("frustum", description="a graph named in config.yaml")
