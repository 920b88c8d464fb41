"""Finding the mapping images that look like a query. Torch alone: no faiss, no HDF5."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import torch

from scrflow.features.retrieval.pq import squared_distances

KIND = "retrieval"
_INDEX = ("codebooks", "codes")


@dataclass(frozen=True)
class Retriever:
    """A retrieval model: quantised mapping descriptors, and the tensors that describe a new photo."""

    names: tuple[str, ...]  # mapping images, in the scene's order
    codebooks: torch.Tensor  # [M, E, S] float16
    codes: torch.Tensor  # [images, M] uint8
    description: dict[str, torch.Tensor] = field(default_factory=dict)  # see scrflow.features.retrieval.describe

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
