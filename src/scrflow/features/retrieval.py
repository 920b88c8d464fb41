"""Retrieval: which mapping images show what a photo shows.

Photos are described by VLAD of their local descriptors, by a network, or by several joined. A query is described and
compared with the quantised index, which scrflow.features.retrieval_index builds.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pycolmap
import torch
import torch.nn.functional as F
from PIL import Image

from scrflow.config import ExtractorConfig, RetrievalPart
from scrflow.core.errors import ScrflowError
from scrflow.features.descriptors import GlobalDescriptor, build_descriptor
from scrflow.features.encoders import LocalEncoder, build_encoder
from scrflow.features.views import EncodedView, encode_view
from scrflow.storage.artifact import read_safetensors, read_safetensors_metadata

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
BuildNetwork = Callable[[str, dict[str, Any], torch.device | str], GlobalDescriptor]


@dataclass(frozen=True)
class Retriever:
    """A retrieval model: quantised mapping descriptors, and the tensors that describe a new photo."""

    names: tuple[str, ...]  # mapping images, in the scene's order
    codebooks: torch.Tensor  # [M, E, S] float16
    codes: torch.Tensor  # [images, M] uint8
    description: dict[str, torch.Tensor] = field(default_factory=dict)  # as build_describer reads it

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> Self:
        """From what ``tensors()`` and ``metadata()`` gave; a missing one is a KeyError."""
        description = {name: tensor for name, tensor in tensors.items() if name not in _INDEX}
        names = tuple(json.loads(metadata["retrieval_names"]))
        return cls(names, tensors["codebooks"], tensors["codes"], description)

    @classmethod
    def open(cls, path: Path, names: Sequence[str] | None = None) -> Self:
        """The model of a file; ScrflowError when it is damaged, or of other images than ``names``."""
        retriever = cls.from_tensors(read_safetensors(path, KIND), read_safetensors_metadata(path))
        if names is not None and retriever.names != tuple(names):
            raise ScrflowError(f"{path}: of other mapping images than the scene; delete it and run again")
        return retriever

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by name, as they are saved."""
        return {"codebooks": self.codebooks, "codes": self.codes, **self.description}

    def metadata(self) -> dict[str, str]:
        """The string metadata that belongs to the tensors."""
        return {"retrieval_names": json.dumps(self.names)}

    def search(
        self, descriptor: torch.Tensor, k: int, among: np.ndarray | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows [k] int64 of the images nearest to ``descriptor`` [dim], and minus their squared distances [k]: of the
        descriptor as it is to quantised ones ("asymmetric"). ``among``: the rows [C] to choose from, if not all."""
        if among is not None:
            nearest, similarity = replace(self, codes=self.codes[among]).search(descriptor, k)
            return torch.from_numpy(among)[nearest], similarity
        parts, _, size = self.codebooks.shape
        query = _pad(descriptor.to(self.codes.device)[None], parts * size).view(parts, 1, size)
        table = ((self.codebooks.float() - query) ** 2).sum(2)  # [M, E]
        distance = table.gather(1, self.codes.T.long()).sum(0)
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
    padded = np.pad(vectors_ND.astype(np.float32), ((0, 0), (0, parts * size - dim)))
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
    """Codes [N, M] uint8 of vectors [N, dim]: the nearest entry of each part of codebooks [M, E, S]."""
    parts, _, size = codebooks_MES.shape
    vectors = _pad(vectors_ND, parts * size).view(-1, parts, size).transpose(0, 1)  # [M, N, S]
    distance = torch.cdist(vectors, codebooks_MES.float(), compute_mode="donot_use_mm_for_euclid_dist")
    return distance.argmin(2).T.to(torch.uint8).contiguous()


def _pad(vectors_ND: torch.Tensor, dim: int) -> torch.Tensor:
    return F.pad(vectors_ND.float(), (0, dim - vectors_ND.shape[1]))


def learn_vocabulary(descriptors_ND: np.ndarray, clusters: int, seed: int) -> torch.Tensor:
    """Visual words [k, D] float32 of descriptors [N, D] by faiss k-means, k = min(clusters, N)."""
    import faiss

    x = np.ascontiguousarray(descriptors_ND, np.float32)
    limits = {"max_points_per_centroid": 1024, "min_points_per_centroid": 1}
    kmeans = faiss.Kmeans(x.shape[1], min(clusters, len(x)), niter=20, seed=seed, **limits)
    kmeans.train(x)
    return torch.from_numpy(kmeans.centroids.copy())


def aggregate(descriptors_ND: torch.Tensor, vocabulary_KD: torch.Tensor) -> torch.Tensor:
    """VLAD [K * D], unit length, of one image's descriptors [N, D]: residuals summed per nearest word, each word's sum
    normalised."""
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
    def from_tensors(cls, tensors: Tensors) -> Self:
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
    device: torch.device | str = "cpu",
    build: BuildNetwork = build_descriptor,
) -> Describer | None:
    """The function that describes a photo, from the ``description`` of a Retriever and the config that made it; None
    for kind hloc. ``parts`` are those of a fusion; networks, made by ``build``, run on ``device``."""
    r, whitening = feature.retrieval, Whitening.from_tensors(tensors)
    if r.kind == "hloc":
        return None
    network = build(r.network, r.options, device) if r.kind == "network" else None
    members = []
    for i, part in enumerate(parts):
        own = {name.removeprefix(f"part{i}."): t for name, t in tensors.items() if name.startswith(f"part{i}.")}
        members.append(build_describer(part, own, (), device, build))

    def describe(photo: Image.Image, local: LocalSource) -> torch.Tensor:
        if r.kind == "vlad":
            found = aggregate(local(feature.extractor, r.keypoints).cpu(), tensors["vocabulary"])
        elif network is not None:
            found = network(photo)
        else:
            found = joined([member(photo, local) for member in members], r.weights)
        return whitening(found)

    return describe


class PhotoDescriber:
    """A retrieval feature with the networks that it needs: descriptors [dim] of photos."""

    def __init__(
        self,
        features: Sequence[RetrievalPart],
        tensors: Tensors,
        device: torch.device | str = "cpu",
        shared: ExtractorConfig | None = None,
        encoder: Callable[[ExtractorConfig, torch.device | str], LocalEncoder] = build_encoder,
        network: BuildNetwork = build_descriptor,
    ):
        """``features``: the feature, then the parts of a fusion; ``tensors``: the ``description`` of a Retriever;
        ``shared``: an extractor whose keypoints the caller has."""
        feature, *parts = features
        self._describe = build_describer(feature, tensors, parts, device, network)
        local = [part for part in features if part.extractor is not None]
        most = max((part.retrieval.keypoints for part in local), default=0)
        self._encoders = {
            _but_count(part.extractor): encoder(part.extractor.model_copy(update={"max_keypoints": most}), device)
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
