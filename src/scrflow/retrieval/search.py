"""Describing a query and finding the mapping images that look like it. Torch alone: no faiss, no HDF5."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch

from scrflow.retrieval.pq import squared_distances
from scrflow.retrieval.vlad import aggregate, whiten

KIND = "retrieval"


@dataclass(frozen=True)
class Retriever:
    """A retrieval model: quantised mapping descriptors, and with ``vlad`` what describes a new photo."""

    names: tuple[str, ...]  # mapping images, in the scene's order
    codebooks: torch.Tensor  # [M, E, S] float16
    codes: torch.Tensor  # [images, M] uint8
    vocabulary: torch.Tensor | None = None  # [K, D] float32
    whitening_mean: torch.Tensor | None = None  # [K * D] float32
    whitening: torch.Tensor | None = None  # [dim, K * D] float16

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> Retriever:
        """What ``tensors()`` and ``metadata()`` gave; other tensors are left alone, a missing one is a KeyError."""
        optional = {k: tensors[k] for k in ("vocabulary", "whitening_mean", "whitening") if k in tensors}
        names = tuple(json.loads(metadata["retrieval_names"]))
        return cls(names, tensors["codebooks"], tensors["codes"], **optional)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by name, as they are saved."""
        fields = ("codebooks", "codes", "vocabulary", "whitening_mean", "whitening")
        return {k: getattr(self, k) for k in fields if getattr(self, k) is not None}

    def metadata(self) -> dict[str, str]:
        """The string metadata that belongs to the tensors."""
        return {"retrieval_names": json.dumps(self.names)}

    @property
    def describes(self) -> bool:
        """Whether a photo can be described from its local features (VLAD); otherwise descriptors come from a file."""
        return self.vocabulary is not None

    def describe(self, local_descriptors: torch.Tensor) -> torch.Tensor:
        """Descriptor [dim], unit length, of the local descriptors [N, D] of one photo."""
        if self.vocabulary is None:
            raise ValueError("descriptors of this retrieval feature come from a file; it cannot describe a photo")
        vlad = aggregate(local_descriptors.to(self.vocabulary.device), self.vocabulary)
        return whiten(vlad, self.whitening_mean, self.whitening)

    def search(self, descriptor: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows [k] int64 of the mapping images nearest to ``descriptor`` [dim], and minus their squared distances [k].

        Fewer than k when there are fewer images; equal distances in the order of the rows.
        """
        distance = squared_distances(descriptor.to(self.codes.device), self.codes, self.codebooks)
        nearest = torch.argsort(distance, stable=True)[:k]
        return nearest, -distance[nearest]
