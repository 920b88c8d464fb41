"""Where a scene comes from: one model a dataset form. ``reader`` names the module in scrflow/scene/readers.

``files(root)`` lists what makes another scene when it changes; photos are known by their checksums in scene.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from scrflow.config.base import Strict


class ColmapSource(Strict):
    """A COLMAP model (bin or text) with an image folder."""

    reader: Literal["colmap"]
    model: str = Field("model", description="folder with cameras, images, points3D (.bin or .txt), relative to root")
    images: str = Field("images", description="folder that the model's image names are relative to")

    def files(self, root: Path) -> list[Path]:
        parts = ("cameras", "images", "points3D", "rigs", "frames")
        return [root / self.model / f"{part}{end}" for part in parts for end in (".bin", ".txt")]


class NerfstudioSource(Strict):
    """nerfstudio / instant-ngp ``transforms.json``: camera-to-world, OpenGL axes."""

    reader: Literal["nerfstudio"]
    transforms: str = "transforms.json"
    skip_missing: bool = Field(False, description="leave out listed frames whose image file is absent (fox lists 17)")

    def files(self, root: Path) -> list[Path]:
        return [root / self.transforms]


class DsacSource(Strict):
    """DSAC* layout: one folder a split, each with rgb/, poses/ (4x4 camera-to-world), calibration/ (3x3 or a focal)."""

    reader: Literal["dsac"]
    mapping: str = "train"
    queries: str = "test"

    def files(self, root: Path) -> list[Path]:
        folders = [root / part / kind for part in (self.mapping, self.queries) for kind in ("poses", "calibration")]
        return [path for folder in folders for path in sorted(folder.glob("*"))]


class PoseListSource(Strict):
    """Lines ``name qw qx qy qz tx ty tz f`` (cam_from_world): the pseudo ground truth of 7-Scenes."""

    reader: Literal["poselist"]
    poses: str
    images: str = "."
    principal_point: tuple[float, float] | None = Field(None, description="px; the image centre when not given")

    def files(self, root: Path) -> list[Path]:
        return [root / self.poses]


class PhotosSource(Strict):
    """Bare photos: structure from motion finds poses and intrinsics."""

    reader: Literal["photos"]
    images: str = "images"
    camera_model: str = "SIMPLE_RADIAL"
    single_camera: bool = Field(True, description="all photos share intrinsics (one phone, no zoom)")
    queries_in_sfm: bool = Field(True, description="query photos are registered too and get SfM poses as reference")

    def files(self, root: Path) -> list[Path]:
        return sorted(p for p in (root / self.images).rglob("*") if not p.name.startswith("."))


Source = Annotated[
    ColmapSource | NerfstudioSource | DsacSource | PoseListSource | PhotosSource, Field(discriminator="reader")
]
