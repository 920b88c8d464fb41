"""config/config.yaml: graphs, global encodings, retrieval features and depths of samples, by name."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from scrflow.config.base import Strict
from scrflow.config.method import TracksConfig


class GraphConfig(Strict):
    """Covisibility graph (R-SCoRe sec. on global encodings)."""

    kind: Literal["frustum", "scrstudio", "points"] = Field(
        "frustum", description="scrstudio: the overlap that R-SCoRe's code computes"
    )
    samples: int = Field(1024, ge=16, description="pixel-depth samples an image (frustum, scrstudio)")
    min_overlap: float = Field(0.2, ge=0, le=1, description="edges under it go")
    min_points: int = Field(15, ge=1, description="shared points under which there is no edge (points)")


class Node2VecConfig(Strict):
    """Node2Vec on the covisibility graph."""

    kind: Literal["node2vec"] = "node2vec"
    graph: str | None = Field(None, description="a graph named above; null: the scene's")
    engine: Literal["torch", "pyg", "node2vec"] = Field(
        "torch", description="pyg: as R-SCoRe's code; node2vec: the package of that name"
    )
    device: Literal["cpu", "cuda", "auto"] = Field(
        "cpu", description="torch, pyg; auto: a GPU if there is one, for torch above 8 192 images"
    )
    dim: int = Field(256, ge=2)
    p: float = Field(0.25, gt=0)
    q: float = Field(4.0, gt=0)
    walks: int = Field(128, ge=1, description="walks a node")
    length: int = Field(20, ge=2)
    context: int = Field(10, ge=1)
    negatives: int = Field(5, ge=1)
    iterations: int = Field(300, ge=1, description="Adam steps, each on 256 images (torch: up to 8 192 images)")
    epochs: int = Field(5, ge=1, description="node2vec: passes of the package over its walks")
    min_average_precision: float = Field(0.8, description="link prediction under it stops the run")


class ClustersConfig(Strict):
    """K-means of a retrieval feature: an image's encoding is the centre of its cluster (GLACE, Explicit Clustering)."""

    kind: Literal["clusters"]
    retrieval: str = Field(description="a retrieval feature named below; the method's own retrieval must be the same")
    clusters: int = Field(ge=1, description="K; GLACE Table 6: 4, 32 and 128 on Cambridge")


def _kind(values: Any) -> str:
    given = values.get("kind", "node2vec") if isinstance(values, dict) else getattr(values, "kind", None)
    return str(given)


EncodingConfig = Annotated[
    Annotated[Node2VecConfig, Tag("node2vec")] | Annotated[ClustersConfig, Tag("clusters")], Discriminator(_kind)
]


class RetrievalConfig(Strict):
    """An image descriptor: VLAD over local encodings, a network over the whole photo, several of them joined, or a
    file made by hloc."""

    kind: Literal["vlad", "network", "fusion", "hloc"] = "vlad"
    encoder: str | None = Field(None, description="vlad: the encoder config whose features are aggregated")
    clusters: int = Field(64, ge=1)
    keypoints: int = Field(1024, ge=16, description="per image (vlad)")
    network: str | None = Field(None, description="network: its name, see scrflow/features/descriptors")
    options: dict[str, Any] = Field(default_factory=dict, description="network: options of the class itself")
    parts: tuple[str, ...] = Field((), description="fusion: features of config.yaml (kinds vlad, network)")
    weights: tuple[float, ...] = Field((), description="fusion: factor of each part; equal when not given")
    dim: int | None = Field(
        256,
        ge=2,
        description="after PCA-whitening learnt on the mapping images, capped by their number - 1; null: no whitening",
    )
    file: str | None = Field(None, description="hloc: an HDF5 of image name -> global_descriptor; {scene} is filled in")
    pq_bytes: int = Field(64, ge=1, description="bytes an image in the product-quantised index")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {"vlad": "encoder", "network": "network", "fusion": "parts", "hloc": "file"}
        if self.file is not None and set("{}") & set(self.file.replace("{scene}", "")):
            raise ValueError("file: {scene} alone is filled in")
        if not getattr(self, needed[self.kind]):
            raise ValueError(f"{self.kind} needs {needed[self.kind]}")
        if self.kind == "fusion" and (len(self.parts) < 2 or len(set(self.parts)) < len(self.parts)):
            raise ValueError("fusion needs two or more parts, each once")
        if self.weights and (len(self.weights) != len(self.parts) or min(self.weights) <= 0):
            raise ValueError("weights needs a positive factor for each of parts")
        return self


class SampleDepthConfig(Strict):
    """Depth of buffer samples by matching their descriptors across covisible mapping images (known poses)."""

    neighbours: int = Field(24, ge=2, description="graph neighbours an image is matched with, of all overlaps")
    max_epipolar_px: float = Field(2.0, gt=0)
    max_residual_px: float = Field(2.5, gt=0, description="of a match to the triangulated point")
    min_support: int = Field(2, ge=1, description="matches that agree, the sample itself not counted")
    max_relative_sigma: float = Field(0.05, gt=0, description="of the depth, for 1 px noise; worse ones stay unknown")
    matches: int = Field(8, ge=1, description="matched samples kept for descriptor mixing")
    transfer_px: float = Field(1.5, gt=0, description="an augmented sample this near to a plain one takes its depth")


class PointDepthConfig(Strict):
    """Depth of buffer samples from the 3D points that an SfM model observes beside them."""

    radius_px: float = Field(5.0, gt=0, description="in the view's image: the nearest observed point within it tells")
    max_relative_sigma: float = Field(0.05, gt=0, description="of the depth; worse ones stay unknown")


class WeightsConfig(Strict):
    """Where published network weights are looked for and kept."""

    cache: str = Field("~/.cache/scrflow/weights", description="SCRFLOW_WEIGHTS overrides it")
    offline: bool = Field(False, description="never reach for the network; SCRFLOW_OFFLINE=1 overrides it")


class HlocConfig(Strict):
    """What the rules of hloc.smk make with hloc; names of its own configurations."""

    features: str = Field("disk", description="of hloc.extract_features.confs; local features")
    matcher: str = Field("disk+lightglue", description="of hloc.match_features.confs")
    retrieval: str = Field("netvlad", description="of hloc.extract_features.confs; pairs are chosen by it")
    pairs: int = Field(20, ge=1, description="images that each is matched with")


class GlobalConfig(Strict):
    """config/config.yaml."""

    seed: int = Field(1, ge=0)
    data_root: str = Field("../shared/data", description="folder of real scenes; SCRFLOW_DATA overrides it")
    buffer_shards: int = Field(4, ge=1)
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="of networks; auto: a CUDA GPU where there is one; SCRFLOW_DEVICE overrides it"
    )
    weights: WeightsConfig = WeightsConfig()
    graphs: dict[str, GraphConfig] = Field(
        default_factory=lambda: {kind: GraphConfig(kind=kind) for kind in ("frustum", "points")}
    )
    encodings: dict[str, EncodingConfig] = Field(default_factory=lambda: {"node2vec": Node2VecConfig()})
    retrieval: dict[str, RetrievalConfig] = Field(default_factory=dict)
    tracks: dict[str, TracksConfig] = Field(default_factory=dict)
    sample_depth: SampleDepthConfig = SampleDepthConfig()
    point_depth: PointDepthConfig = PointDepthConfig()
    hloc: HlocConfig = HlocConfig()
    table_sets: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="NAME of results/tables/TABLE@NAME -> the scenes in place of the table's own"
    )
