"""config/tables: what stands in a table, and the claims that are judged by one.

config/papers/NAME.yaml: published numbers, each with paper, table, row, column and unit, as printed.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from scrflow.config.base import Strict, read_yaml, validate
from scrflow.core.errors import ScrflowError

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
    def _is_something(self) -> Self:
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
    def _belongs_together(self) -> Self:
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


# ------------------------------------------------------------------------------------------------------------- papers

Unit = Literal["%", "MB", "m", "cm", "deg", "px", "h", "min", "s", "ms", "GPUs", "samples/s", "times"]


@dataclass(frozen=True)
class Published:
    """One published number. ``source`` names paper and table; ``printed`` is as the paper prints it: "64.0", "~200"."""

    value: float
    unit: str
    source: str
    printed: str


class PaperCell(Strict):
    """A number of a table, and how it is written: "64.0", "~200"."""

    value: float = Field(ge=0, allow_inf_nan=False)
    printed: str


def _cell(given: Any) -> Any:
    """``98.5`` or ``"~200"`` as the fields of a PaperCell."""
    if isinstance(given, bool):
        raise ValueError(f"{given} is no number; an empty cell is null")
    if isinstance(given, int | float):
        return {"value": given, "printed": str(given)}
    if isinstance(given, str):
        try:
            return {"value": float(given.removeprefix("~")), "printed": given}
        except ValueError:
            raise ValueError(f"{given!r} is no number; a rough one is written ~200, an empty cell null") from None
    return given


class ColumnConfig(Strict):
    """A column of a published table."""

    unit: Unit
    meaning: str = Field(min_length=1, description="what is counted: data, pose set, threshold")


class PaperTableConfig(Strict):
    """A table or figure of a paper, or values of its text that belong together."""

    name: str = Field(min_length=1, description="as cited after the paper's name: Table 1")
    about: str = Field(min_length=1, description="what it shows, and what was turned or split from how it is printed")
    read: str = Field(min_length=1, description="where it was read, with page or version if known")
    columns: dict[str, ColumnConfig] = Field(min_length=1)
    rows: dict[str, tuple[Annotated[PaperCell, BeforeValidator(_cell)] | None, ...]] = Field(
        min_length=1, description="name -> numbers in the columns' order; null: printed nowhere, or not at hand"
    )
    notes: dict[str, str] = Field(default_factory=dict, description="row -> what must be known to read it")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for row, cells in self.rows.items():
            if len(cells) != len(self.columns):
                fault = f"{len(cells)} cells for {len(self.columns)} columns"
                raise ValueError(f"row {row!r} has {fault}; write null for empty ones")
            for (name, column), cell in zip(self.columns.items(), cells, strict=True):
                if column.unit == "%" and cell is not None and cell.value > 100:
                    raise ValueError(f"row {row!r}, column {name!r}: {cell.value} %; write at most 100")
        if strangers := self.notes.keys() - self.rows:
            raise ValueError(f"notes of {', '.join(sorted(strangers))}: no such row; name one of rows")
        return self


class PaperConfig(Strict):
    """config/papers/NAME.yaml."""

    name: str = Field(min_length=1, description="as cited: GLACE")
    title: str
    authors: str
    venue: str
    arxiv: str | None = Field(None, pattern=r"^\d{4}\.\d{4,5}(v\d+)?$")
    read: str = Field(min_length=1, description="the text that the numbers were taken from, and which version of it")
    not_at_hand: tuple[str, ...] = Field((), description="what the paper reports and this file does not hold")
    tables: dict[str, PaperTableConfig] = Field(default_factory=dict)


@dataclass(frozen=True)
class Papers:
    """All published numbers, by paper (the file's name without .yaml), table, row and column."""

    folder: Path
    papers: dict[str, PaperConfig]

    def table(self, paper: str, table: str) -> tuple[PaperConfig, PaperTableConfig]:
        """A table and its paper; ScrflowError listing the known papers or tables if there is none."""
        config = _known(self.papers, paper, f"{self.folder}: no paper")
        return config, _known(config.tables, table, f"{self.folder / paper}.yaml: no table")

    def value(self, paper: str, table: str, row: str, column: str) -> Published | None:
        """The number, None for an empty cell; ScrflowError naming the known papers, tables, rows or columns."""
        of, config = self.table(paper, table)
        where = f"{self.folder / paper}.yaml: table {table}: no"
        cells = _known(config.rows, row, f"{where} row")
        unit = _known(config.columns, column, f"{where} column").unit
        cell = cells[list(config.columns).index(column)]
        return None if cell is None else Published(cell.value, unit, f"{of.name} {config.name}", cell.printed)


def _known(options: dict[str, Any], name: str, complaint: str) -> Any:
    if name not in options:
        raise ScrflowError(f"{complaint} {name!r}; name one of {', '.join(options) or '(none)'}")
    return options[name]


def load_papers(folder: Path) -> Papers:
    """Every ``NAME.yaml`` of ``folder``, checked; ScrflowError naming file and key."""
    if not folder.is_dir():
        raise ScrflowError(f"{folder}: no such folder of published numbers; restore config/papers")
    files = sorted(folder.glob("*.yaml"))
    return Papers(folder, {path.stem: validate(PaperConfig, read_yaml(path), path) for path in files})
