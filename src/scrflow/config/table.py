"""config/tables: what stands in a table, and the claims that are judged by one."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from scrflow.config.base import Strict

RowId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
METRIC = re.compile(r"recall@\d+|median_t|median_r|map_mb|mapping_min|training_min|query_ms")


class TableRow(Strict):
    """A line of a table: a method or a variant of one, a baseline, or the paper's numbers alone."""

    id: RowId
    label: str
    method: str | None = Field(None, description="of config/methods; null: a baseline, or only published numbers")
    small: str | None = Field(None, description="the method in its place on the scenes of a set; null: the same")
    over: dict[str, Any] = Field({}, description="keys of the method's file; the row is then a variant of the method")
    small_over: dict[str, Any] | None = Field(None, description="in place of over on the scenes of a set")
    baseline: str | None = Field(None, description="of config/baselines")
    published: str | None = Field(None, description="row of the published table")

    @model_validator(mode="after")
    def _is_something(self) -> TableRow:
        if self.method and self.baseline:
            raise ValueError("method and baseline: a row has one of them")
        if not (self.method or self.small or self.baseline or self.published):
            raise ValueError("a row needs a method, a baseline, or a published row")
        if (self.over or self.small_over) and not (self.method or self.small):
            raise ValueError("over changes keys of a method: name the method")
        return self

    def method_of(self, small: bool) -> str | None:
        """The method that is run, on the scenes of a set (``small``) or on the table's own."""
        return (self.small or self.method) if small else self.method

    def over_of(self, small: bool) -> dict[str, Any]:
        """The keys of its file that the variant changes."""
        return self.small_over if small and self.small_over is not None else self.over


class PublishedTable(Strict):
    """Where the published numbers of a table are found (config/papers)."""

    paper: str
    table: str
    columns: dict[str, dict[str, str]] = Field({}, description="scene, scene/condition, mean or * -> metric -> column")


class PublishedCell(Strict):
    """One published number."""

    paper: str
    table: str
    row: str
    column: str


class Claim(Strict):
    """Something that a paper says, and the two rows that it is about."""

    id: RowId
    claim: str = Field(description="what the paper says, in a sentence")
    better: str = Field(description="row that is to be better")
    worse: str
    published: tuple[PublishedCell, ...] = Field((), description="the paper's numbers for it, the better one first")
    why: str = Field("", description="what to know of our experiment")


class TableConfig(Strict):
    """A table: rows by scenes and metrics, over seeds."""

    title: str
    about: str = ""
    scenes: tuple[str, ...] = Field(description="without @SET")
    sets: dict[str, tuple[str, ...]] | None = Field(None, description="name -> scenes; null: table_sets of config.yaml")
    seeds: tuple[int, ...] = Field((1,), min_length=1, description="of training and localization")
    metrics: tuple[str, ...] = Field(min_length=1)
    conditions: bool = Field(False, description="recall and medians by condition (day, night, room), beside all")
    mean: bool = Field(False, description="the mean over the scenes as well")
    over: dict[str, Any] = Field({}, description="keys that all its methods change, e.g. fewer steps")
    rows: tuple[TableRow, ...] = Field(min_length=1)
    published: PublishedTable | None = None
    claims: tuple[Claim, ...] = ()

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        for metric in metrics:
            if not METRIC.fullmatch(metric):
                raise ValueError(
                    f"no metric {metric!r}: recall@I (the scene's I-th threshold, from 0), median_t, median_r, map_mb, "
                    "mapping_min, training_min, query_ms"
                )
        return metrics

    @model_validator(mode="after")
    def _belongs_together(self) -> TableConfig:
        ids = [row.id for row in self.rows]
        for kind, names in (("rows", ids), ("claims", [claim.id for claim in self.claims])):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{kind}: {name} twice; give each an id of its own")
        for claim in self.claims:
            for name in (claim.better, claim.worse):
                if name not in ids:
                    raise ValueError(f"claims.{claim.id}: no row {name!r}; there are {', '.join(ids)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one twice; name each once")
        return self


class TableRun(Strict):
    """A measured cell group: one row on one scene with one seed."""

    row: str
    scene: str
    seed: int | None = Field(description="null: a baseline, which no seed varies")
    folder: str = Field(description="under results/SCENE")

    @property
    def path(self) -> str:
        """Of the run's folder, below results."""
        return f"{self.scene}/{self.folder}"


class TableScene(Strict):
    """What a table says of a scene."""

    name: str
    unit: str
    thresholds: tuple[tuple[float, float], ...]
    conditions: tuple[str, ...] = Field(description="of its queries; one alone is not told apart")
    synthetic: bool


class TableStage(Strict):
    """What writing a table reads."""

    name: str
    set: str | None
    table: TableConfig
    scenes: tuple[TableScene, ...]
    runs: tuple[TableRun, ...]
    form: Literal["tidy-1"] = "tidy-1"
