"""A COLMAP model (bin or text) with an image folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from scrflow.config import Source
from scrflow.scene.checks import check_unique
from scrflow.scene.colmap_model import read_model, views_of_model
from scrflow.scene.readers import Collection


class ColmapSource(Source):
    """A COLMAP model (bin or text) with an image folder."""

    reader: Literal["colmap"]
    model: str = Field("model", description="folder with cameras, images, points3D (.bin or .txt), relative to root")
    images: str = Field("images", description="folder that the model's image names are relative to")

    def files(self, root: Path) -> list[Path]:
        parts = ("cameras", "images", "points3D", "rigs", "frames")
        return [root / self.model / f"{part}{end}" for part in parts for end in (".bin", ".txt")]

    def has_points(self, root: Path) -> bool:
        model = root / self.model
        if (model / "points3D.bin").is_file():
            return (model / "points3D.bin").stat().st_size > 8  # the number of points
        if not (model / "points3D.txt").is_file():
            return True  # still to be downloaded
        with open(model / "points3D.txt", encoding="utf-8") as f:
            return any(line.strip() and not line.startswith("#") for line in f)


SOURCE = ColmapSource


def read(source: ColmapSource, root: Path, sfm_model: Path | None = None) -> Collection:
    """The registered images of the model, cameras and distortion as they are.

    Queries may be in the model (their poses are the reference) or only in the query list, with their intrinsics there.
    """
    folder = root / source.model
    model = read_model(folder)
    views = views_of_model(model)
    check_unique((v.name for v in views), str(folder))
    return Collection(folder, root / source.images, views, model=model)
