"""A COLMAP model (bin or text) with an image folder."""

from __future__ import annotations

from pathlib import Path

from scrflow.config import ColmapSource
from scrflow.scene.checks import check_unique
from scrflow.scene.colmap_model import read_model, views_of_model
from scrflow.scene.readers import Collection, SourceImage


def read(source: ColmapSource, root: Path, sfm_model: Path | None = None) -> Collection:
    """The registered images of the model, cameras and distortion as they are.

    Queries may be in the model (their poses are the reference) or only in the query list, with their intrinsics there.
    """
    folder = root / source.model
    model = read_model(folder)
    views = views_of_model(model)
    check_unique((v.name for v in views), str(folder))
    images = tuple(SourceImage(v.name, v.camera, v.cam_from_world) for v in views)
    return Collection(folder, root / source.images, images, model=model)
