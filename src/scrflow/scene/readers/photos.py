"""Bare photos, posed by the SfM stage (scrflow/sfm/reconstruct.py)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap
from pydantic import Field

from scrflow.core.errors import ScrflowError
from scrflow.scene.checks import some
from scrflow.scene.colmap_model import View, copy_camera, read_model, views_of_model
from scrflow.scene.lists import files_below
from scrflow.scene.photo_files import camera_from_exif, list_photos
from scrflow.scene.readers import BARE, Collection, Found, Reader
from scrflow.storage.artifact import read_json, read_stamp

log = logging.getLogger("scrflow")


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
