# ruff: noqa: F401 - imported for others
"""Typed configuration: one frozen model per config file and per stage.

``config/config.yaml`` holds what is common to all scenes; ``config/scenes``, ``encoders``, ``methods``, ``baselines``
and ``tables`` a file per NAME. ``extends: OTHER`` in one of these takes OTHER's values where the file says nothing.
Each stage of the workflow reads exactly one ``*Stage`` model: a change of its values reruns the stage.
"""

from scrflow.config.base import CommercialUse, Strict, deep_merge
from scrflow.config.features import (
    ClustersConfig,
    GlobalConfig,
    GraphConfig,
    Node2VecConfig,
    PointDepthConfig,
    RetrievalConfig,
    SampleDepthConfig,
)
from scrflow.config.method import (
    AugmentConfig,
    BaselineConfig,
    BufferConfig,
    EarlyStopConfig,
    EncoderConfig,
    ExtractorConfig,
    GlobalEncodingUse,
    HalvingConfig,
    HeadConfig,
    LandmarkLocalizeConfig,
    LandmarksConfig,
    LocalizeConfig,
    LossConfig,
    MapConfig,
    MatcherConfig,
    MatchFeaturesConfig,
    MatchLocalizeConfig,
    MethodConfig,
    PcaConfig,
    TracksConfig,
    TrainingConfig,
)
from scrflow.config.scene import Archive, DepthMaps, Download, SceneConfig, SfmConfig, Source, Split
from scrflow.config.stages import (
    BaselineLocalizeStage,
    BaselineMapStage,
    BufferStage,
    ClustersStage,
    CovisibilityStage,
    EvaluateStage,
    HlocExportStage,
    LandmarksPart,
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
    TracksStage,
    TrainStage,
    TriangulateStage,
)
from scrflow.config.table import TableConfig, ToyConfig, ToyStage
