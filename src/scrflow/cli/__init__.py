"""The command line: one module for each group of commands, put together in app; here the options that several have."""

import os
from pathlib import Path
from typing import Annotated

import typer

ConfigDir = Annotated[Path, typer.Option("--config", help="Folder of the config.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps; auto: cuda if there is one.")]
Threads = Annotated[int, typer.Option(min=1, help="Default: all processors.", show_default=False)]
ALL = os.cpu_count() or 1
