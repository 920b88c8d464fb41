"""Sizes that follow from the config: samples, operations of a head, bytes of files. Nothing here is measured."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from scrflow.cli.plan.workload import Workload
from scrflow.config import HeadConfig, MethodConfig, RetrievalConfig
from scrflow.pipeline.project import Project

NAME_BYTES = 40  # of an image's name in a file, and what its record needs besides
WORD = 64  # numbers of a local descriptor that a VLAD aggregates (XFeat)
_RAW = {"efficientnet-lite0": 1280, "netvlad": 4096, "r2former": 256}  # numbers before a whitening
_DESCRIPTOR = {"xfeat": 64, "dedode": 256, "loftr": 256, "superpoint": 256, "ace": 512, "ace-superpoint": 768}
_NEWTON_SCHULZ = 5  # iterations of Muon


@dataclass(frozen=True)
class HeadSize:
    """Of a head: parameters, and the operations of one of Muon's updates."""

    parameters: int
    muon: float


def head_size(config: HeadConfig, dim_in: int) -> HeadSize:
    """Counted on the network itself, without its memory."""
    return _head_size(config.model_dump_json(), dim_in)


@functools.cache
def _head_size(config: str, dim_in: int) -> HeadSize:
    import torch

    from scrflow.training.head import Head

    head_config = HeadConfig.model_validate_json(config)
    with torch.device("meta"):
        head = Head(dim_in, head_config, torch.zeros(head_config.clusters, 3))
    sides = [tuple(sorted(p.shape)) for p in head.parameters() if p.ndim == 2]
    # three products an iteration, of m x n matrices with m <= n: m m n, m m m and m m n
    muon = sum(_NEWTON_SCHULZ * (4 * m * m * n + 2 * m**3) for m, n in sides)
    return HeadSize(sum(p.numel() for p in head.parameters()), float(muon))


@dataclass(frozen=True)
class Sizes:
    """Of a scene and a method."""

    project: Project
    work: Workload
    method: MethodConfig

    @property
    def copies(self) -> int:
        return self.project.encoders[self.method.encoder].buffer.copies(self.work.images)

    @property
    def samples(self) -> int:
        """Training samples, if every copy gives as many as it may."""
        return self.work.images * self.copies * self.project.encoders[self.method.encoder].buffer.samples_per_copy

    @property
    def local_dim(self) -> int:
        """Numbers of a local encoding: the PCA's, or the descriptor's where it has fewer."""
        encoder = self.project.encoders[self.method.encoder]
        return min(encoder.pca.dim, self.descriptor_dim)

    @property
    def descriptor_dim(self) -> int:
        """Numbers of a local descriptor before the PCA."""
        return _DESCRIPTOR.get(self.project.encoders[self.method.encoder].extractor.name, 128)

    @property
    def sample_bytes(self) -> int:
        """Of a sample in a shard: descriptor, pixel, view."""
        return 2 * self.local_dim + 8 + 4

    @property
    def row_bytes(self) -> int:
        """Of a sample in training's memory (training.samples.ColumnLayout)."""
        training = self.method.training
        descriptor = self.local_dim * (1 if training.buffer_dtype == "int8" else 2)
        matches = 8 if training.mix_share > 0 else 0
        return descriptor + 8 + 4 + (8 if training.needs_depth else 0) + 4 * matches + 4

    @property
    def held_mb(self) -> float:
        """Samples in training's memory: all, or what buffer_memory allows."""
        return min(self.samples * self.row_bytes, int(self.method.training.buffer_memory)) / 1e6

    @property
    def global_dim(self) -> int:
        """Numbers of a global encoding; 0 for a method without."""
        name = self.method.global_encoding.name
        if name is None:
            return 0
        encoding = self.project.config.encodings.get(name)
        if encoding is None or encoding.kind == "clusters":
            return self.retrieval_dim(name if encoding is None else encoding.retrieval)
        return encoding.dim

    @property
    def head(self) -> HeadSize:
        return head_size(self.method.head, self.global_dim + self.local_dim)

    @property
    def training_gflop(self) -> float:
        """Of the batches, forward and backward."""
        return 6e-9 * self.head.parameters * self.method.training.batch_size * self.method.training.steps

    @property
    def muon_gflop(self) -> float:
        """Of Muon's updates; 0 for AdamW."""
        training = self.method.training
        return 1e-9 * self.head.muon * (training.steps // training.accumulate) * (training.optimizer == "muon")

    def raw_dim(self, feature: RetrievalConfig) -> int:
        """Numbers of a retrieval feature before it is whitened."""
        if feature.kind == "vlad":
            return feature.clusters * WORD
        if feature.kind == "fusion":
            return sum(self.retrieval_dim(part) for part in feature.parts)
        return _RAW.get(feature.network or "", 4096)

    def retrieval_dim(self, name: str) -> int:
        """Numbers of a retrieval feature."""
        feature = self.project.config.retrieval[name]
        raw = self.raw_dim(feature)
        return raw if feature.dim is None else min(feature.dim, raw, max(1, self.work.images - 1))

    def describing_bytes(self, name: str) -> int:
        """Of what describes a photo: vocabularies and whitenings, those of a fusion's parts too."""
        feature = self.project.config.retrieval[name]
        own = (
            0
            if feature.dim is None
            else 2 * self.retrieval_dim(name) * self.raw_dim(feature) + 4 * self.raw_dim(feature)
        )
        own += 4 * feature.clusters * WORD if feature.kind == "vlad" else 0
        return own + sum(self.describing_bytes(part) for part in feature.parts)

    def index_bytes(self, name: str) -> int:
        """Of codebooks and codes."""
        feature, dim = self.project.config.retrieval[name], self.retrieval_dim(name)
        parts = min(feature.pq_bytes, dim)
        return 2 * min(self.work.images, 256) * -(-dim // parts) * parts + self.work.images * parts

    @property
    def map_bytes(self) -> int:
        """Of map.safetensors as the config's ``map`` shrinks nothing: the upper end."""
        images, name = self.work.images, self.method.retrieval
        size = 2 * self.head.parameters + 4 * (self.descriptor_dim + 1) * self.local_dim + NAME_BYTES * images + 8_000
        if name is None:
            return size
        own = self.method.global_encoding.name in self.project.config.retrieval
        kept = 0 if own else 2 * images * self.global_dim + self.index_bytes(name)
        return size + self.describing_bytes(name) + kept
