"""COLMAP models with their photos: given, or made of bare photos by the SfM stage (scrflow/sfm/reconstruct.py)."""

import logging
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap
from pydantic import Field

from scrflow.core.errors import ScrflowError
from scrflow.scene.checks import check_unique, some
from scrflow.scene.colmap_model import View, copy_camera, read_model, views_of_model
from scrflow.scene.lists import PhotoNames, files_below
from scrflow.scene.photo_files import camera_from_exif, list_photos
from scrflow.scene.readers import BARE, MODEL, Collection, Found, Reader, has
from scrflow.scene.readers.shared import LOOKED_AT, model_and_images, walk
from scrflow.storage.artifact import read_json, read_stamp
from scrflow.storage.listfile import open_text

log = logging.getLogger("scrflow")


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


class PhotosSource(Reader):
    """Bare photos: structure from motion finds poses and intrinsics."""

    reader: Literal["photos"]
    images: str = "images"
    camera_model: str = "SIMPLE_RADIAL"
    single_camera: bool = Field(True, description="all photos share intrinsics (one phone, no zoom)")
    queries_in_sfm: bool = Field(True, description="query photos are registered too and get SfM poses as reference")

    def files(self, root: Path) -> list[Path]:
        return sorted(files_below(root / self.images))

    def has_points(self, root: Path) -> bool:
        return True  # structure from motion makes them

    @classmethod
    def detect(cls, path: Path) -> Found | None:
        try:
            names = list_photos(path)
        except ScrflowError:
            return None
        below = {name.partition("/")[0] for name in names}
        folder = below.pop() if len(below) == 1 else "."
        source = {"reader": "photos", "images": folder if (path / folder).is_dir() else "."}
        return Found("photos", path, source, f"{len(names)} photos, no poses", "unit", BARE)

    def read(self, root: Path, sfm_model: Path | None = None) -> Collection:
        """All photos of the folder: the registered ones posed, the others with intrinsics alone.

        Those are the shared camera's, or with ``single_camera: false`` from EXIF, else those of registered photos of
        the same size, else a guess.
        """
        if sfm_model is None:
            raise ScrflowError("reader photos: no SfM model given; run the sfm stage first (snakemake does)")
        folder = root / self.images
        stamp = read_stamp(sfm_model / "sfm.json", "sfm")
        model = read_model(sfm_model)
        views = {v.name: v for v in views_of_model(model)}
        names = list_photos(folder)
        gone = sorted(set(views) - set(names))
        if gone:
            raise ScrflowError(
                f"{folder / gone[0]}: image is missing, but is in the SfM model; run the sfm stage again"
            )
        others = [name for name in names if name not in views]
        cameras, guessed = _cameras_of_others(self, folder, others, tuple(views.values()))
        images = sorted([*views.values(), *(View(n, cameras[n], None) for n in others)], key=lambda image: image.name)
        return Collection(
            sfm_model,
            folder,
            tuple(images),
            model=model,
            inputs={"sfm": stamp.digest},
            left_out=dict.fromkeys(others, "not registered by SfM"),
            guessed=guessed,
            sha256=read_json(sfm_model / "sfm.json", "sfm").get("sha256", {}),
        )


def _cameras_of_others(
    source: PhotosSource, folder: Path, names: list[str], views: tuple[View, ...]
) -> tuple[dict[str, pycolmap.Camera], frozenset[str]]:
    """Cameras of the photos that SfM did not register, and the names of those whose focal length nothing tells."""
    if source.single_camera:
        return {name: copy_camera(views[0].camera) for name in names}, frozenset()
    cameras, alike, guessed = {}, [], []
    for name in names:
        camera, told = camera_from_exif(folder / name, source.camera_model)
        if told == "guess":
            same_size = [v.camera for v in views if (v.camera.width, v.camera.height) == (camera.width, camera.height)]
            if same_size:
                camera.params = np.median([c.params for c in same_size], axis=0)
            (alike if same_size else guessed).append(name)
        cameras[name] = camera
    if alike:
        log.warning(
            "%s: no focal length in EXIF of %d photos, which take the median camera of the registered ones of their "
            "size: %s",
            *(folder, len(alike), some(alike)),
        )
    if guessed:
        log.warning("%s: the camera of %d photos is a guess: %s", folder, len(guessed), some(guessed))
    return cameras, frozenset(guessed)
