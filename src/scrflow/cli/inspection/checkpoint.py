"""Torch checkpoints and other zip archives."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from rich.console import RenderableType

from scrflow.cli.inspection.layout import grid_of_pairs, page, size_of
from scrflow.core.errors import ScrflowError


def show_checkpoint(path: Path) -> RenderableType:
    """A torch checkpoint is a pickle, and unpickling runs what is in it: only the archive's entries are listed."""
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as f:
            pickle = f.read(1) == b"\x80"
        if not pickle:
            raise ScrflowError(f"{path}: damaged: neither a torch archive nor a pickle; delete it and run again")
        kind = "pickle (an old torch checkpoint, say; not opened, as that runs code in it)"
        return page(path, kind, path.stat().st_size)
    with zipfile.ZipFile(path) as z:
        entries = z.infolist()
        if bad := z.testzip():
            raise ScrflowError(f"{path}: damaged: entry {bad} has a wrong checksum; delete it and run again")
    data = [e for e in entries if re.search(r"/data/\d+$", e.filename)]
    grid = grid_of_pairs()
    size = size_of(sum(e.file_size for e in data))
    grid.add_row("entries", f"{len(entries)}, {len(data)} of them tensors, {size} together")
    kind = "torch checkpoint (a pickle: not opened, as that runs code in it)" if data else "zip archive"
    return page(path, kind, path.stat().st_size, grid)
