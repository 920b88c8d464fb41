"""Retrieval: which mapping images show what a photo shows.

Photos are described by VLAD of their local descriptors, by a network, or by several joined. The stage describes the
mapping images and quantises the descriptors; a query is described likewise and compared with the quantised index.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import torch
import torch.nn.functional as F
from PIL import Image

from scrflow.config import ExtractorConfig, RetrievalConfig, RetrievalPart, RetrievalStage
from scrflow.core.errors import ScrflowError
from scrflow.core.parallel import mapped
from scrflow.core.progress import log, meter, track
from scrflow.features.descriptors import GlobalDescriptor, build_descriptor, describes_side_by_side
from scrflow.features.encoders import LocalEncoder, build_encoder, encodes_side_by_side
from scrflow.features.views import EncodedView, encode_view
from scrflow.interop import hloc_files
from scrflow.pipeline.stages import code_of
from scrflow.scene.colmap_model import View
from scrflow.scene.model import Scene, load_scene
from scrflow.storage.artifact import (
    Stamp,
    create_h5,
    read_safetensors,
    read_safetensors_metadata,
    read_stamp,
    sha256_file,
    write_json,
    write_safetensors,
)

KIND = "retrieval"
_INDEX = ("codebooks", "codes")
ENTRIES = 256  # one byte a part
# Times dimensions over images and the mean variance, it is added to each variance before whitening: with few images
# per dimension the small variances are chance. On redkitchen (180 images, XFeat, 32 words, 128 dimensions) 96 % of the
# ten retrieved images lie within 0.5 m and 30 degrees, 49 % without it.
_SHRINK = 10.0
_SVD_IMAGES = 2000
# local descriptors [N, D] of the photo at hand, by extractor and number of keypoints
LocalSource = Callable[[ExtractorConfig, int], torch.Tensor]
Tensors = Mapping[str, torch.Tensor]
Describer = Callable[[Image.Image, LocalSource], torch.Tensor]  # descriptor [dim] of unit length of a photo
# the network of a name, its options and a device
BuildNetwork = Callable[[str, dict[str, Any], str], GlobalDescriptor]
ANGLE_DEG = 30.0  # views within it (and near enough) look alike enough for one to serve as the other's hypothesis
_RANKS = (1, 10)
_ROWS = 1000  # images that are tried as queries, evenly spaced: the work grows with their number times all images
_NEIGHBOURS = 5  # frames of a video before and after an image; fewer of few images
_VOCABULARY_IMAGES = 256  # evenly spaced; their descriptors are held, so that no photo is encoded twice


@dataclass(frozen=True)
class Retriever:
    """A retrieval model: quantised mapping descriptors, and the tensors that describe a new photo."""

    names: tuple[str, ...]  # mapping images, in the scene's order
    codebooks: torch.Tensor  # [M, E, S] float16
    codes: torch.Tensor  # [images, M] uint8
    description: dict[str, torch.Tensor] = field(default_factory=dict)  # as build_describer reads it

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> Retriever:
        """What ``tensors()`` and ``metadata()`` gave; a missing one is a KeyError."""
        description = {name: tensor for name, tensor in tensors.items() if name not in _INDEX}
        names = tuple(json.loads(metadata["retrieval_names"]))
        return cls(names, tensors["codebooks"], tensors["codes"], description)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by name, as they are saved."""
        return {"codebooks": self.codebooks, "codes": self.codes, **self.description}

    def metadata(self) -> dict[str, str]:
        """The string metadata that belongs to the tensors."""
        return {"retrieval_names": json.dumps(self.names)}

    def search(self, descriptor: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows [k] int64 of the images nearest to ``descriptor`` [dim], the nearest first, and minus their squared
        distances."""
        distance = squared_distances(descriptor.to(self.codes.device), self.codes, self.codebooks)
        nearest = torch.argsort(distance, stable=True)[:k]
        return nearest, -distance[nearest]


def decoded(retriever: Retriever) -> torch.Tensor:
    """What the codes stand for, [N, dim] float32, with the zeros that fill the last part."""
    parts = torch.arange(len(retriever.codebooks))
    return retriever.codebooks.float()[parts, retriever.codes.long()].flatten(1)


def learn_codebooks(vectors_ND: np.ndarray, parts: int, seed: int) -> torch.Tensor:
    """Codebooks [M, E, S] float16 (product quantisation: Jegou, Douze and Schmid, TPAMI 2011).

    Vectors are cut in M = min(parts, D) parts of S numbers, zeros filling the last. Of more than 256 vectors faiss
    learns E = 256 centroids a part; up to 256, every vector is its own centroid (E = N), and the search is exact but
    for float16.
    """
    count, dim = vectors_ND.shape
    parts = min(parts, dim)
    size = -(-dim // parts)
    padded = np.zeros((count, parts * size), np.float32)
    padded[:, :dim] = vectors_ND
    if count <= ENTRIES:
        return torch.from_numpy(padded.reshape(count, parts, size)).transpose(0, 1).half().contiguous()
    import faiss

    quantiser = faiss.ProductQuantizer(parts * size, parts, 8)
    quantiser.cp.seed = seed
    quantiser.cp.min_points_per_centroid = 1  # small scenes have few images; faiss warns under 39 a centroid
    quantiser.train(padded)
    centroids = faiss.vector_to_array(quantiser.centroids).reshape(parts, ENTRIES, size)
    return torch.from_numpy(centroids.copy()).half()


def quantised(vectors_ND: torch.Tensor, codebooks_MES: torch.Tensor) -> torch.Tensor:
    """Codes [N, M] uint8: the nearest entry of each part."""
    parts, _, size = codebooks_MES.shape
    vectors = _pad(vectors_ND, parts * size).view(-1, parts, size).transpose(0, 1)  # [M, N, S]
    distance = torch.cdist(vectors, codebooks_MES.float(), compute_mode="donot_use_mm_for_euclid_dist")
    return distance.argmin(2).T.to(torch.uint8).contiguous()


def squared_distances(query_D: torch.Tensor, codes_NM: torch.Tensor, codebooks_MES: torch.Tensor) -> torch.Tensor:
    """Asymmetric squared distances [N]: the query as it is against the quantised vectors."""
    parts, _, size = codebooks_MES.shape
    query = _pad(query_D[None], parts * size).view(parts, 1, size)
    table = ((codebooks_MES.float() - query) ** 2).sum(2)  # [M, E]
    return table.gather(1, codes_NM.T.long()).sum(0)


def _pad(vectors_ND: torch.Tensor, dim: int) -> torch.Tensor:
    return F.pad(vectors_ND.float(), (0, dim - vectors_ND.shape[1]))


def learn_vocabulary(descriptors_ND: np.ndarray, clusters: int, seed: int) -> torch.Tensor:
    """Visual words [k, D] float32 by faiss k-means, k = min(clusters, N)."""
    import faiss

    x = np.ascontiguousarray(descriptors_ND, np.float32)
    clusters = min(clusters, len(x))
    limits = {"max_points_per_centroid": 1024, "min_points_per_centroid": 1}
    kmeans = faiss.Kmeans(x.shape[1], clusters, niter=20, seed=seed, **limits)
    kmeans.train(x)
    return torch.from_numpy(kmeans.centroids.copy())


def aggregate(descriptors_ND: torch.Tensor, vocabulary_KD: torch.Tensor) -> torch.Tensor:
    """VLAD [K * D] of one image, unit length: residuals summed per nearest word, each word's sum normalised."""
    x = descriptors_ND.float()
    nearest = (2 * x @ vocabulary_KD.T - (vocabulary_KD**2).sum(1)).argmax(1)
    sums = torch.zeros_like(vocabulary_KD).index_add_(0, nearest, x - vocabulary_KD[nearest])
    return F.normalize(F.normalize(sums, dim=1).reshape(-1), dim=0)


def learn_whitening(vlads_NV: np.ndarray, dim: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [V] float32 and matrix [d, V] float16 with d = min(dim, N - 1, V): the principal directions by falling
    variance over sqrt(variance + shrinkage), the largest factor 1."""
    if len(vlads_NV) > _SVD_IMAGES:
        vlads_NV = vlads_NV[np.sort(rng.choice(len(vlads_NV), _SVD_IMAGES, replace=False))]
    mean = vlads_NV.mean(0)
    _, singular, directions = np.linalg.svd(vlads_NV - mean, full_matrices=False)
    kept = max(1, min(dim, len(vlads_NV) - 1, vlads_NV.shape[1]))
    variance = singular[:kept] ** 2
    scale = 1 / np.sqrt(variance + _SHRINK * kept / len(vlads_NV) * variance.mean() + 1e-12)
    matrix = directions[:kept] * (scale / scale.max())[:, None]
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(matrix.astype(np.float16))


@dataclass(frozen=True)
class Whitening:
    """The PCA-whitening of a feature, if it has one: vectors [..., V] to unit vectors [..., dim]."""

    mean: torch.Tensor | None = None  # [V] float32
    matrix: torch.Tensor | None = None  # [dim, V] float16

    @classmethod
    def from_tensors(cls, tensors: Tensors) -> Whitening:
        """What ``tensors()`` gave; vectors pass as they are without a whitening among them."""
        return cls(tensors.get("whitening_mean"), tensors.get("whitening"))

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by name, as they are saved."""
        return {} if self.mean is None else {"whitening_mean": self.mean, "whitening": self.matrix}

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors if self.mean is None else F.normalize((vectors - self.mean) @ self.matrix.float().T, dim=-1)


def joined(vectors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Unit vectors [..., d_i], each times its weight, side by side; of unit length."""
    factors = weights or (1.0,) * len(vectors)
    return F.normalize(torch.cat([w * v for w, v in zip(factors, vectors, strict=True)], -1), dim=-1)


def build_describer(
    feature: RetrievalPart,
    tensors: Tensors,
    parts: Sequence[RetrievalPart] = (),
    device: str = "cpu",
    build: BuildNetwork = build_descriptor,
) -> Describer | None:
    """What describes a photo, from the ``description`` of a Retriever and the config that made it; None for kind hloc.
    ``parts`` are those of a fusion; networks, made by ``build``, run on ``device``."""
    r, whitening = feature.retrieval, Whitening.from_tensors(tensors)
    if r.kind == "vlad":
        vocabulary = tensors["vocabulary"]

        def describe(photo: Image.Image, local: LocalSource) -> torch.Tensor:
            return aggregate(local(feature.extractor, r.keypoints), vocabulary)

    elif r.kind == "network":
        network = build(r.network, r.options, device)

        def describe(photo: Image.Image, local: LocalSource) -> torch.Tensor:
            return network(photo)

    elif r.kind == "fusion":
        members = []
        for i, part in enumerate(parts):
            own = {name.removeprefix(f"part{i}."): t for name, t in tensors.items() if name.startswith(f"part{i}.")}
            members.append(build_describer(part, own, (), device, build))

        def describe(photo: Image.Image, local: LocalSource) -> torch.Tensor:
            return joined([member(photo, local) for member in members], r.weights)

    else:
        return None
    return lambda photo, local: whitening(describe(photo, local))


class PhotoDescriber:
    """A retrieval feature with the networks that it needs: descriptors [dim] of photos."""

    def __init__(
        self,
        features: Sequence[RetrievalPart],
        tensors: Tensors,
        device: str = "cpu",
        shared: ExtractorConfig | None = None,
        encoder: Callable[[ExtractorConfig], LocalEncoder] = build_encoder,
        network: BuildNetwork = build_descriptor,
    ):
        """``features``: the feature, then the parts of a fusion; ``tensors``: the ``description`` of a Retriever;
        ``shared``: an extractor whose keypoints the caller has; ``encoder`` and ``network`` build the networks."""
        feature, *parts = features
        self._describe = build_describer(feature, tensors, parts, device, network)
        local = [part for part in features if part.extractor is not None]
        most = max((part.retrieval.keypoints for part in local), default=0)
        self._encoders = {
            _but_count(part.extractor): encoder(part.extractor.model_copy(update={"max_keypoints": most}))
            for part in local
            if shared is None or _but_count(part.extractor) != _but_count(shared)
        }

    def __call__(self, photo: Image.Image, camera: pycolmap.Camera, shared: EncodedView | None = None) -> torch.Tensor:
        """Descriptor [dim]; ``shared``: what the shared extractor found. ScrflowError if it would come from a file."""
        if self._describe is None:
            raise ScrflowError("the map's retrieval feature comes from a file: give the query's descriptor from it too")

        def local(extractor: ExtractorConfig, keypoints: int) -> torch.Tensor:
            encoder = self._encoders.get(_but_count(extractor))
            if encoder is None:
                return shared.descriptors[:keypoints]
            return encode_view(photo, camera, encoder, extractor.short_side, keypoints).descriptors

        return self._describe(photo, local)


def _but_count(extractor: ExtractorConfig) -> str:
    """Identifies an extractor, whatever number of keypoints is wanted from it."""
    return extractor.model_dump_json(exclude={"max_keypoints"})


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
    """Describe the mapping images of a scene artifact.

    ``out`` gets the descriptors in hloc's HDF5 form (those of the queries too where they come from a file), ``model``
    the ``Retriever`` (safetensors; metadata ``keypoints``: how many local descriptors of a photo are aggregated),
    ``quality`` how well both retrieve (JSON, see ``measure``). ``part_descriptors`` and ``part_models`` are these files
    of the features that a fusion joins. ScrflowError for a missing or damaged file or a descriptor file that lacks an
    image.
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
    codebooks = learn_codebooks(found.descriptors, r.pq_bytes, _seed(config.seed, "pq"))
    codes = quantised(torch.from_numpy(found.descriptors), codebooks)
    retriever = Retriever(tuple(names), codebooks, codes, found.tensors)

    inputs = {"scene": loaded.stamp.digest, **(found.inputs or {})}
    stamp = Stamp.make(KIND, config, code_of("build_retrieval", config), **inputs)
    with create_h5(out, stamp) as f:
        hloc_files.write_descriptors(f, dict(zip(names, found.descriptors, strict=True)) | (found.queries or {}))
    write_safetensors(model, retriever.tensors(), stamp, {**retriever.metadata(), "keypoints": str(found.keypoints)})
    poses = np.stack([v.cam_from_world for v in loaded.mapping])
    result = measure(retriever, found.descriptors, poses, config.near, found.queries, loaded.query_poses)
    write_json(quality, {"unit": loaded.unit, **result}, stamp)
    log.info("retrieval: %d images, %d dimensions, model of %.2f MB", len(names), result["dim"], result["model_mb"])


def _vlad(r: RetrievalConfig, extractor: ExtractorConfig | None, seed: int, scene: Scene, threads: int) -> _Described:
    if extractor is None:
        raise ScrflowError("retrieval of kind vlad needs the extractor of its encoder")
    encoder, side_by_side = build_encoder(extractor), encodes_side_by_side(extractor.name)

    def local(i: int) -> torch.Tensor:
        view = scene.mapping[i]
        photo = scene.photo(view.name)
        return encode_view(photo, view.camera, encoder, extractor.short_side, r.keypoints).descriptors

    def aggregated(i: int) -> np.ndarray:
        return aggregate(local(i), vocabulary).numpy()

    count = len(scene.mapping)
    sample = np.unique(np.linspace(0, count - 1, min(count, _VOCABULARY_IMAGES)).round().astype(int)).tolist()
    with meter("retrieval features", count) as step:
        held = {}
        for i, found in zip(sample, mapped(local, sample, threads, side_by_side), strict=True):
            held[i] = found
            step("")
        pooled = torch.cat(list(held.values())).numpy()
        if len(pooled) == 0:
            raise ScrflowError(f"encoder {extractor.name} finds no keypoint in any of {len(sample)} mapping images")
        vocabulary = learn_vocabulary(pooled, r.clusters, _seed(seed, "vocabulary"))
        rows = {i: aggregate(found, vocabulary).numpy() for i, found in held.items()}
        rest = [i for i in range(count) if i not in rows]
        for i, row in zip(rest, mapped(aggregated, rest, threads, side_by_side), strict=True):
            rows[i] = row
            step("")
    descriptors, whitening = _whitened(np.stack([rows[i] for i in range(count)]), r.dim, seed)
    return _Described(descriptors, {"vocabulary": vocabulary, **whitening.tensors()}, r.keypoints)


def _network(r: RetrievalConfig, seed: int, scene: Scene, threads: int) -> _Described:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = build_descriptor(r.network, r.options, device)

    def described(view: View) -> np.ndarray:
        return network(scene.photo(view.name)).numpy()

    side_by_side = device == "cpu" and describes_side_by_side(r.network)
    rows = list(mapped(described, track(scene.mapping, "retrieval features"), threads, side_by_side))
    descriptors, whitening = _whitened(np.stack(rows), r.dim, seed)
    return _Described(descriptors, whitening.tensors())


def _fusion(r: RetrievalConfig, seed: int, names: list[str], parts: Sequence[tuple[Path, Path]]) -> _Described:
    if len(parts) != len(r.parts):
        raise ScrflowError(f"fusion of {', '.join(r.parts)}: {len(parts)} parts were given")
    tensors: dict[str, torch.Tensor] = {}
    inputs: dict[str, str] = {}
    rows = []
    keypoints = 0
    for i, (descriptors, model) in enumerate(parts):
        inputs[f"part{i}"] = read_stamp(descriptors, KIND).digest
        metadata = read_safetensors_metadata(model)
        part = Retriever.from_tensors(read_safetensors(model, KIND), metadata)
        keypoints = max(keypoints, int(metadata["keypoints"]))
        if part.names != tuple(names):
            raise ScrflowError(f"{model}: of other mapping images than the scene; delete it and run again")
        tensors |= {f"part{i}.{name}": tensor for name, tensor in part.description.items()}
        rows.append(torch.from_numpy(hloc_files.read_descriptors(descriptors, names)))
    descriptors, whitening = _whitened(joined(rows, r.weights).numpy(), r.dim, seed)
    return _Described(descriptors, tensors | whitening.tensors(), keypoints, inputs=inputs)


def _from_file(r: RetrievalConfig, folder: Path, scene: Scene) -> _Described:
    # the stage's folder is results/SCENE/scene
    path = Path(str(r.file).replace("{scene}", Path(folder).resolve().parent.name))
    count, queries = len(scene.mapping), [q.name for q in scene.queries]
    rows = hloc_files.read_descriptors(path, [v.name for v in scene.mapping] + queries)
    return _Described(
        rows[:count],
        {},
        inputs={"file": sha256_file(path)[:16]},
        queries=dict(zip(queries, rows[count:], strict=True)),
    )


def _whitened(rows_NV: np.ndarray, dim: int | None, seed: int) -> tuple[np.ndarray, Whitening]:
    """Descriptors [N, d] float32 after a whitening learnt on them; as they are without ``dim``."""
    if dim is None:
        return rows_NV, Whitening()
    mean, matrix = learn_whitening(rows_NV, dim, np.random.default_rng(_seed(seed, "whitening")))
    whitening = Whitening(mean, matrix)
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
    order = torch.arange(count)
    apart = (rows[:, None] - order).abs()
    poses = torch.from_numpy(np.asarray(poses_N34, np.float64))
    compared = {"mapping": _agreement(exact[rows], exact, coded, apart > 0)}
    found = {"mapping": _found(exact[rows], poses[rows], coded, poses, near, apart > skipped) | {"skipped": skipped}}
    if queries:
        names = sorted(queries)
        vectors = torch.from_numpy(np.stack([queries[n] for n in names]).astype(np.float32))
        compared["queries"] = _agreement(vectors, exact, coded)
        posed = [i for i, n in enumerate(names) if n in (query_poses or {})]
        if posed:
            reference = torch.from_numpy(np.stack([query_poses[names[i]] for i in posed]))
            found["queries"] = _found(vectors[posed], reference, coded, poses, near)
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


def near_pairs(poses_Q34: torch.Tensor, poses_N34: torch.Tensor, near: float) -> torch.Tensor:
    """[Q, N] bool: centres within ``near`` and rotations within ANGLE_DEG."""
    centres = [-torch.einsum("nij,ni->nj", p[:, :, :3], p[:, :, 3]) for p in (poses_Q34, poses_N34)]
    trace = torch.einsum("qij,nij->qn", poses_Q34[:, :, :3], poses_N34[:, :, :3])
    return (torch.cdist(*centres) <= near) & ((trace - 1) / 2 >= np.cos(np.radians(ANGLE_DEG)))


def _ranked(
    vectors: torch.Tensor, database: torch.Tensor, allowed: torch.Tensor | None, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [Q, k] of the nearest allowed candidates, and whether there are so many [Q, k]."""
    distance = torch.cdist(vectors, database)
    if allowed is not None:
        distance = distance.masked_fill(~allowed, torch.inf)
    value, index = distance.topk(min(k, len(database)), largest=False)
    return index, value.isfinite()


def _agreement(
    vectors: torch.Tensor, exact: torch.Tensor, coded: torch.Tensor, allowed: torch.Tensor | None = None
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
    allowed: torch.Tensor | None = None,
) -> dict[str, Any]:
    good = near_pairs(poses, database_poses, near)
    if allowed is not None:
        good &= allowed
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
