"""JSON and JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from scrflow.cli.inspection.frame import frame_table
from scrflow.cli.inspection.layout import HEAD, ROWS, STAMP_KEY, grid_of_pairs, names_of, page, short, stamp_view
from scrflow.core.errors import ScrflowError
from scrflow.storage import checksum as seal


def show_json(path: Path) -> RenderableType:
    """Keys and values, nested ones as dotted keys."""
    values = json.loads(path.read_text(encoding="utf-8"))
    text = None
    if isinstance(values, dict) and isinstance(values.get(STAMP_KEY), dict):
        text = json.dumps({k: v for k, v in values.pop(STAMP_KEY).items() if k != seal.KEY})
    grid = grid_of_pairs()
    for key, value in values.items() if isinstance(values, dict) else [("list", values)]:
        _json_row(grid, str(key), value, depth=0)
    return page(path, "JSON", path.stat().st_size, stamp_view(text, path), grid)


def _json_row(grid: Table, key: str, value: Any, depth: int) -> None:
    if isinstance(value, dict) and depth < 2 and 0 < len(value) <= ROWS:
        for name, inner in value.items():
            _json_row(grid, f"{key}.{name}", inner, depth + 1)
        return
    if isinstance(value, dict):
        shown = f"{len(value)} keys: {names_of(map(str, value))}"
    elif isinstance(value, list) and len(value) > HEAD:
        shown = f"{len(value)} entries: {short(json.dumps(value[:HEAD])[1:-1], 200)} ..."
    else:
        shown = short(json.dumps(value), 300)
    grid.add_row(escape(key), escape(shown))


def show_json_lines(path: Path) -> RenderableType:
    """Columns of the records, and the last record. ScrflowError naming a line that is no object."""
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise ScrflowError(f"{path}: line {number} is no JSON ({error}); cut it off, or run again") from None
            if not isinstance(records[-1], dict):
                raise ScrflowError(f"{path}: line {number} is no JSON object; cut it off, or run again")
    frame = pd.DataFrame(records)
    grid = grid_of_pairs()
    grid.add_row("records", str(len(records)))
    grid.add_row("last", escape(short(json.dumps(records[-1]), 400)) if records else "")
    return page(path, "JSON lines", path.stat().st_size, grid, frame_table(frame))
