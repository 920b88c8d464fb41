"""Scene and graph artifacts of what a test made up."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pycolmap
import scipy.sparse
from PIL import Image

from scrflow.config import EvaluateStage
from scrflow.scene.colmap_model import View
from scrflow.scene.model import Query, write_scene
from scrflow.storage.artifact import Stamp, sha256_file, write_npz

CONFIG = EvaluateStage(thresholds=((0.05, 5.0),), unit="m", synthetic=True)  # the artifact only notes it


def scene_of(
    folder: Path,
    photos: Path,
    mapping: Sequence[View],
    queries: Sequence[Query] = (),
    query_poses: Mapping[str, np.ndarray] | None = None,
    model: pycolmap.Reconstruction | None = None,
) -> Path:
    """A scene in ``folder``, in metres; photos that are not there are made, grey."""
    for view in (*mapping, *queries):
        path = photos / view.name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (view.camera.width, view.camera.height), (90, 90, 90)).save(path)
    write_scene(
        folder,
        config=CONFIG,
        code="c",
        image_root=photos,
        unit="m",
        mapping=mapping,
        queries=queries,
        query_poses=query_poses or {},
        image_sha256={view.name: sha256_file(photos / view.name) for view in (*mapping, *queries)},
        model=model,
    )
    return folder


def centres_of(model: pycolmap.Reconstruction) -> dict[str, np.ndarray]:
    """Camera centres [3] by image name, sorted."""
    images = sorted((model.image(i) for i in model.reg_image_ids()), key=lambda image: image.name)
    return {image.name: image.projection_center() for image in images}


def write_graph(path: Path, csr: scipy.sparse.csr_array, names: Iterable[str]) -> Path:
    """A covisibility graph of images."""
    csr.sort_indices()
    arrays = {"data": csr.data, "indices": csr.indices, "indptr": csr.indptr, "shape": np.array(csr.shape)}
    write_npz(path, {**arrays, "names": np.array(list(names))}, Stamp("covisibility"))
    return path
