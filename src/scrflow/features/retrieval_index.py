"""The retrieval stage: describe the mapping images, quantise the descriptors, and measure what is found."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scrflow.config import ExtractorConfig, RetrievalConfig, RetrievalStage
from scrflow.core.device import device_for
from scrflow.core.errors import ScrflowError
from scrflow.core.progress import log, track
from scrflow.features import retrieval
from scrflow.features.descriptors import build_descriptor
from scrflow.features.encoders import build_encoder
from scrflow.features.networks import describe_photos, device_of
from scrflow.features.retrieval import KIND, Retriever, Whitening, aggregate, decoded
from scrflow.features.views import encode_photos
from scrflow.interop import hloc_files
from scrflow.pipeline.stages import code_of
from scrflow.scene.model import Scene, load_scene
from scrflow.storage import artifact
from scrflow.storage.artifact import Stamp

ANGLE_DEG = 30.0  # views within it (and near enough) look alike enough for one to serve as the other's hypothesis
_RANKS = (1, 10)
_ROWS = 1000  # images that are tried as queries, evenly spaced: the work grows with their number times all images
_NEIGHBOURS = 5  # frames of a video before and after an image; fewer of few images
_VOCABULARY_IMAGES = 256  # evenly spaced; their descriptors are held, so that no photo is encoded twice


@dataclass(frozen=True)
class _Described:
    """Mapping images in the scene's order."""

    descriptors: np.ndarray  # [images, dim] float32
    tensors: dict[str, torch.Tensor]  # what describes another photo
    keypoints: int = 0  # local descriptors of a photo that are aggregated
    inputs: dict[str, str] | None = None  # digests of files that took part
    queries: dict[str, np.ndarray] | None = None  # descriptors of the queries, where a file provides them


def build_retrieval(
    config: RetrievalStage,
    scene: Path,
    out: Path,
    model: Path,
    quality: Path,
    threads: int,
    part_descriptors: Sequence[Path] = (),
    part_models: Sequence[Path] = (),
) -> None:
    """Describe the mapping images of a scene artifact. ScrflowError for a missing or damaged file, or one without an
    image's descriptor.

    ``out`` gets the descriptors in hloc's HDF5 form (those of the queries too where they come from a file), ``model``
    the ``Retriever`` (safetensors; metadata ``keypoints``: how many local descriptors of a photo are aggregated),
    ``quality`` the result of ``measure`` (JSON). ``part_descriptors`` and ``part_models`` are such files of the
    features that a fusion joins.
    """
    import faiss

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    loaded = load_scene(scene)
    names = [v.name for v in loaded.mapping]
    r = config.retrieval
    if r.kind == "vlad":
        found = _vlad(r, config.extractor, config.seed, loaded, threads)
    elif r.kind == "network":
        found = _network(r, config.seed, loaded, threads)
    elif r.kind == "fusion":
        found = _fusion(r, config.seed, names, list(zip(part_descriptors, part_models, strict=True)))
    else:
        found = _from_file(r, scene, loaded)
    codebooks = retrieval.learn_codebooks(found.descriptors, r.pq_bytes, _seed(config.seed, "pq"))
    codes = retrieval.quantised(torch.from_numpy(found.descriptors), codebooks)
    retriever = Retriever(tuple(names), codebooks, codes, found.tensors)

    inputs = {"scene": loaded.stamp.digest, **(found.inputs or {})}
    stamp = Stamp.make(KIND, config, code_of("build_retrieval", config), **inputs)
    with artifact.create_h5(out, stamp) as f:
        hloc_files.write_descriptors(f, dict(zip(names, found.descriptors, strict=True)) | (found.queries or {}))
    artifact.write_safetensors(
        model, retriever.tensors(), stamp, {**retriever.metadata(), "keypoints": str(found.keypoints)}
    )
    poses = np.stack([v.cam_from_world for v in loaded.mapping])
    result = measure(retriever, found.descriptors, poses, config.near, found.queries, loaded.query_poses)
    artifact.write_json(quality, {"unit": loaded.unit, **result}, stamp)
    log.info("retrieval: %d images, %d dimensions, model of %.2f MB", len(names), result["dim"], result["model_mb"])


def _vlad(r: RetrievalConfig, extractor: ExtractorConfig | None, seed: int, scene: Scene, threads: int) -> _Described:
    encoder = build_encoder(extractor, device_for())

    def local(images: list[int], what: str) -> Iterator[torch.Tensor]:
        views = encode_photos(scene, track(images, what), encoder, extractor.short_side, r.keypoints, threads)
        return (view.descriptors for view in views)

    count = len(scene.mapping)
    sample = np.unique(np.linspace(0, count - 1, min(count, _VOCABULARY_IMAGES)).round().astype(int)).tolist()
    held = list(local(sample, "visual words"))
    pooled = torch.cat(held).cpu().numpy()
    if len(pooled) == 0:
        raise ScrflowError(
            f"{scene.folder}: encoder {extractor.name} finds no keypoint in any of {len(sample)} mapping images; "
            "are they blank? Take other images, or another encoder"
        )
    vocabulary = retrieval.learn_vocabulary(pooled, r.clusters, _seed(seed, "vocabulary"))
    words = vocabulary.to(device_of(encoder))
    rows = {i: aggregate(found, words).cpu().numpy() for i, found in zip(sample, held, strict=True)}
    rest = [i for i in range(count) if i not in rows]
    for i, found in zip(rest, local(rest, "retrieval features"), strict=True):
        rows[i] = aggregate(found, words).cpu().numpy()
    descriptors, whitening = _whitened(np.stack([rows[i] for i in range(count)]), r.dim, seed)
    return _Described(descriptors, {"vocabulary": vocabulary, **whitening.tensors()}, r.keypoints)


def _network(r: RetrievalConfig, seed: int, scene: Scene, threads: int) -> _Described:
    network = build_descriptor(r.network, r.options, device_for())
    photos = (view.name for view in track(scene.mapping, "retrieval features"))
    rows = [row.numpy() for row in describe_photos(network, scene.photo, photos, threads)]
    descriptors, whitening = _whitened(np.stack(rows), r.dim, seed)
    return _Described(descriptors, whitening.tensors())


def _fusion(r: RetrievalConfig, seed: int, names: list[str], parts: Sequence[tuple[Path, Path]]) -> _Described:
    if len(parts) != len(r.parts):
        raise ScrflowError(f"fusion of {', '.join(r.parts)}: {len(parts)} parts were given; give the files of each")
    tensors: dict[str, torch.Tensor] = {}
    inputs: dict[str, str] = {}
    rows = []
    keypoints = 0
    for i, (descriptors, model) in enumerate(parts):
        inputs[f"part{i}"] = artifact.read_stamp(descriptors, KIND).digest
        part = Retriever.open(model, names)
        keypoints = max(keypoints, int(artifact.read_safetensors_metadata(model)["keypoints"]))
        tensors |= {f"part{i}.{name}": tensor for name, tensor in part.description.items()}
        rows.append(torch.from_numpy(hloc_files.read_descriptors(descriptors, names)))
    descriptors, whitening = _whitened(retrieval.joined(rows, r.weights).numpy(), r.dim, seed)
    return _Described(descriptors, tensors | whitening.tensors(), keypoints, inputs=inputs)


def _from_file(r: RetrievalConfig, folder: Path, scene: Scene) -> _Described:
    # the stage's folder is results/SCENE/scene
    path = Path(str(r.file).replace("{scene}", Path(folder).resolve().parent.name))
    count, queries = len(scene.mapping), [q.name for q in scene.queries]
    rows = hloc_files.read_descriptors(path, [v.name for v in scene.mapping] + queries)
    inputs = {"file": artifact.sha256_file(path)[:16]}
    return _Described(rows[:count], {}, inputs=inputs, queries=dict(zip(queries, rows[count:], strict=True)))


def _whitened(rows_NV: np.ndarray, dim: int | None, seed: int) -> tuple[np.ndarray, Whitening]:
    """Descriptors [N, d] float32 after a whitening learnt on them; as they are without ``dim``."""
    if dim is None:
        return rows_NV, Whitening()
    whitening = Whitening(*retrieval.learn_whitening(rows_NV, dim, np.random.default_rng(_seed(seed, "whitening"))))
    return whitening(torch.from_numpy(rows_NV)).numpy(), whitening


def _seed(seed: int, name: str) -> int:
    """A seed of its own for each use, within the 31 bits that faiss takes."""
    return (seed * 1_000_003 + zlib.crc32(f"retrieval.{name}".encode())) % (2**31 - 1)


def measure(
    retriever: Retriever,
    vectors_ND: np.ndarray,
    poses_N34: np.ndarray,
    near: float,
    queries: dict[str, np.ndarray] | None = None,
    query_poses: dict[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Sizes, and recalls of mapping images (leave-one-out) and of described queries.

    ``vectors_ND`` are the mapping images' descriptors before quantisation, ``poses_N34`` their cam_from_world. An image
    counts as found within ``near`` (scene units) and ANGLE_DEG. ``queries`` holds descriptors by name, ``query_poses``
    the poses of some of them. The result:

    ``quantised_vs_exact``: the shares of the nearest image (recall@1) and of the ten nearest (recall@10) that both
    searches have in common. ``by_pose``: of the quantised search, recall@k, the share of images with a near one among
    k, and precision@10, the share of near ones among ten; images without any near one are not counted (``without``). Of
    a mapping image's neighbours in the order of names, ``skipped`` before and after are no candidates: frames of a
    video would find each other.
    """
    exact = torch.from_numpy(np.ascontiguousarray(vectors_ND, np.float32))
    coded = decoded(retriever)[:, : exact.shape[1]]
    count = len(exact)
    rows = torch.from_numpy(np.unique(np.linspace(0, count - 1, min(count, _ROWS)).round().astype(int)))
    skipped = min(_NEIGHBOURS, count // 20)
    apart = (rows[:, None] - torch.arange(count)).abs()
    poses = torch.from_numpy(np.asarray(poses_N34, np.float64))
    compared = {"mapping": _agreement(exact[rows], exact, coded, apart > 0)}
    found = {"mapping": _found(exact[rows], poses[rows], coded, poses, near, apart > skipped) | {"skipped": skipped}}
    if queries:
        names = sorted(queries)
        vectors = torch.from_numpy(np.stack([queries[n] for n in names]).astype(np.float32))
        every = torch.ones(len(names), count, dtype=torch.bool)
        compared["queries"] = _agreement(vectors, exact, coded, every)
        posed = [i for i, n in enumerate(names) if n in (query_poses or {})]
        if posed:
            reference = torch.from_numpy(np.stack([query_poses[names[i]] for i in posed]))
            found["queries"] = _found(vectors[posed], reference, coded, poses, near, every[posed])
    tensors = retriever.tensors().values()
    return {
        "images": count,
        "dim": exact.shape[1],
        "bytes_per_image": retriever.codes.shape[1],
        "model_mb": round(sum(t.numel() * t.element_size() for t in tensors) / 1e6, 3),
        "near": {"distance": near, "angle_deg": ANGLE_DEG},
        "quantised_vs_exact": compared,
        "by_pose": found,
    }


def _ranked(
    vectors: torch.Tensor, database: torch.Tensor, allowed: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [Q, k] of the nearest allowed candidates, and whether there are so many [Q, k]."""
    distance = torch.cdist(vectors, database).masked_fill(~allowed, torch.inf)
    value, index = distance.topk(min(k, len(database)), largest=False)
    return index, value.isfinite()


def _agreement(
    vectors: torch.Tensor, exact: torch.Tensor, coded: torch.Tensor, allowed: torch.Tensor
) -> dict[str, Any]:
    (a, there), (b, _) = (_ranked(vectors, database, allowed, max(_RANKS)) for database in (exact, coded))
    out: dict[str, Any] = {"count": len(vectors)}
    for k in _RANKS:
        same = (a[:, :k, None] == b[:, None, :k]).any(2) & there[:, :k]
        out[f"recall@{k}"] = _share(same.sum(), there[:, :k].sum())
    return out


def _found(
    vectors: torch.Tensor,
    poses: torch.Tensor,
    coded: torch.Tensor,
    database_poses: torch.Tensor,
    near: float,
    allowed: torch.Tensor,
) -> dict[str, Any]:
    centres = [-torch.einsum("nij,ni->nj", p[:, :, :3], p[:, :, 3]) for p in (poses, database_poses)]
    trace = torch.einsum("qij,nij->qn", poses[:, :, :3], database_poses[:, :, :3])
    alike = (trace - 1) / 2 >= np.cos(np.radians(ANGLE_DEG))
    good = (torch.cdist(*centres) <= near) & alike & allowed
    possible = good.any(1)
    index, there = _ranked(vectors, coded, allowed, max(_RANKS))
    hit = (good.gather(1, index) & there)[possible]
    out: dict[str, Any] = {"count": int(possible.sum()), "without": int((~possible).sum())}
    for k in _RANKS:
        out[f"recall@{k}"] = _share(hit[:, :k].any(1).sum(), len(hit))
    out[f"precision@{max(_RANKS)}"] = _share(hit.sum(), there[possible].sum())
    return out


def _share(part: Any, whole: Any) -> float | None:
    return round(float(part) / float(whole), 4) if float(whole) else None
