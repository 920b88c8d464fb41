"""Typed configuration: one frozen model per config file and per stage.

``config/config.yaml`` holds what is common (graphs, global encodings, retrieval features), ``config/scenes/NAME.yaml``
a scene, ``config/encoders/NAME.yaml`` a local encoder with its PCA and buffer, ``config/methods/NAME.yaml`` a method,
``config/baselines/NAME.yaml`` a baseline by feature matching, ``config/tables/NAME.yaml`` a table over them. ``extends:
OTHER`` in one of these takes OTHER's values where the file says nothing.

Each stage of the workflow reads exactly one of the ``*Stage`` models: what is in it reruns the stage when it changes,
and nothing else does.
"""

from scrflow.config.base import Strict, deep_merge
from scrflow.config.baseline import BaselineConfig, MatcherConfig, MatchFeaturesConfig, MatchLocalizeConfig
from scrflow.config.encoder import AugmentConfig, BufferConfig, EncoderConfig, ExtractorConfig, PcaConfig
from scrflow.config.features import (
    ClustersConfig,
    GlobalConfig,
    GraphConfig,
    HlocConfig,
    Node2VecConfig,
    PointDepthConfig,
    RetrievalConfig,
    SampleDepthConfig,
    WeightsConfig,
)
from scrflow.config.licence import CommercialUse, Restriction
from scrflow.config.method import (
    EarlyStopConfig,
    GlobalEncodingUse,
    HalvingConfig,
    HeadConfig,
    LocalizeConfig,
    LossConfig,
    MapConfig,
    MethodConfig,
    TrainingConfig,
)
from scrflow.config.scene import Archive, DepthMaps, Download, SceneConfig, SfmConfig, Split
from scrflow.config.sources import Source
from scrflow.config.stages import (
    BaselineLocalizeStage,
    BaselineMapStage,
    BufferStage,
    ClustersStage,
    CovisibilityStage,
    EvaluateStage,
    HlocExportStage,
    LocalizeStage,
    MapDepthStage,
    MapStage,
    Node2VecStage,
    PcaStage,
    PointDepthStage,
    RetrievalPart,
    RetrievalStage,
    SampleDepthStage,
    SceneStage,
    SfmStage,
    SubmissionStage,
    TrainStage,
    TriangulateStage,
)
from scrflow.config.table import TableConfig, TableStage
from scrflow.config.toy import ToyConfig, ToyStage

__all__ = [
    "Archive",
    "AugmentConfig",
    "BaselineConfig",
    "BaselineLocalizeStage",
    "BaselineMapStage",
    "BufferConfig",
    "BufferStage",
    "ClustersConfig",
    "ClustersStage",
    "CommercialUse",
    "CovisibilityStage",
    "DepthMaps",
    "Download",
    "EarlyStopConfig",
    "EncoderConfig",
    "EvaluateStage",
    "ExtractorConfig",
    "GlobalConfig",
    "GlobalEncodingUse",
    "GraphConfig",
    "HalvingConfig",
    "HeadConfig",
    "HlocConfig",
    "HlocExportStage",
    "LocalizeConfig",
    "LocalizeStage",
    "LossConfig",
    "MapConfig",
    "MapDepthStage",
    "MapStage",
    "MatchFeaturesConfig",
    "MatchLocalizeConfig",
    "MatcherConfig",
    "MethodConfig",
    "Node2VecConfig",
    "Node2VecStage",
    "PcaConfig",
    "PcaStage",
    "PointDepthConfig",
    "PointDepthStage",
    "Restriction",
    "RetrievalConfig",
    "RetrievalPart",
    "RetrievalStage",
    "SampleDepthConfig",
    "SampleDepthStage",
    "SceneConfig",
    "SceneStage",
    "SfmConfig",
    "SfmStage",
    "Source",
    "Split",
    "Strict",
    "SubmissionStage",
    "TableConfig",
    "TableStage",
    "ToyConfig",
    "ToyStage",
    "TrainStage",
    "TrainingConfig",
    "TriangulateStage",
    "WeightsConfig",
    "deep_merge",
]
