"""config/baselines: localization by feature matching against triangulated points, to stand beside the methods."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from scrflow.config.base import Strict
from scrflow.config.encoder import ExtractorConfig
from scrflow.config.method import LocalizeConfig


class MatchFeaturesConfig(Strict):
    """Local features of mapping photos and queries; ``name`` picks the extractor, see scrflow/encoders."""

    name: str
    max_keypoints: int = Field(4096, ge=16)
    max_size: int = Field(1600, ge=64, description="px of the long side; larger photos are reduced, others stay")
    descriptors: Literal["uint8", "fp16"] = Field(
        "fp16", description="in the map; uint8: 512 times a unit vector without negative numbers (SIFT, as COLMAP)"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="options of the extractor's class")

    @property
    def extractor(self) -> ExtractorConfig:
        """The extractor as scrflow.features.encoders takes it."""
        return ExtractorConfig(name=self.name, max_keypoints=self.max_keypoints, options=self.options)


class MatcherConfig(Strict):
    """How the features of two photos are matched."""

    kind: Literal["nearest", "lightglue"] = "nearest"
    max_ratio: float | None = Field(
        0.8,
        gt=0,
        le=1,
        description="nearest: of the angles to nearest and second nearest, in both directions; null: any",
    )
    max_angle: float | None = Field(0.7, gt=0, description="nearest: between matched descriptors, radians; null: any")
    weights: str | None = Field(None, description="lightglue: of the features, by their name in the registry")
    min_score: float = Field(0.1, ge=0, le=1, description="lightglue: of a match")

    @model_validator(mode="after")
    def _weighed(self) -> MatcherConfig:
        if (self.kind == "lightglue") != (self.weights is not None):
            raise ValueError("lightglue needs weights, and nearest takes none")
        return self


class MatchLocalizeConfig(Strict):
    """Pose of a query from matches with the retrieved images."""

    retrieved: int = Field(10, ge=1, description="mapping images that a query is matched with")
    short_side: int = Field(
        480,
        ge=64,
        description="threshold_px and refine_px are pixels of a photo of this short side, as the methods' are",
    )
    threshold_px: float = Field(10.0, gt=0)
    iterations: int = Field(1000, ge=10)
    min_inliers: int = Field(12, ge=4, description="fewer and the query counts as not localized")
    refine_px: float | None = Field(1.5, gt=0, description="final refinement: Cauchy scale; null: PoseLib's own")

    @property
    def pose(self) -> LocalizeConfig:
        """As scrflow.localize.pose takes it."""
        return LocalizeConfig(
            hypotheses=1,
            threshold_px=self.threshold_px,
            iterations=self.iterations,
            min_inliers=self.min_inliers,
            refine_px=self.refine_px,
            halving=None,
        )


class BaselineConfig(Strict):
    """A baseline: features, matcher, which mapping images are matched, retrieval, localization."""

    extends: str | None = None
    description: str
    features: MatchFeaturesConfig
    matcher: MatcherConfig = MatcherConfig()
    neighbours: int = Field(
        20, ge=2, description="mapping images that each is matched with, spread from most to least covisible"
    )
    retrieval: str = Field(description="a retrieval feature named in config.yaml")
    localize: MatchLocalizeConfig = MatchLocalizeConfig()
