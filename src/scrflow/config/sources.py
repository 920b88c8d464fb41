"""Where a scene comes from: one model a dataset form. ``reader`` names the module in scrflow/scene/readers.

``files(root)`` lists what makes another scene when it changes; photos are known by their checksums in scene.json.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, model_validator

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


class KaptureSource(Strict):
    """kapture 1.x: one folder for the mapping images, one a condition of the queries; in each ``sensors/``."""

    reader: Literal["kapture"]
    mapping: str = Field("mapping", description="kapture folder of the mapping images, relative to root")
    queries: dict[str, str] = Field(
        {"all": "query"},
        description="condition -> kapture folder; empty where mapping and queries share one and split has lists",
    )
    sensors: tuple[str, ...] | None = Field(None, description="ids of the cameras to take; all when not given")

    def files(self, root: Path) -> list[Path]:
        names = ("sensors", "rigs", "trajectories", "records_camera")
        folders = dict.fromkeys((self.mapping, *self.queries.values()))
        return [root / folder / "sensors" / f"{name}.txt" for folder in folders for name in names]


class MapFreeSource(Strict):
    """A scene of the Map-free dataset: intrinsics.txt, poses.txt (cam_from_world) and a folder a sequence."""

    reader: Literal["mapfree"]
    scene: str = Field(".", description="folder of the scene, relative to root")
    mapping: str = Field("seq0", description="sequence that is mapped")
    queries: str = Field("seq1", description="sequence that is localized")
    query_every: int = Field(
        1, ge=1, description="every n-th frame is a query; the published evaluation takes every 5th"
    )

    def files(self, root: Path) -> list[Path]:
        return [root / self.scene / name for name in ("intrinsics.txt", "poses.txt")]


def _unpacked(root: Path, folder: str) -> Path:
    """``folder`` under root, where the archive has put it; without it the same below its first part (``kitchen`` for
    ``apt1/kitchen``), for a dataset whose root is that part."""
    return root / folder if (root / folder).is_dir() else root.joinpath(*PurePosixPath(folder).parts[1:])


def _pose_lists(lists: str, root: Path, scene: str) -> list[Path]:
    """SCENE_train.txt and SCENE_test.txt in the first folder, under root or else beside it, that the glob matches."""
    found = (folder for base in (root, root.parent) for folder in sorted(base.glob(lists)) if folder.is_dir())
    folder = next(found, root / lists)
    return [folder / f"{scene}_{part}.txt" for part in ("train", "test")]


class SevenScenesSource(Strict):
    """A scene of 7-Scenes as published: seq-XX/frame-XXXXXX.{color.png,pose.txt}, TrainSplit.txt, TestSplit.txt."""

    reader: Literal["sevenscenes"]
    folder: str = Field(description="chess, fire ...: where the archive has put the files; without it they are in root")
    poses: Literal["sfm", "dslam"] = Field(
        description="sfm: pseudo ground truth by SfM (Brachmann et al., ICCV 2021); dslam: the published *.pose.txt"
    )
    lists: str = Field(
        "visloc_pseudo_gt_limitations*/pgt/sfm/7scenes",
        description="poses sfm: glob of the folder with FOLDER_train.txt and FOLDER_test.txt, under root or beside it",
    )
    depth_to_colour: bool = Field(
        True,
        description="poses dslam: those of the depth camera become those of the colour camera, as in DSAC* and ACE",
    )

    def dataset(self, root: Path) -> Path:
        """The folder with the sequences."""
        return _unpacked(root, self.folder)

    def pose_lists(self, root: Path) -> list[Path]:
        """Lists of the SfM poses, mapping and queries."""
        return _pose_lists(self.lists, root, self.folder)

    def files(self, root: Path) -> list[Path]:
        folder = self.dataset(root)
        poses = self.pose_lists(root) if self.poses == "sfm" else sorted(folder.glob("seq-*/frame-*.pose.txt"))
        return [folder / "TrainSplit.txt", folder / "TestSplit.txt", *poses]


class TwelveScenesSource(Strict):
    """A scene of 12-Scenes as published: data/frame-XXXXXX.{color.jpg,pose.txt}, info.txt, split.txt."""

    reader: Literal["twelvescenes"]
    folder: str = Field(
        pattern=r"^\w+/\w+$", description="apt1/kitchen ...: where the archive has put the scene; else root/kitchen"
    )
    poses: Literal["sfm", "dslam"] = Field(
        description="sfm: pseudo ground truth by SfM (Brachmann et al., ICCV 2021); dslam: the published *.pose.txt"
    )
    lists: str = Field(
        "visloc_pseudo_gt_limitations*/pgt/sfm/12scenes",
        description="poses sfm: glob of the folder with apt1_kitchen_train.txt and so on, under root or beside it",
    )

    def dataset(self, root: Path) -> Path:
        """The folder with info.txt and data/."""
        return _unpacked(root, self.folder)

    def pose_lists(self, root: Path) -> list[Path]:
        """Lists of the SfM poses, mapping and queries."""
        return _pose_lists(self.lists, root, self.folder.replace("/", "_"))

    def files(self, root: Path) -> list[Path]:
        folder = self.dataset(root)
        poses = self.pose_lists(root) if self.poses == "sfm" else sorted(folder.glob("data/frame-*.pose.txt"))
        return [folder / "info.txt", folder / "split.txt", *poses]


class CombinedSource(Strict):
    """Several scenes side by side in one world, each in a cell of a grid (i7, i12, i19 of ESAC and GLACE)."""

    reader: Literal["combined"]
    scenes: tuple[str, ...] = Field(min_length=2, description="names of the scenes, in the order of the cells")
    cell: float = Field(5.0, gt=0, description="side of a cell, in the scenes' unit")
    columns: int | None = Field(
        None, ge=1, description="cells a row; the root of their number, rounded up, if not given"
    )
    centres: dict[str, tuple[float, float, float]] = Field(
        default_factory=dict,
        description="scene -> its point that comes to the cell's corner; not listed: the mean of its mapping cameras",
    )
    allow_units: bool = Field(False, description="combine scenes of different units as if they were one")

    @model_validator(mode="after")
    def _parts(self) -> CombinedSource:
        if len(set(self.scenes)) < len(self.scenes):
            raise ValueError("scenes: a scene is listed twice")
        unknown = sorted(set(self.centres) - set(self.scenes))
        if unknown:
            raise ValueError(f"centres: {', '.join(unknown)} not among scenes")
        return self

    def files(self, root: Path) -> list[Path]:
        return []  # the scenes' artifacts are inputs of their own


class RegionSource(Strict):
    """A part of another scene, by where its mapping cameras are; all its queries. Poses stay in the one frame."""

    reader: Literal["region"]
    scene: str = Field(description="name of the scene that is cut")
    regions: int = Field(ge=2, description="number of regions that it is cut into")
    region: int = Field(ge=1, description="which of them, from 1")
    overlap: float = Field(
        0.0,
        ge=0,
        description="in the scene's unit: a camera this near to one of another region's belongs to that one too; as "
        "far as the photos see clearly",
    )
    by: Literal["bisect", "kmeans"] = Field(
        "bisect",
        description="bisect: equal numbers of photos, cut across the direction of largest variance, again and again; "
        "kmeans: clusters of the cameras' centres",
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> RegionSource:
        if self.region > self.regions:
            raise ValueError(f"region {self.region} of {self.regions}: they are numbered from 1")
        return self

    def files(self, root: Path) -> list[Path]:
        return []  # the scene's artifact is an input of its own


class NvmSource(Strict):
    """A VisualSFM model (NVM_V3) with an image folder."""

    reader: Literal["nvm"]
    model: str = Field(description="the .nvm file, relative to root")
    images: str = Field("images", description="folder that the model's image names are relative to")
    intrinsics: str | None = Field(
        None, description="list of lines 'name MODEL width height params' that stands in for the model's cameras"
    )
    points: bool = Field(True, description="keep the model's 3D points")

    def files(self, root: Path) -> list[Path]:
        return [root / name for name in (self.model, self.intrinsics) if name]


class CambridgeSource(Strict):
    """Cambridge Landmarks: dataset_train.txt, dataset_test.txt, reconstruction.nvm and a folder a sequence."""

    reader: Literal["cambridge"]
    folder: str = Field(".", description="where the archive has put the files; without it they are in root itself")
    points: bool = Field(True, description="keep the model's 3D points")

    def dataset(self, root: Path) -> Path:
        """The folder with the lists."""
        return root / self.folder if (root / self.folder).is_dir() else root

    def files(self, root: Path) -> list[Path]:
        names = ("dataset_train.txt", "dataset_test.txt", "reconstruction.nvm")
        return [self.dataset(root) / name for name in names]


Source = Annotated[
    ColmapSource
    | NerfstudioSource
    | DsacSource
    | PoseListSource
    | PhotosSource
    | KaptureSource
    | MapFreeSource
    | SevenScenesSource
    | TwelveScenesSource
    | CombinedSource
    | RegionSource
    | NvmSource
    | CambridgeSource,
    Field(discriminator="reader"),
]
