"""config/config.yaml: graphs, global encodings, retrieval features and depths of samples, by name."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from scrflow.config.base import Strict


class GraphConfig(Strict):
    """Covisibility graph (R-SCoRe sec. on global encodings)."""

    kind: Literal["frustum", "points"] = "frustum"
    samples: int = Field(1024, ge=16, description="pixel-depth samples an image (frustum)")
    min_overlap: float = Field(0.2, ge=0, le=1, description="edges under it go")
    min_points: int = Field(15, ge=1, description="shared points under which there is no edge (points)")


class Node2VecConfig(Strict):
    """Node2Vec on the covisibility graph."""

    kind: Literal["node2vec"] = "node2vec"
    engine: Literal["torch", "node2vec"] = "torch"
    dim: int = Field(256, ge=2)
    p: float = Field(0.25, gt=0)
    q: float = Field(4.0, gt=0)
    walks: int = Field(128, ge=1, description="walks a node")
    length: int = Field(20, ge=2)
    context: int = Field(10, ge=1)
    negatives: int = Field(5, ge=1)
    iterations: int = Field(300, ge=1, description="torch: Adam steps, each on the walks of up to 256 images")
    epochs: int = Field(5, ge=1, description="node2vec: passes of the package over its walks")
    min_average_precision: float = Field(0.8, description="link prediction under it stops the run")


class RetrievalConfig(Strict):
    """An image descriptor: VLAD over local encodings, or a file made by hloc."""

    kind: Literal["vlad", "hloc"] = "vlad"
    encoder: str | None = Field(None, description="vlad: the encoder config whose features are aggregated")
    clusters: int = Field(64, ge=1)
    keypoints: int = Field(1024, ge=16, description="per image (vlad)")
    dim: int = Field(256, ge=2, description="after whitening; capped by the number of mapping images - 1")
    file: str | None = Field(None, description="hloc: an HDF5 of image name -> global_descriptor; {scene} is filled in")
    pq_bytes: int = Field(64, ge=1, description="bytes an image in the product-quantised index")

    @model_validator(mode="after")
    def _complete(self) -> RetrievalConfig:
        if self.kind == "vlad" and self.encoder is None:
            raise ValueError("vlad needs encoder")
        if self.kind == "hloc" and self.file is None:
            raise ValueError("hloc needs file")
        return self


class SampleDepthConfig(Strict):
    """Depth of buffer samples by matching their descriptors across covisible mapping images (known poses)."""

    neighbours: int = Field(
        24, ge=2, description="graph neighbours an image is matched with, spread over their overlap"
    )
    max_epipolar_px: float = Field(2.0, gt=0)
    max_residual_px: float = Field(2.5, gt=0, description="of a match to the triangulated point")
    min_support: int = Field(2, ge=1, description="matches that agree, the sample itself not counted")
    max_relative_sigma: float = Field(0.05, gt=0, description="of the depth, for 1 px noise; worse ones stay unknown")
    matches: int = Field(8, ge=1, description="matched samples kept for descriptor mixing")
    transfer_px: float = Field(1.5, gt=0, description="an augmented sample this near to a plain one takes its depth")


class WeightsConfig(Strict):
    """Where published network weights are looked for and kept."""

    cache: str = Field("~/.cache/scrflow/weights", description="SCRFLOW_WEIGHTS overrides it")
    offline: bool = Field(False, description="never reach for the network; SCRFLOW_OFFLINE=1 overrides it")


class GlobalConfig(Strict):
    """config/config.yaml."""

    seed: int = Field(1, ge=0)
    data_root: str = Field("../shared/data", description="folder of real scenes; SCRFLOW_DATA overrides it")
    buffer_shards: int = Field(4, ge=1)
    weights: WeightsConfig = WeightsConfig()
    graphs: dict[str, GraphConfig] = Field(
        default_factory=lambda: {kind: GraphConfig(kind=kind) for kind in ("frustum", "points")}
    )
    encodings: dict[str, Node2VecConfig] = Field(default_factory=lambda: {"node2vec": Node2VecConfig()})
    retrieval: dict[str, RetrievalConfig] = Field(default_factory=dict)
    sample_depth: SampleDepthConfig = SampleDepthConfig()
