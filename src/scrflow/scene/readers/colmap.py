"""A COLMAP model (bin or text) with an image folder."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Literal

from pydantic import Field

from scrflow.scene.checks import check_unique
from scrflow.scene.colmap_model import read_model, views_of_model
from scrflow.scene.lists import PhotoNames
from scrflow.scene.readers import MODEL, Collection, Found, Reader, has
from scrflow.scene.readers.shared import LOOKED_AT, model_and_images, walk
from scrflow.storage.listfile import open_text


class ColmapSource(Reader):
    """A COLMAP model (bin or text) with an image folder."""

    reader: Literal["colmap"]
    model: str = Field("model", description="folder with cameras, images and, if there are, points3D (.bin or .txt)")
    images: str = Field("images", description="folder that the model's image names are relative to")

    def files(self, root: Path) -> list[Path]:
        parts = ("cameras", "images", "points3D", "rigs", "frames")
        return [root / self.model / f"{part}{end}" for part in parts for end in (".bin", ".txt")]

    def has_points(self, root: Path) -> bool:
        model = root / self.model
        if (model / "points3D.bin").is_file():
            return (model / "points3D.bin").stat().st_size > 8  # the number of points
        if not (model / "points3D.txt").is_file():
            return not has(model, "cameras.*")  # still to be downloaded
        with open_text(model / "points3D.txt") as f:
            return any(line.strip() and not line.startswith("#") for line in f)

    @classmethod
    def detect(cls, path: Path) -> Found | None:
        def is_model(folder: Path) -> bool:
            return any(has(folder, f"cameras{end}", f"images{end}") for end in (".bin", ".txt"))

        models = [folder for folder in (path, *walk(path)) if folder.is_dir() and is_model(folder)]
        if not models:
            return None
        model = max(models, key=lambda m: max(p.stat().st_size for p in m.glob("images.*")))
        names = [image.name for image in islice(read_model(model).images.values(), LOOKED_AT)]
        others = f"; the largest of {len(models)} models" if len(models) > 1 else ""
        root, keys = model_and_images(path, model, names)
        return Found("COLMAP", root, {"reader": "colmap", **keys}, f"model in {keys['model']}{others}", "unit", MODEL)

    def read(self, root: Path) -> Collection:
        """The registered images of the model, cameras and distortion as they are.

        Queries may be in the model (their poses are the reference) or only in the query list, with intrinsics there.
        """
        folder = root / self.model
        model = read_model(folder)
        photos = PhotoNames(root / self.images)
        for image_id in model.reg_image_ids():
            image = model.image(image_id)
            image.name = photos.find(image.name, folder) or image.name
        views = views_of_model(model)
        check_unique((v.name for v in views), str(folder))
        return Collection(folder, root / self.images, views, model=model)
