"""Published numbers: ``config/papers/NAME.yaml``, each with paper, table, row, column and unit, as printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from scrflow.config.base import Strict, read_yaml, validate
from scrflow.core.errors import ScrflowError

Unit = Literal["%", "MB", "m", "cm", "deg", "px", "h", "min", "s", "ms", "GPUs", "samples/s", "times"]


@dataclass(frozen=True)
class Published:
    """One published number. ``source`` names paper and table; ``printed`` is as the paper prints it: "64.0", "~200"."""

    value: float
    unit: str
    source: str
    printed: str


class Cell(Strict):
    """A number of a table, and how it is written: "64.0", "~200"."""

    value: float = Field(ge=0, allow_inf_nan=False)
    printed: str


def _cell(given: Any) -> Any:
    """``98.5`` or ``"~200"`` as the fields of a Cell."""
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
    rows: dict[str, tuple[Annotated[Cell, BeforeValidator(_cell)] | None, ...]] = Field(
        min_length=1, description="name -> numbers in the columns' order; null: printed nowhere, or not at hand"
    )
    notes: dict[str, str] = Field(default_factory=dict, description="row -> what must be known to read it")

    @model_validator(mode="after")
    def _fits(self) -> PaperTableConfig:
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
