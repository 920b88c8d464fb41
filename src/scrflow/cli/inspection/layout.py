"""How a page of an inspection looks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from scrflow.core.errors import ScrflowError
from scrflow.storage.artifact import Stamp
from scrflow.storage.checksum import what_is_broken

STAMP_KEY = "scrflow"
HEAD = 5  # names shown of a long list
ROWS = 24  # entries shown one by one


def page(path: Path, kind: str, size: int, *parts: RenderableType | None) -> Group:
    """Title, kind and size of a file, and what is in it."""
    title = Text(str(path), style="bold")
    return Group(title, Text(f"{kind}, {size_of(size)}"), *(p for p in parts if p is not None))


def stamp_view(text: str | None, path: Path) -> RenderableType:
    """Who made the file: its stamp, or that it has none."""
    if text is None:
        return Text("no stamp: not written by scrflow, or of a form fixed by others")
    stamp = Stamp.from_json(text, path)
    table = grid_of_pairs()
    table.add_row("kind", escape(stamp.kind))
    table.add_row("stamp", f"{stamp.digest} (schema {stamp.schema}, code {stamp.code or 'not given'})")
    table.add_row("config", escape(short(json.dumps(stamp.config), 600)))
    broken = what_is_broken(path)
    table.add_row("content", broken or "as it was written (SHA-256)", style="red" if broken else None)
    table.add_row("inputs", escape(", ".join(f"{k} {v}" for k, v in stamp.inputs.items())) or "none")
    return table


def grid_of_pairs() -> Table:
    """Lines of a name and a value."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def array_table(*columns: str) -> Table:
    """Table with a line an array or column."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        number = column in ("min", "mean", "max", "count")
        table.add_column(column, overflow="fold", justify="right" if number else "left")
    return table


def size_of(count: int) -> str:
    """Bytes in a unit that is easily read."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} bytes"


def short(text: str, limit: int = 100) -> str:
    """One line, cut off at ``limit`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 4] + " ..."


def names_of(names: Iterable[str]) -> str:
    """The first names of many, and how many more there are."""
    names = list(names)
    more = f" ... and {len(names) - HEAD} more" if len(names) > HEAD else ""
    return short(", ".join(names[:HEAD]), 400) + more


def number(value: float) -> str:
    """Five digits."""
    return f"{value:.5g}"


def damaged(path: Path, error: Exception) -> ScrflowError:
    """The error of a file that a reader failed on."""
    message = " ".join(str(error).split()) or type(error).__name__
    return ScrflowError(f"{path}: damaged, or not what its name says ({message}); delete it and run again")
