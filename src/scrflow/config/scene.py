"""config/scenes: a scene's source, split, units and scale."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    PlainValidator,
    SerializeAsAny,
    TypeAdapter,
    field_validator,
    model_validator,
)

from scrflow.config.base import CommercialUse, Strict
from scrflow.core.plugins import load, plugins


class Source(Strict):
    """What every reader's model has."""

    part_of_a_scene: ClassVar[bool] = False  # whether poses stay in the frame of the scene that it is a part of
    file_keys: ClassVar[tuple[str, ...]] = ()  # that name a file under root
    reader: str
    skip_missing: bool = Field(False, description="leave out listed photos whose file is absent (fox lists 17)")

    def files(self, root: Path) -> list[Path]:
        """What makes another scene when it changes. Photos are known by their checksums in scene.json."""
        return [root / name for key in self.file_keys if (name := getattr(self, key))]

    @property
    def parts(self) -> tuple[str, ...]:
        """Scenes whose artifacts it is made of."""
        return ()

    def has_points(self, root: Path) -> bool:
        """Whether its model has 3D points."""
        return False

    @classmethod
    def reader_name(cls) -> str:
        """The name that ``reader`` has in a config."""
        return get_args(cls.model_fields["reader"].annotation)[0]


def reader_named(name: str) -> type[Source]:
    """The reader's class in the module that has it."""
    found = (value for value in vars(load("reader", name)).values() if isinstance(value, type))
    return next(c for c in found if issubclass(c, Source) and c.model_fields["reader"].annotation == Literal[name])


def _by_reader(values: Any) -> Source:
    if isinstance(values, Source):
        return values
    reader = values.get("reader") if isinstance(values, dict) else None
    if reader not in plugins("reader"):
        raise ValueError(f"no reader {reader!r}; set source.reader to one of {', '.join(plugins('reader'))}")
    return reader_named(reader).model_validate(values)


class _AllReaders:
    @staticmethod
    def __get_pydantic_json_schema__(schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        models = tuple(map(reader_named, plugins("reader")))
        return handler(TypeAdapter(Annotated[Union[models], Field(discriminator="reader")]).core_schema)  # noqa: UP007


AnySource = Annotated[SerializeAsAny[Source], PlainValidator(_by_reader), _AllReaders]


class Split(Strict):
    """Which images are mapped and which are queries: lists (files of names, relative to root), or every n-th image."""

    mapping: str | None = None
    queries: dict[str, str] = Field(default_factory=dict, description="condition (all, day, night) -> list file")
    every: int | None = Field(None, ge=2, description="instead of lists: the 1st, (n+1)th, ... image is a query")
    query_poses: str | None = Field(
        None,
        description="reference poses of queries, lines 'name qw qx qy qz tx ty tz' (cam_from_world; name with or "
        "without its folders), for datasets that publish none; relative to root",
    )
    guess_cameras: bool = Field(
        False,
        description="a query whose intrinsics neither the source, nor its list, nor EXIF tells gets a guess "
        "(focal length 1.2 times the longer side); otherwise it stops the run",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.every is not None and (self.mapping is not None or self.queries):
            raise ValueError("give either every, or the lists mapping and queries")
        return self


class Archive(Strict):
    """A published archive (zip, tar, tar.gz, tar.bz2, tar.xz), or with ``unpack: false`` a single file."""

    url: str = Field(pattern=r"^(https|s3)://", description="https://..., or s3://BUCKET/KEY (docs/reproducibility.md)")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="null: recorded at the first download")
    into: str = Field(".", description="folder that it is unpacked in, relative to the scene's root")
    unpack: bool = Field(True, description="false: the file itself is what is wanted, in the folder ``into``")
    nested: str | None = Field(None, description="glob of archives in it; each is unpacked where it lies")
    skip: tuple[str, ...] = Field((), description="globs of members that are left out")


class Download(Strict):
    """Where a dataset comes from when it is not under data_root."""

    files: str | None = Field(None, description="TSV in config/scenes with columns path, sha256, url")
    archives: tuple[Archive, ...] = ()
    page: str | None = Field(None, pattern=r"^https://", description="where a person gets it by hand")

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.files is None and not self.archives and self.page is None:
            raise ValueError("give files, archives or page")
        return self


class SfmConfig(Strict):
    """Structure from motion on bare photos."""

    features: Literal["sift", "hloc"] = "sift"
    hloc_features: str | None = Field(None, description="hloc: its HDF5 of local features; {scene} is filled in")
    hloc_matches: str | None = Field(None, description="hloc: its HDF5 of matches of these features")
    max_features: int = Field(8192, ge=256)
    max_image_size: int = Field(1600, ge=64, description="px, long side")
    exhaustive_up_to: int = Field(60, ge=2, description="more images than this are paired by retrieval")
    retrieval_pairs: int = Field(20, ge=2, description="pairs an image when paired by retrieval")
    mapper: Literal["incremental", "global"] = "incremental"
    min_registered: float = Field(0.8, gt=0, le=1, description="a smaller registered fraction stops the run")
    median_depth: float | None = Field(None, gt=0, description="rescale the model to this median point depth")
    positions: str | None = Field(
        None,
        description="where the photos were taken, to scale and turn the model: gps (of their EXIF; metres east, north "
        "and up), or a file of lines 'name x y z' in the scene's unit, relative to root",
    )
    known_distances: tuple[tuple[str, str, Annotated[float, Field(gt=0)]], ...] = Field(
        (), description="[photo, photo, how far apart they were taken, in the scene's unit], to scale the model"
    )

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        if sum(v is not None and v != () for v in (self.median_depth, self.positions, self.known_distances)) > 1:
            raise ValueError("give one of median_depth, positions and known_distances")
        return self

    @model_validator(mode="after")
    def _files_of_hloc(self) -> Self:
        given = [self.hloc_features is not None, self.hloc_matches is not None]
        if self.features == "hloc" and not all(given):
            raise ValueError("features: hloc needs hloc_features and hloc_matches")
        if self.features == "sift" and any(given):
            raise ValueError("hloc_features and hloc_matches are read with features: hloc alone")
        return self

    def of_scene(self, scene: str) -> Self:
        """With ``{scene}`` filled in."""
        files = {key: getattr(self, key) for key in ("hloc_features", "hloc_matches")}
        return self.model_copy(update={key: path and path.replace("{scene}", scene) for key, path in files.items()})


class DepthMaps(Strict):
    """Depth images of mapping photos: of a depth camera, or rendered. Photos without one are passed over."""

    pattern: str = Field(
        description="file of a photo's depth image, relative to the scene's root: {folder} is the photo's folder, "
        "{stem} its file name up to the first dot, {base} up to the last"
    )
    scale: float = Field(0.001, gt=0, description="the scene's unit per number in the file (0.001: millimetres)")
    max_depth: float = Field(gt=0, description="in the scene's unit; 0 and larger ones are holes (7-Scenes: 65 535)")
    focal: float | None = Field(None, gt=0, description="px, of the depth image; null: it is aligned with the photo")
    principal_point: tuple[float, float] | None = Field(None, description="px; the centre where not given")
    photo_from_depth: tuple[float, float, float] = Field((0.0, 0.0, 0.0), description="translation, in scene units")
    relative_sigma: float = Field(0.01, gt=0, description="of the depths; what the loss allows along the ray")
    max_relative_step: float = Field(0.03, gt=0, description="larger steps around a sample are edges: no depth")

    @field_validator("pattern")
    @classmethod
    def _known_fields(cls, pattern: str) -> str:
        one, other = (_filled(pattern, "a", name, name) for name in ("b", "c"))
        if set("{}") & set(one):
            raise ValueError("knows {folder}, {stem} and {base}; remove other braces")
        if one == other:
            raise ValueError("must hold {stem} or {base}: every photo has a depth image of its own")
        parts = pattern.split("/")
        if parts[0] == "" or ".." in parts or any("{folder}" in part and part != "{folder}" for part in parts):
            raise ValueError("must be relative to the scene's root, without .., and {folder} a folder by itself")
        return pattern

    @model_validator(mode="after")
    def _camera(self) -> Self:
        if self.focal is None and (self.principal_point is not None or any(self.photo_from_depth)):
            raise ValueError("principal_point and photo_from_depth need focal: without it the images are aligned")
        return self

    def path_of(self, photo: str) -> str:
        """File of the depth image of a photo, relative to the scene's root."""
        folder, _, name = photo.rpartition("/")
        base = name.rpartition(".")[0] or name
        return _filled(self.pattern, folder or ".", name.split(".")[0], base)


def _filled(pattern: str, folder: str, stem: str, base: str) -> str:
    return pattern.replace("{folder}", folder).replace("{stem}", stem).replace("{base}", base)


class SceneConfig(Strict):
    """One scene: source, split, units and the scale that losses and graphs assume."""

    extends: str | None = None
    description: str
    licence: str
    commercial_use: CommercialUse = Field("unknown", description="what the licence says of it")
    citation: str = ""
    synthetic: bool = False
    root: str = Field(description="folder of the scene, relative to data_root (or to the project with in_project)")
    in_project: bool = False
    source: AnySource
    split: Split = Split()
    download: Download | None = None
    sfm: SfmConfig = SfmConfig()
    depth_maps: DepthMaps | None = Field(None, description="for methods with depth_source maps")
    unit: str = Field("m", description="name of the unit of length, for tables")
    min_mapping_images: int = Field(3, ge=2)
    check_poses: bool = Field(True, description="compare given poses with the photos: a wrong convention stops the run")
    depth_range: tuple[float, float] | None = Field(
        None,
        description="of frustum overlap; null: measured from the 3D points of the scene, triangulated if it has none",
    )
    depth_bias: float = Field(0.3, ge=0, description="b of R-SCoRe's depth adjustment; 3 m outdoors")
    target_depth: float = Field(10.0, gt=0, description="depth that invalid predictions are pulled to (GLACE eq. 3)")
    thresholds: tuple[tuple[float, float], ...] = Field(((0.05, 5.0),), description="(unit, degrees), finest first")
    method: str = Field(description="the method of results/SCENE/poses.txt")
    pose_names: Literal["path", "basename"] = Field(
        "path",
        description="names in results/SCENE/poses.txt: with folders, or without (Aachen at visuallocalization.net)",
    )
    graph: str = Field("frustum", description="a graph named in config.yaml")

    @model_validator(mode="after")
    def _gps_is_in_metres(self) -> Self:
        if self.sfm.positions == "gps" and self.unit != "m":
            raise ValueError(f"sfm.positions: gps gives metres, and unit is {self.unit!r}; set unit: m")
        return self
