"""Finding the mapping images that look like a photo: describe the photo, and compare it with the quantised index.

A photo is described as the mapping images were: by VLAD of its local descriptors, a network, or several joined. Needs
torch alone, no faiss and no HDF5, unless something is learnt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

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

KIND = "retrieval"
_INDEX = ("codebooks", "codes")
ENTRIES = 256  # one byte a part
# Times dimensions over images and the mean variance, it is added to each variance before whitening. With few images
# per dimension the small variances are chance: plain whitening would put all mapping images at equal distances, and a
# query among noise. On redkitchen (180 images, XFeat, 32 words, 128 dimensions), share of images
# within 0.5 m and 30 degrees among the ten retrieved: 49 % without, 96 % with it.
_SHRINK = 10.0
_SVD_IMAGES = 2000
# local descriptors [N, D] of the photo at hand, by extractor and number of keypoints
LocalSource = Callable[[ExtractorConfig, int], torch.Tensor]
Tensors = Mapping[str, torch.Tensor]
# the network of a name, its options and a device
BuildNetwork = Callable[[str, dict[str, Any], str], GlobalDescriptor]

# ------------------------------------------------------------------------------------------------------------ the index


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
        """Rows [k] int64 of the mapping images nearest to ``descriptor`` [dim], and minus their squared distances [k].

        Fewer than k when there are fewer images; equal distances in the order of the rows.
        """
        distance = squared_distances(descriptor.to(self.codes.device), self.codes, self.codebooks)
        nearest = torch.argsort(distance, stable=True)[:k]
        return nearest, -distance[nearest]


def decoded(retriever: Retriever) -> torch.Tensor:
    """What the codes stand for, [N, dim] float32 (with the zeros that fill the last part): distances to it are those of
    the quantised search."""
    parts = torch.arange(len(retriever.codebooks))
    return retriever.codebooks.float()[parts, retriever.codes.long()].flatten(1)


# ----------------------------------------------------------- product quantisation (Jegou, Douze and Schmid, TPAMI 2011)


def learn_codebooks(vectors_ND: np.ndarray, parts: int, seed: int) -> torch.Tensor:
    """Codebooks [M, E, S] float16: vectors are cut in M = min(parts, D) parts of S numbers, zeros filling the last.

    With more than 256 vectors faiss learns E = 256 centroids a part. Up to 256, every vector is its own centroid
    (E = N): k-means could only lose, the table is no larger, and the search is exact but for float16.
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
    return torch.nn.functional.pad(vectors_ND.float(), (0, dim - vectors_ND.shape[1]))


# ----------------------------------------------------------------------------------------------------------------- VLAD


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
    """VLAD [K * D] of one image, unit length: residuals summed per nearest word, each word's sum normalised.

    An image without keypoints gets zeros.
    """
    x = descriptors_ND.float()
    nearest = (2 * x @ vocabulary_KD.T - (vocabulary_KD**2).sum(1)).argmax(1)
    sums = torch.zeros_like(vocabulary_KD).index_add_(0, nearest, x - vocabulary_KD[nearest])
    return F.normalize(F.normalize(sums, dim=1).reshape(-1), dim=0)


def learn_whitening(vlads_NV: np.ndarray, dim: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [V] float32 and matrix [d, V] float16 with d = min(dim, N - 1, V), rows by falling variance.

    Rows are the principal directions over sqrt(variance + shrinkage); their common scale is free, as vectors are
    normalised after it, and brought to 1 for float16.
    """
    if len(vlads_NV) > _SVD_IMAGES:
        vlads_NV = vlads_NV[np.sort(rng.choice(len(vlads_NV), _SVD_IMAGES, replace=False))]
    mean = vlads_NV.mean(0)
    _, singular, directions = np.linalg.svd(vlads_NV - mean, full_matrices=False)
    kept = max(1, min(dim, len(vlads_NV) - 1, vlads_NV.shape[1]))
    variance = singular[:kept] ** 2
    scale = 1 / np.sqrt(variance + _SHRINK * kept / len(vlads_NV) * variance.mean() + 1e-12)
    matrix = directions[:kept] * (scale / scale.max())[:, None]
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(matrix.astype(np.float16))


def whiten(vlad_V: torch.Tensor, mean_V: torch.Tensor, matrix_dV: torch.Tensor) -> torch.Tensor:
    """Descriptor [..., d] of unit length of VLADs [..., V]."""
    return F.normalize((vlad_V - mean_V) @ matrix_dV.float().T, dim=-1)


# --------------------------------------------------------------------------------------------------- describing a photo


class Describer(Protocol):
    """Descriptor [dim] of unit length of a photo; ``local`` gives its local descriptors if they are needed."""

    def __call__(self, photo: Image.Image, local: LocalSource) -> torch.Tensor: ...


@dataclass(frozen=True)
class Whitening:
    """The PCA-whitening of a feature, if it has one: vectors [..., V] to unit vectors [..., dim]."""

    mean: torch.Tensor | None = None  # [V] float32
    matrix: torch.Tensor | None = None  # [dim, V] float16

    @classmethod
    def from_tensors(cls, tensors: Tensors) -> Whitening:
        """What ``tensors()`` gave; without a whitening among them, vectors pass as they are."""
        return cls(tensors.get("whitening_mean"), tensors.get("whitening"))

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by name, as they are saved."""
        return {} if self.mean is None else {"whitening_mean": self.mean, "whitening": self.matrix}

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors if self.mean is None else whiten(vectors, self.mean, self.matrix)


@dataclass(frozen=True)
class Vlad:
    """VLAD of the photo's local descriptors."""

    extractor: ExtractorConfig
    keypoints: int
    vocabulary: torch.Tensor  # [K, D] float32
    whitening: Whitening

    def __call__(self, photo: Image.Image, local: LocalSource) -> torch.Tensor:
        return self.whitening(aggregate(local(self.extractor, self.keypoints), self.vocabulary))


@dataclass(frozen=True)
class NetworkDescriptor:
    """A network over the whole photo."""

    network: GlobalDescriptor
    whitening: Whitening

    def __call__(self, photo: Image.Image, local: LocalSource) -> torch.Tensor:
        return self.whitening(self.network(photo))


@dataclass(frozen=True)
class Fusion:
    """Several descriptors joined."""

    parts: tuple[Describer, ...]
    weights: tuple[float, ...]
    whitening: Whitening

    def __call__(self, photo: Image.Image, local: LocalSource) -> torch.Tensor:
        return self.whitening(joined([part(photo, local) for part in self.parts], self.weights))


def joined(vectors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Unit vectors [..., d_i], each times its weight, side by side; of unit length."""
    factors = weights or (1.0,) * len(vectors)
    return F.normalize(torch.cat([w * v for w, v in zip(factors, vectors, strict=True)], -1), dim=-1)


def part_tensors(index: int, tensors: Tensors) -> dict[str, torch.Tensor]:
    """Tensors of the i-th part of a fusion under the names that they are saved by."""
    return {f"part{index}.{name}": tensor for name, tensor in tensors.items()}


def build_describer(
    feature: RetrievalPart,
    tensors: Tensors,
    parts: Sequence[RetrievalPart] = (),
    device: str = "cpu",
    build: BuildNetwork = build_descriptor,
) -> Describer | None:
    """What describes a photo, from the ``description`` of a Retriever and the config that made it; ``parts`` are those
    of a fusion; ``build`` gives the networks. None for kind hloc: its descriptors come from a file.

    Networks run on ``device``; descriptors come back on the CPU. ScrflowError for weights that are not found.
    """
    r = feature.retrieval
    whitening = Whitening.from_tensors(tensors)
    if r.kind == "vlad":
        return Vlad(feature.extractor, r.keypoints, tensors["vocabulary"], whitening)
    if r.kind == "network":
        return NetworkDescriptor(build(r.network, r.options, device), whitening)
    if r.kind == "fusion":
        members = []
        for i, part in enumerate(parts):
            own = {name.removeprefix(f"part{i}."): t for name, t in tensors.items() if name.startswith(f"part{i}.")}
            members.append(build_describer(part, own, (), device, build))
        return Fusion(tuple(members), r.weights, whitening)
    return None


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
        """``features``: the feature, then the parts of a fusion; ``tensors``: the ``description`` of a Retriever.
        ``shared``: an extractor whose keypoints the caller has. ``encoder`` and ``network`` build the networks."""
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
        """Descriptor [dim] of a photo; ``shared``: what the shared extractor found. ScrflowError if descriptors come
        from a file."""
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
