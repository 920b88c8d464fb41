"""What each stage of the workflow reads: these models are the ``params.config`` of the rules."""

from typing import Literal

from pydantic import Field

from scrflow.config.base import Restriction, Strict
from scrflow.config.features import (
    ClustersConfig,
    GraphConfig,
    Node2VecConfig,
    PointDepthConfig,
    RetrievalConfig,
    SampleDepthConfig,
)
from scrflow.config.method import (
    BufferConfig,
    ExtractorConfig,
    GlobalEncodingUse,
    HeadConfig,
    LandmarksConfig,
    LocalizeConfig,
    MapConfig,
    MatcherConfig,
    MatchFeaturesConfig,
    MatchLocalizeConfig,
    PcaConfig,
    TracksConfig,
    TrainingConfig,
)
from scrflow.config.scene import AnySource, DepthMaps, SfmConfig, Split


class SfmStage(Strict):
    source: AnySource
    split: Split
    sfm: SfmConfig
    seed: int


class SceneStage(Strict):
    source: AnySource
    split: Split
    min_mapping_images: int
    unit: str
    check_poses: bool = True


class TriangulateStage(Strict):
    max_features: int = 4096
    hloc_features: str | None = Field(None, description="hloc's files of features and matches, in place of SIFT")
    hloc_matches: str | None = None
    seed: int


class CovisibilityStage(Strict):
    graph: GraphConfig
    depth_range: tuple[float, float] | None
    seed: int


class Node2VecStage(Strict):
    node2vec: Node2VecConfig
    seed: int


class ClustersStage(Strict):
    clusters: ClustersConfig
    seed: int


class RetrievalPart(Strict):
    """A retrieval feature that another one is joined from."""

    retrieval: RetrievalConfig
    extractor: ExtractorConfig | None


class RetrievalStage(RetrievalPart):
    near: float = Field(gt=0, description="scene units; a retrieved image within it counts as found, in the measures")
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


class PointDepthStage(Strict):
    points: PointDepthConfig


class MapDepthStage(Strict):
    maps: DepthMaps


class TrainStage(Strict):
    global_encoding: GlobalEncodingUse
    head: HeadConfig
    training: TrainingConfig
    depth_bias: float
    target_depth: float
    seed: int


class TracksStage(Strict):
    tracks: TracksConfig
    seed: int


class LandmarksPart(Strict):
    """The landmarks of a map, and the features by which queries are matched with them."""

    features: MatchFeaturesConfig
    landmarks: LandmarksConfig


class MapStage(Strict):
    """What a map file says of itself: how photos are encoded, how the map is kept, and how to localize with it."""

    extractor: ExtractorConfig | None = Field(description="of the head")
    global_encoding: GlobalEncodingUse
    head: HeadConfig | None
    landmarks: LandmarksPart | None = None
    retrieval: RetrievalConfig | None
    retrieval_extractor: ExtractorConfig | None
    retrieval_parts: tuple[RetrievalPart, ...] = ()
    own_encoding: bool = Field(description="g is the photo's own retrieval feature (GLACE)")
    clustered: bool = Field(False, description="g is the centre of the cluster that the photo's own feature is in")
    map: MapConfig = MapConfig()
    localize: LocalizeConfig
    thresholds: tuple[tuple[float, float], ...] = Field(description="of the scene: unit and degrees, finest first")
    unit: str
    restrictions: tuple[Restriction, ...] = Field((), description="what in the map may not be used commercially")
    seed: int


class LocalizeStage(Strict):
    localize: LocalizeConfig
    seed: int


class BaselineMapStage(Strict):
    """What the map of a baseline says of itself: how photos are described and matched."""

    features: MatchFeaturesConfig
    matcher: MatcherConfig
    neighbours: int
    retrieval: RetrievalPart
    retrieval_parts: tuple[RetrievalPart, ...] = ()
    seed: int


class BaselineLocalizeStage(Strict):
    localize: MatchLocalizeConfig
    seed: int


class SubmissionStage(Strict):
    pose_names: Literal["path", "basename"]


class HlocExportStage(Strict):
    """What scrflow export-hloc writes."""

    extractor: ExtractorConfig
    retrieval_name: str | None
    retrieval: RetrievalPart | None
    parts: tuple[RetrievalPart, ...]
    pairs: int = Field(ge=1)


class EvaluateStage(Strict):
    thresholds: tuple[tuple[float, float], ...]
    unit: str
    synthetic: bool
