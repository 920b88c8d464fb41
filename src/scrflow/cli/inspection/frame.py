"""Tables: CSV, TSV, and records alike."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from scrflow.cli.inspection.layout import array_table, grid_of_pairs, names_of, page
from scrflow.cli.inspection.ranges import Range


def show_table(path: Path, separator: str) -> RenderableType:
    """Columns of a CSV or TSV file."""
    frame = pd.read_csv(path, sep=separator)
    grid = grid_of_pairs()
    grid.add_row("rows", str(len(frame)))
    return page(path, "table", path.stat().st_size, grid, frame_table(frame))


def frame_table(frame: pd.DataFrame) -> Table:
    """Ranges of numbers, and the distinct values of text."""
    table = array_table("column", "dtype", "min", "mean", "max", "")
    for name in frame.columns:
        column = frame[name]
        if pd.api.types.is_numeric_dtype(column):  # bool is one
            found = Range()
            found.add(column.to_numpy())
            table.add_row(escape(str(name)), str(column.dtype), *found.cells())
        else:
            values = column.dropna().astype(str)
            missing = f", {len(column) - len(values)} missing" if len(values) < len(column) else ""
            distinct = list(dict.fromkeys(values))
            remark = f"{len(distinct)} distinct: {names_of(distinct)}{missing}"
            table.add_row(escape(str(name)), "text", "", "", "", escape(remark))
    return table
