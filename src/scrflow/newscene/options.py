"""What a person says of a new scene."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from scrflow.config import Strict


class NewScene(Strict):
    """The options of ``scrflow new-scene``; what is None is found out."""

    name: str
    path: Path
    form: str | None = None
    queries: Path | None = None
    every: int | None = Field(None, ge=2)
    outdoor: bool = False
    unit: str | None = None
    single_camera: bool | None = None
    skip_missing: bool = False
    guess_cameras: bool = False
    method: str | None = None
    licence: str = "of the owner of the photos"
    description: str | None = None
