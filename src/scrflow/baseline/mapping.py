"""The baseline's map: features and matches of mapping images, points on the known poses, and its file map.h5.

``names`` of the I mapping images; ``xyz`` [P, 3] float32, the points; of the O observations, ordered by image,
``start`` [I + 1] int64 (rows of image i: start[i] to start[i + 1]), ``point`` [O] int32, ``descriptors`` [O, D] uint8
or float16; for LightGlue ``pixels`` [O, 2] float32 and ``sizes`` [I, 2] int32; in ``retrieval`` the quantised index and
what describes a query. Attributes: the stamp, whose config says how to localize, ``format``, and ``weights`` (JSON,
name to SHA-256).
"""

import functools
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pycolmap
import torch

from scrflow.config import BaselineMapStage, MatchFeaturesConfig
from scrflow.core.device import device_for
from scrflow.core.errors import ScrflowError, full_disk_reported
from scrflow.core.parallel import mapped
from scrflow.core.progress import log, track
from scrflow.features.encoders import build_encoder
from scrflow.features.matching import PhotoFeatures, build_matcher, features_of_photos
from scrflow.features.retrieval import PhotoDescriber, Retriever
from scrflow.graph.covisibility import load_graph, neighbour_pairs
from scrflow.map.format import check_index, stage_config
from scrflow.pipeline.stages import code_of
from scrflow.scene.colmap_model import model_of_views
from scrflow.scene.model import Scene, load_scene
from scrflow.sfm.colmap_process import quiet_pycolmap
from scrflow.sfm.triangulate import summary, triangulate_matches, write_database
from scrflow.storage import artifact
from scrflow.storage.artifact import Stamp, read_stamp
from scrflow.storage.untrusted import check_whole
from scrflow.storage.weights import located

KIND = "baseline-map"
FORMAT = 1
_FIX = "delete it and run again (rule map_baseline)"
_DTYPES = {"uint8": np.dtype(np.uint8), "fp16": np.dtype(np.float16)}


@dataclass(frozen=True, eq=False)
class BaselineMap:
    """A map in memory; the module's docstring has the shapes."""

    config: BaselineMapStage
    names: tuple[str, ...]
    xyz: np.ndarray
    start: np.ndarray
    point: np.ndarray
    descriptors: np.ndarray
    pixels: np.ndarray | None
    sizes: np.ndarray | None
    retriever: Retriever
    weights: Mapping[str, str] = field(default_factory=dict)

    def image(self, row: int) -> tuple[PhotoFeatures, np.ndarray]:
        """Features of a mapping image that observe a point, and the points [n] (rows of ``xyz``)."""
        part = slice(int(self.start[row]), int(self.start[row + 1]))
        pixels = np.zeros((part.stop - part.start, 2), np.float32) if self.pixels is None else self.pixels[part]
        size = (0, 0) if self.sizes is None else (int(self.sizes[row, 0]), int(self.sizes[row, 1]))
        return PhotoFeatures(pixels, self.descriptors[part], size), self.point[part]


def write_map(path: Path, result: BaselineMap, weights: Mapping[str, str], stamp: Stamp) -> None:
    """Write map.h5; ``weights``: SHA-256 of the published weights that made it, by name."""
    with artifact.create_h5(path, stamp) as f:
        f.attrs["format"] = FORMAT
        f.attrs["weights"] = json.dumps(weights, sort_keys=True)
        f["names"] = list(result.names)
        for name in ("xyz", "start", "point", "descriptors", "pixels", "sizes"):
            values = getattr(result, name)
            if values is not None:
                f[name] = values
        retrieval = f.create_group("retrieval")  # created implicitly it would contain the time
        for name, tensor in result.retriever.tensors().items():
            retrieval[name] = tensor.numpy()


def load_map(path: Path) -> BaselineMap:
    """The map of a file; ScrflowError if it is damaged, of another version, or its parts do not fit together."""
    stamp = read_stamp(path, KIND)
    config = stage_config(BaselineMapStage, path, stamp, _FIX)
    with artifact.open_h5(path, KIND) as f:
        try:
            if f.attrs.get("format") != FORMAT:
                raise ScrflowError(f"{path}: map format {f.attrs.get('format')}, this scrflow reads {FORMAT}; {_FIX}")
            check_whole(f, path)
            result = _read(f, config)
            _check(result)
        except (KeyError, ValueError, TypeError, OSError, RuntimeError, AttributeError, IndexError) as error:
            raise ScrflowError(f"{path}: not a whole map: {' '.join(str(error).split())}; {_FIX}") from None
    return result


def _read(f: h5py.File, config: BaselineMapStage) -> BaselineMap:
    names = tuple(f["names"].asstr()[:].tolist())
    tensors: dict[str, torch.Tensor] = {}

    def take(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            tensors[name] = torch.from_numpy(item[:])

    f["retrieval"].visititems(take)
    whole = config.matcher.kind == "lightglue"
    return BaselineMap(
        config=config,
        names=names,
        **{name: f[name][:] for name in ("xyz", "start", "point", "descriptors")},
        pixels=f["pixels"][:] if whole else None,
        sizes=f["sizes"][:] if whole else None,
        retriever=Retriever.from_tensors(tensors, {"retrieval_names": json.dumps(names)}),
        weights=json.loads(f.attrs["weights"]),
    )


def _check(m: BaselineMap) -> None:
    """ValueError that names the first part that does not fit."""
    images, observations = len(m.names), len(m.point)
    wanted = {"xyz": (len(m.xyz), 3), "start": (images + 1,), "point": (observations,)}
    wanted["descriptors"] = (observations, *m.descriptors.shape[1:2])
    if m.pixels is not None:
        wanted |= {"pixels": (observations, 2), "sizes": (images, 2)}
    for name, shape in wanted.items():
        if getattr(m, name).shape != shape:
            raise ValueError(f"{name} is {list(getattr(m, name).shape)}, not {list(shape)}")
    if m.descriptors.dtype != _DTYPES[m.config.features.descriptors]:
        raise ValueError(f"descriptors are {m.descriptors.dtype}, not {m.config.features.descriptors}")
    if m.start[0] != 0 or m.start[-1] != observations or (np.diff(m.start) < 0).any():
        raise ValueError(f"start does not divide the {observations} observations")
    if observations and (m.point.min() < 0 or m.point.max() >= len(m.xyz)):
        raise ValueError(f"an observation is of none of the {len(m.xyz)} points")
    if not np.isfinite(m.xyz).all():
        raise ValueError("xyz has numbers that are not finite")
    for name in ("pixels", "descriptors"):
        values = getattr(m, name)
        if values is not None and values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"{name} have numbers that are not finite")
    index = {f"retrieval.{name}": tensor for name, tensor in m.retriever.tensors().items()}
    if any(tensor.is_floating_point() and not tensor.isfinite().all() for tensor in index.values()):
        raise ValueError("the index has numbers that are not finite")
    check_index(m.config.retrieval, m.config.retrieval_parts, index, images)
    if index:
        raise ValueError(f"{next(iter(index))} is not known")


_HELD = 256  # photos whose features stay in memory: pairs are sorted by their first image


def build_map(config: BaselineMapStage, scene: Path, graph: Path, retrieval: Path, out: Path, threads: int) -> None:
    """Write the map of a baseline; the covisibility ``graph`` gives the pairs to match. The same seed gives the same
    bytes with any ``threads``. ScrflowError if the inputs are of other mapping images, or no point can be
    triangulated."""
    torch.set_num_threads(threads)
    quiet_pycolmap()
    loaded = load_scene(scene)
    names = tuple(v.name for v in loaded.mapping)
    retriever, edges = Retriever.open(retrieval, names), load_graph(graph, names)
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        located() as weights,
        tempfile.TemporaryDirectory(dir=out.parent, prefix=".matching-") as folder,
        artifact.writing(out),
        full_disk_reported(out),
    ):
        features = _extract(config.features, loaded, Path(folder) / "features.h5", threads)
        # built to record which weights a query will need
        PhotoDescriber((config.retrieval, *config.retrieval_parts), retriever.description)
        pairs = neighbour_pairs(edges, config.neighbours)
        matches = _match(config, features, pairs, threads)
        model = _triangulate(config.seed, loaded, features, pairs, matches, Path(folder))
        result = _gathered(config, names, features, model, retriever)
    inputs = {"scene": scene / "scene.json", "graph": graph, "retrieval": retrieval}
    write_map(out, result, weights, Stamp.make(KIND, config, code_of("map_baseline", config), **inputs))
    log.info("map: %.2f MB, %d points, %d observations", out.stat().st_size / 1e6, len(result.xyz), len(result.point))


@dataclass(frozen=True)
class _Features:
    """Features of the mapping images, by row, from a file on disk."""

    pixels: list[np.ndarray]  # [N, 2] float32 of each image
    sizes: list[tuple[int, int]]  # of each photo
    at: Callable[[int], PhotoFeatures]
    dim: int


def _extract(config: MatchFeaturesConfig, scene: Scene, path: Path, threads: int) -> _Features:
    encoder = build_encoder(config.extractor, device_for())
    count = len(scene.mapping)
    pixels, sizes = [], []
    with artifact.h5_file(path) as file:
        found = features_of_photos(scene.photo, [view.name for view in scene.mapping], encoder, config, threads)
        for i, features in enumerate(track(found, "features of mapping images", count)):
            file[str(i)] = features.descriptors
            pixels.append(features.pixels)
            sizes.append(features.size)

    @functools.lru_cache(_HELD)
    def at(i: int) -> PhotoFeatures:
        with h5py.File(path, "r") as file:
            return PhotoFeatures(pixels[i], file[str(i)][:], sizes[i])

    return _Features(pixels, sizes, at, encoder.dim)


def _match(
    config: BaselineMapStage, features: _Features, pairs: list[tuple[int, int]], threads: int
) -> list[np.ndarray]:
    """Matched keypoints [M, 2] of each pair."""
    matcher = build_matcher(config.matcher, features.dim)
    # one thread reads the features of all pairs: neither HDF5 nor the cache needs to be thread-safe
    read = ((features.at(i), features.at(j)) for i, j in pairs)
    found = mapped(lambda pair: matcher(*pair), read, threads, matcher.side_by_side)
    return list(track(found, "matching pairs", len(pairs)))


def _triangulate(
    seed: int, scene: Scene, features: _Features, pairs: list[tuple[int, int]], matches: list[np.ndarray], work: Path
) -> pycolmap.Reconstruction:
    model = model_of_views(scene.mapping)
    database = work / "database.db"
    write_database(model, database)
    with pycolmap.Database.open(database) as db:
        ids = [db.read_image_with_name(view.name).image_id for view in scene.mapping]
        for i, pixels in zip(ids, features.pixels, strict=True):
            db.write_keypoints(i, pixels)
        for (i, j), found in zip(pairs, matches, strict=True):
            db.write_matches(ids[i], ids[j], found.astype(np.uint32))
    model, verified = triangulate_matches(database, scene, model, work, len(pairs), seed)
    summary(model, len(pairs), verified)
    return model


def _gathered(
    config: BaselineMapStage,
    names: tuple[str, ...],
    features: _Features,
    model: pycolmap.Reconstruction,
    retriever: Retriever,
) -> BaselineMap:
    """The map: points, and the features that observe one."""
    ids = np.array(sorted(model.points3D), np.uint64)
    xyz = np.array([model.point3D(int(i)).xyz for i in ids], np.float32)
    images = {model.image(i).name: model.image(i) for i in model.reg_image_ids()}
    rows, points = [], []
    for name in names:
        observed = np.array(images[name].get_observation_point2D_idxs(), np.int64)
        seen = np.array([p.point3D_id for p in images[name].get_observation_points2D()], np.uint64)
        rows.append(observed)
        points.append(np.searchsorted(ids, seen).astype(np.int32))
    whole = config.matcher.kind == "lightglue"  # it uses positions of keypoints, too
    return BaselineMap(
        config=config,
        names=names,
        xyz=xyz,
        start=np.cumsum([0, *map(len, rows)]),
        point=np.concatenate(points),
        descriptors=np.concatenate([features.at(i).descriptors[observed] for i, observed in enumerate(rows)]),
        pixels=np.concatenate([p[r] for p, r in zip(features.pixels, rows, strict=True)]) if whole else None,
        sizes=np.array(features.sizes, np.int32) if whole else None,
        retriever=retriever,
    )
