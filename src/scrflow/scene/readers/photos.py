"""Bare photos, posed by the SfM stage (scrflow/sfm.py)."""

from __future__ import annotations

from pathlib import Path

from scrflow.artifacts import read_stamp
from scrflow.config import PhotosSource
from scrflow.errors import ScrflowError
from scrflow.scene.model import copy_camera, read_model, views_of_model
from scrflow.scene.photo_files import guessed_camera, list_photos
from scrflow.scene.readers.base import Collection, SourceImage


def read(source: PhotosSource, root: Path, sfm_model: Path | None = None) -> Collection:
    """All photos of the folder: the registered ones posed, the others with intrinsics alone (the shared camera's, or
    from EXIF). With ``queries_in_sfm: false`` the queries were kept out of SfM and are among the latter."""
    if sfm_model is None:
        raise ScrflowError("reader photos: no SfM model given; run the sfm stage first (snakemake does)")
    folder = root / source.images
    stamp = read_stamp(sfm_model / "sfm.json", "sfm")
    model = read_model(sfm_model)
    views = {v.name: v for v in views_of_model(model)}
    names = list_photos(folder)
    gone = sorted(set(views) - set(names))
    if gone:
        raise ScrflowError(f"{folder / gone[0]}: image is missing, but is in the SfM model; run the sfm stage again")
    shared = next(iter(views.values())).camera if source.single_camera else None
    images = []
    left_out = {}
    for name in names:
        if name in views:
            images.append(SourceImage(name, views[name].camera, views[name].cam_from_world))
        else:
            camera = copy_camera(shared) if shared is not None else guessed_camera(folder / name, source.camera_model)
            images.append(SourceImage(name, camera, None))
            left_out[name] = "not registered by SfM"
    return Collection(sfm_model, folder, tuple(images), model=model, inputs={"sfm": stamp.digest}, left_out=left_out)
