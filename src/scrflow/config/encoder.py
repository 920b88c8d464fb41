"""config/encoders: a local encoder with its PCA and buffer."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from scrflow.config.base import CommercialUse, Strict


class ExtractorConfig(Strict):
    """A frozen local extractor; ``name`` picks the class, see scrflow/encoders."""

    name: str
    short_side: int = Field(480, ge=64, description="px; photos are resized to it, cameras with them")
    max_keypoints: int = Field(1024, ge=16)
    options: dict[str, Any] = Field(default_factory=dict, description="options of the class itself")


class PcaConfig(Strict):
    """Reduction of local descriptors."""

    dim: int = Field(128, ge=2)
    samples: int = Field(200_000, ge=256, description="descriptors it is learnt on")


class AugmentConfig(Strict):
    """Augmentation when the buffer is filled (GLACE sec. B)."""

    rotation_deg: float = Field(15.0, ge=0, le=180)
    scale: tuple[float, float] = (2 / 3, 3 / 2)
    brightness: float = Field(0.1, ge=0, lt=1)
    contrast: float = Field(0.1, ge=0, lt=1)
    saturation: float = Field(0.0, ge=0, lt=1)
    hue: float = Field(0.0, ge=0, le=0.5)


class BufferConfig(Strict):
    """Training samples: copies of every mapping image, the first without augmentation if ``plain_copies`` is 1."""

    plain_copies: int = Field(1, ge=0)
    augmented_copies: int = Field(1, ge=0)
    samples_per_copy: int = Field(1024, ge=16)
    max_samples: int | None = Field(
        None,
        ge=1,
        description="no more copies of an image are made than it takes to hold so many in all (at least one)",
    )
    augment: AugmentConfig = AugmentConfig()

    def copies(self, images: int) -> int:
        """Copies of each of so many mapping images; the plain ones come first."""
        wanted = self.plain_copies + self.augmented_copies
        if self.max_samples is None:
            return wanted
        return min(wanted, max(1, -(-self.max_samples // (images * self.samples_per_copy))))

    @model_validator(mode="after")
    def _some(self) -> BufferConfig:
        if self.plain_copies + self.augmented_copies == 0:
            raise ValueError("plain_copies + augmented_copies must be at least 1")
        return self


class EncoderConfig(Strict):
    """A local encoder with what follows it up to the buffer."""

    extends: str | None = None
    description: str
    licence: str
    commercial_use: CommercialUse = Field("unknown", description="what the licence says of it")
    extractor: ExtractorConfig
    pca: PcaConfig = PcaConfig()
    buffer: BufferConfig = BufferConfig()
