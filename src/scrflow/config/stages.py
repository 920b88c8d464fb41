"""What each stage of the workflow reads: these models are the ``params.config`` of the rules."""

from __future__ import annotations

from pydantic import Field

from scrflow.config.base import Strict
from scrflow.config.encoder import BufferConfig, ExtractorConfig, PcaConfig
from scrflow.config.features import GraphConfig, Node2VecConfig, RetrievalConfig, SampleDepthConfig
from scrflow.config.method import GlobalEncodingUse, HeadConfig, LocalizeConfig, TrainingConfig
from scrflow.config.scene import SfmConfig, Split
from scrflow.config.sources import PhotosSource, Source


class SfmStage(Strict):
    source: PhotosSource
    split: Split
    sfm: SfmConfig
    seed: int


class SceneStage(Strict):
    source: Source
    split: Split
    min_mapping_images: int
    unit: str


class TriangulateStage(Strict):
    max_features: int = 4096
    seed: int


class CovisibilityStage(Strict):
    graph: GraphConfig
    depth_range: tuple[float, float]
    seed: int


class Node2VecStage(Strict):
    node2vec: Node2VecConfig
    seed: int


class RetrievalStage(Strict):
    retrieval: RetrievalConfig
    extractor: ExtractorConfig | None
    seed: int


class PcaStage(Strict):
    extractor: ExtractorConfig
    pca: PcaConfig
    seed: int


class BufferStage(Strict):
    extractor: ExtractorConfig
    buffer: BufferConfig
    shards: int
    seed: int


class SampleDepthStage(Strict):
    depth: SampleDepthConfig
    seed: int


class TrainStage(Strict):
    global_encoding: GlobalEncodingUse
    head: HeadConfig
    training: TrainingConfig
    depth_bias: float
    target_depth: float
    seed: int


class MapStage(Strict):
    extractor: ExtractorConfig
    global_encoding: GlobalEncodingUse
    head: HeadConfig
    retrieval: RetrievalConfig | None
    retrieval_extractor: ExtractorConfig | None
    own_encoding: bool = Field(
        description="g is the photo's own retrieval feature (GLACE), not that of retrieved images"
    )
    unit: str


class LocalizeStage(Strict):
    localize: LocalizeConfig
    seed: int


class EvaluateStage(Strict):
    thresholds: tuple[tuple[float, float], ...]
    unit: str
    synthetic: bool
