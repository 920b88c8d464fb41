"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigDir = Annotated[Path, typer.Option("--config", help="Folder of the config.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda if there is one.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Default: all processors.")]
