"""Typed configuration: one frozen model per config file and per stage.

``config/config.yaml`` holds what is common (graphs, global encodings, retrieval features), ``config/scenes/NAME.yaml``
a scene, ``config/encoders/NAME.yaml`` a local encoder with its PCA and buffer, ``config/methods/NAME.yaml`` a method.
``extends: OTHER`` in a scene, encoder or method takes OTHER's values where the file says nothing.

Each stage of the workflow reads exactly one of the ``*Stage`` models: what is in it reruns the stage when it changes,
and nothing else does.
"""

from scrflow.config.base import Strict, deep_merge
from scrflow.config.encoder import AugmentConfig, BufferConfig, EncoderConfig, ExtractorConfig, PcaConfig
from scrflow.config.features import (
    GlobalConfig,
    GraphConfig,
    Node2VecConfig,
    RetrievalConfig,
    SampleDepthConfig,
    WeightsConfig,
)
from scrflow.config.method import (
    GlobalEncodingUse,
    HeadConfig,
    LocalizeConfig,
    LossConfig,
    MethodConfig,
    TrainingConfig,
)
from scrflow.config.project import RESERVED, Project
from scrflow.config.scene import Archive, Download, SceneConfig, SfmConfig, Split
from scrflow.config.sources import ColmapSource, DsacSource, NerfstudioSource, PhotosSource, PoseListSource, Source
from scrflow.config.stages import (
    BufferStage,
    CovisibilityStage,
    EvaluateStage,
    LocalizeStage,
    MapStage,
    Node2VecStage,
    PcaStage,
    RetrievalStage,
    SampleDepthStage,
    SceneStage,
    SfmStage,
    TrainStage,
    TriangulateStage,
)

__all__ = [
    "RESERVED",
    "Archive",
    "AugmentConfig",
    "BufferConfig",
    "BufferStage",
    "ColmapSource",
    "CovisibilityStage",
    "Download",
    "DsacSource",
    "EncoderConfig",
    "EvaluateStage",
    "ExtractorConfig",
    "GlobalConfig",
    "GlobalEncodingUse",
    "GraphConfig",
    "HeadConfig",
    "LocalizeConfig",
    "LocalizeStage",
    "LossConfig",
    "MapStage",
    "MethodConfig",
    "NerfstudioSource",
    "Node2VecConfig",
    "Node2VecStage",
    "PcaConfig",
    "PcaStage",
    "PhotosSource",
    "PoseListSource",
    "Project",
    "RetrievalConfig",
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
    "TrainStage",
    "TrainingConfig",
    "TriangulateStage",
    "WeightsConfig",
    "deep_merge",
]
