"""The 2D toy example of the position decoder (GLACE, supplement C, Figure 8)."""

from __future__ import annotations

from pydantic import Field

from scrflow.config.base import Strict
from scrflow.config.encoder import ExtractorConfig


class ToyConfig(Strict):
    """Photos side by side in one plane; a head is to tell from a local descriptor where in the plane it was seen."""

    scenes: tuple[str, ...] = Field(("demo",), min_length=1, description="whose mapping photos are taken")
    photos: int = Field(19, ge=2)
    columns: int = Field(5, ge=1)
    size: tuple[int, int] = Field((640, 480), description="px, width and height that each photo is cropped to")
    extractor: ExtractorConfig = Field(
        ExtractorConfig(name="sift", max_keypoints=256),
        description="needs no weights; the paper's: ace, every cell of a photo (max_keypoints 4800)",
    )
    width: int = Field(128, ge=8)
    blocks: int = Field(1, ge=0)
    hidden_ratio: float = Field(1.0, gt=0)
    unit_px: float = Field(100.0, gt=0, description="length that the head's number 1 stands for: a metre of a room")
    steps: int = Field(2000, ge=1)
    batch_size: int = Field(512, ge=1)
    lr_max: float = Field(4e-3, gt=0)
    seeds: tuple[int, ...] = Field((1, 2, 3), min_length=1)


class ToyStage(Strict):
    """What the table of Figure 8 reads."""

    toy: ToyConfig
    set: str | None = Field(None, description="of table_sets, whose scenes are taken in place of the config's")
