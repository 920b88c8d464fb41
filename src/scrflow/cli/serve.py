"""The command that serves maps over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scrflow.cli import Device


def serve(
    maps: Annotated[list[Path], typer.Argument(metavar="MAP...", help="Maps (map.safetensors).")],
    host: Annotated[str, typer.Option(help="Address to listen on; beyond this machine it needs --token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="SCRFLOW_TOKEN", help="Clients send it: Authorization: Bearer TOKEN.")
    ] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="With --host: anyone may use the service.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Photos localized at a time, a process each. Default: processors, up to 4."),
    ] = None,
    queue: Annotated[int, typer.Option(min=0, help="Photos that may wait; further ones get status 503.")] = 16,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a photo, waiting included.")] = 30,
    device: Device = None,
) -> None:
    """Serve maps over HTTP, with a page that localizes photos.

    Example: scrflow serve results/demo/landmarks/map.safetensors

    Example: curl -F photo=@photo.jpg http://127.0.0.1:8000/localize
    """
    import os

    from scrflow.serve.app import serve as run

    workers = workers or min(4, os.cpu_count() or 1)
    run(tuple(maps), host, port, token, no_token, workers, queue, timeout, device)
