"""Describing a photo as the mapping images were described: what a query needs. No faiss, no HDF5."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pycolmap
import torch
import torch.nn.functional as F
from PIL import Image

from scrflow.config import ExtractorConfig, RetrievalPart
from scrflow.core.errors import ScrflowError
from scrflow.features.descriptors import GlobalDescriptor, build_descriptor
from scrflow.features.encoders import build_encoder
from scrflow.features.encoders.base import LocalEncoder
from scrflow.features.retrieval.vlad import aggregate, whiten
from scrflow.features.views import EncodedView, encode_view

# local descriptors [N, D] of the photo at hand, by extractor and number of keypoints
LocalSource = Callable[[ExtractorConfig, int], torch.Tensor]
Tensors = Mapping[str, torch.Tensor]
# the network of a name, its options and a device
BuildNetwork = Callable[[str, dict[str, Any], str], GlobalDescriptor]


class Describer(Protocol):
    """Descriptor [dim] of unit length of a photo; ``local`` gives its local descriptors to who wants them."""

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
