"""Typed configuration: one frozen model per config file and per stage.

``config/config.yaml`` holds what is common (graphs, global encodings, retrieval features), ``config/scenes/NAME.yaml``
a scene, ``config/encoders/NAME.yaml`` a local encoder with its PCA and buffer, ``config/methods/NAME.yaml`` a method.
``extends: OTHER`` in a scene, encoder or method takes OTHER's values where the file says nothing.

Each stage of the workflow reads exactly one of the ``*Stage`` models below: what is in it reruns the stage when it
changes, and nothing else does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from scrflow.errors import ScrflowError


class Strict(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --------------------------------------------------------------------------------------------------------------- scene


class ColmapSource(Strict):
    """A COLMAP model (bin or text) with an image folder."""

    reader: Literal["colmap"]
    model: str = Field("model", description="folder with cameras, images, points3D (.bin or .txt), relative to root")
    images: str = Field("images", description="folder that the model's image names are relative to")


class NerfstudioSource(Strict):
    """nerfstudio / instant-ngp ``transforms.json``: camera-to-world, OpenGL axes."""

    reader: Literal["nerfstudio"]
    transforms: str = "transforms.json"
    skip_missing: bool = Field(False, description="leave out listed frames whose image file is absent (fox lists 17)")


class DsacSource(Strict):
    """DSAC* layout: one folder a split, each with rgb/, poses/ (4x4 camera-to-world), calibration/ (3x3 or a focal)."""

    reader: Literal["dsac"]
    mapping: str = "train"
    queries: str = "test"


class PoseListSource(Strict):
    """Lines ``name qw qx qy qz tx ty tz f`` (cam_from_world): the pseudo ground truth of 7-Scenes."""

    reader: Literal["poselist"]
    poses: str
    images: str = "."
    principal_point: tuple[float, float] | None = Field(None, description="px; the image centre when not given")


class PhotosSource(Strict):
    """Bare photos: structure from motion finds poses and intrinsics."""

    reader: Literal["photos"]
    images: str = "images"
    camera_model: str = "SIMPLE_RADIAL"
    single_camera: bool = Field(True, description="all photos share intrinsics (one phone, no zoom)")
    queries_in_sfm: bool = Field(True, description="query photos are registered too and get SfM poses as reference")


Source = Annotated[
    ColmapSource | NerfstudioSource | DsacSource | PoseListSource | PhotosSource, Field(discriminator="reader")
]


class Split(Strict):
    """Which images are mapped and which are queries: lists (files of names, relative to root), or every n-th image."""

    mapping: str | None = None
    queries: dict[str, str] = Field(default_factory=dict, description="condition (all, day, night) -> list file")
    every: int | None = Field(None, ge=2, description="instead of lists: the 1st, (n+1)th, ... image is a query")

    @model_validator(mode="after")
    def _one_way(self) -> Split:
        if self.every is not None and (self.mapping is not None or self.queries):
            raise ValueError("give either every, or the lists mapping and queries")
        return self


class Download(Strict):
    """Where a scene comes from when it is not under data_root: a table of path, sha256 and url, one line a file."""

    files: str = Field(description="TSV with columns path, sha256, url; relative to config/scenes")


class SfmConfig(Strict):
    """Structure from motion on bare photos."""

    features: Literal["sift"] = "sift"
    max_features: int = Field(8192, ge=256)
    max_image_size: int = Field(1600, ge=64, description="px, long side")
    exhaustive_up_to: int = Field(60, ge=2, description="more images than this are paired by retrieval")
    retrieval_pairs: int = Field(20, ge=2, description="pairs an image when paired by retrieval")
    mapper: Literal["incremental", "global"] = "incremental"
    min_registered: float = Field(0.8, gt=0, le=1, description="a smaller registered fraction stops the run")
    median_depth: float | None = Field(
        None, gt=0, description="rescale the model to this median point depth (an SfM model has no scale of its own)"
    )


class SceneConfig(Strict):
    """One scene: source, split, units and the scale that losses and graphs assume."""

    extends: str | None = None
    description: str
    licence: str
    citation: str = ""
    synthetic: bool = False
    root: str = Field(description="folder of the scene, relative to data_root (or to the project with in_project)")
    in_project: bool = False
    source: Source
    split: Split = Split()
    download: Download | None = None
    sfm: SfmConfig = SfmConfig()
    unit: str = Field("m", description="name of the unit of length, for tables")
    min_mapping_images: int = Field(3, ge=2)
    depth_range: tuple[float, float] = Field(
        (0.1, 8.0), description="frustum overlap samples depths in it: 8 indoors, 50 outdoors"
    )
    depth_bias: float = Field(0.3, ge=0, description="b of R-SCoRe's depth adjustment; 3 m outdoors")
    target_depth: float = Field(10.0, gt=0, description="depth that invalid predictions are pulled to (GLACE eq. 3)")
    thresholds: tuple[tuple[float, float], ...] = Field(((0.05, 5.0),), description="(unit, degrees), finest first")
    method: str = Field(description="the method of results/SCENE/poses.txt")
    graph: str = Field("frustum", description="a graph named in config.yaml")


# ------------------------------------------------------------------------------------------- graph, global, retrieval


class GraphConfig(Strict):
    """Covisibility graph (R-SCoRe sec. on global encodings)."""

    kind: Literal["frustum", "points"] = "frustum"
    samples: int = Field(1024, ge=16, description="pixel-depth samples an image (frustum)")
    min_overlap: float = Field(0.2, ge=0, le=1, description="edges under it go")
    min_points: int = Field(15, ge=1, description="shared points under which there is no edge (points)")


class Node2VecConfig(Strict):
    """Node2Vec on the covisibility graph."""

    kind: Literal["node2vec"] = "node2vec"
    engine: Literal["torch", "node2vec"] = "torch"
    dim: int = Field(256, ge=2)
    p: float = Field(0.25, gt=0)
    q: float = Field(4.0, gt=0)
    walks: int = Field(128, ge=1, description="walks a node")
    length: int = Field(20, ge=2)
    context: int = Field(10, ge=1)
    negatives: int = Field(5, ge=1)
    iterations: int = Field(300, ge=1, description="torch: Adam steps, each on the walks of up to 256 images")
    epochs: int = Field(5, ge=1, description="node2vec: passes of the package over its walks")
    min_average_precision: float = Field(0.8, description="link prediction under it stops the run")


class RetrievalConfig(Strict):
    """An image descriptor: VLAD over local encodings, or a file made by hloc."""

    kind: Literal["vlad", "hloc"] = "vlad"
    encoder: str | None = Field(None, description="vlad: the encoder config whose features are aggregated")
    clusters: int = Field(64, ge=1)
    keypoints: int = Field(1024, ge=16, description="per image (vlad)")
    dim: int = Field(256, ge=2, description="after whitening; capped by the number of mapping images - 1")
    file: str | None = Field(None, description="hloc: an HDF5 of image name -> global_descriptor; {scene} is filled in")
    pq_bytes: int = Field(64, ge=1, description="bytes an image in the product-quantised index")

    @model_validator(mode="after")
    def _complete(self) -> RetrievalConfig:
        if self.kind == "vlad" and self.encoder is None:
            raise ValueError("vlad needs encoder")
        if self.kind == "hloc" and self.file is None:
            raise ValueError("hloc needs file")
        return self


class SampleDepthConfig(Strict):
    """Depth of buffer samples by matching their descriptors across covisible mapping images (known poses)."""

    neighbours: int = Field(
        24, ge=2, description="graph neighbours an image is matched with, spread over their overlap"
    )
    max_epipolar_px: float = Field(2.0, gt=0)
    max_residual_px: float = Field(2.5, gt=0, description="of a match to the triangulated point")
    min_support: int = Field(2, ge=1, description="matches that agree, the sample itself not counted")
    max_relative_sigma: float = Field(0.05, gt=0, description="of the depth, for 1 px noise; worse ones stay unknown")
    matches: int = Field(8, ge=1, description="matched samples kept for descriptor mixing")
    transfer_px: float = Field(1.5, gt=0, description="an augmented sample this near to a plain one takes its depth")


# ------------------------------------------------------------------------------------------------------------- encoder


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
    augment: AugmentConfig = AugmentConfig()

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
    extractor: ExtractorConfig
    pca: PcaConfig = PcaConfig()
    buffer: BufferConfig = BufferConfig()


# -------------------------------------------------------------------------------------------------------------- method


class GlobalEncodingUse(Strict):
    """What is joined to the local encoding, and how it is varied in training."""

    name: str | None = Field(None, description="an encoding or retrieval feature named in config.yaml; null for ACE")
    neighbour_share: float = Field(
        0.0, ge=0, le=1, description="share of a batch whose g is a graph neighbour's (R-SCoRe: 0.5)"
    )
    noise: float = Field(0.0, ge=0, description="sigma of feature diffusion, before renormalising (GLACE: 0.1)")


class HeadConfig(Strict):
    """The scene-specific MLP (DESIGN: Head)."""

    width: int = Field(768, ge=8)
    hidden_ratio: float = Field(2.0, gt=0)
    blocks: int = Field(3, ge=0, description="residual blocks between input block and decoder")
    clusters: int = Field(50, ge=1)
    scale_min: float = Field(0.01, gt=0, description="S_min of GLACE eq. 7")
    scale_max: float = Field(4.0, gt=1, description="S_max of GLACE eq. 7")
    refine_blocks: int = Field(2, ge=0, description="0: no refinement (ACE, GLACE)")
    frequencies: int = Field(16, ge=1)
    period: float = Field(2048.0, gt=0, description="longest period of the encoding of y0, in the scene's unit")

    @model_validator(mode="after")
    def _encoding_fits(self) -> HeadConfig:
        needed = 6 * self.frequencies  # sine and cosine of three coordinates
        if self.refine_blocks and self.width < needed:
            raise ValueError(f"width must be at least {needed}: the encoding of y0 has 6 * frequencies channels")
        return self


class LossConfig(Strict):
    """Loss terms and their schedules (GLACE eq. 3-4; DESIGN: Loss)."""

    bandwidth_max: float = Field(50.0, gt=0, description="px")
    bandwidth_min: float = Field(1.0, gt=0, description="px")
    coarse: bool = Field(False, description="R-SCoRe's terms on y0")
    coarse_bandwidth_max: float = Field(50.0, gt=0)
    coarse_bandwidth_min: float = Field(1.0, gt=0)
    depth_adjusted: bool = False
    pull: bool = Field(False, description="pull y to y0 in the first half")
    pull_margin: float = Field(0.1, ge=0)
    min_depth: float = Field(0.1, gt=0)
    max_depth: float = Field(1000.0, gt=0)
    max_error_px: float = Field(1000.0, gt=0)
    known_depth: bool = Field(
        False,
        description="samples with a triangulated depth are held to their 3D point (see sample_depth)",
    )
    min_depth_sigma: float = Field(0.005, gt=0, description="relative; a known depth is never trusted more than this")


class TrainingConfig(Strict):
    """Optimisation."""

    steps: int = Field(100_000, ge=1)
    batch_size: int = Field(40960, ge=16)
    accumulate: int = Field(1, ge=1, description="gradient accumulation: the optimiser steps every n-th batch")
    lr_max: float = Field(3e-3, gt=0)
    lr_start: float = Field(5e-4, gt=0)
    warmup: float = Field(0.04, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    mix_share: float = Field(
        0.0, ge=0, le=1, description="share of a batch whose descriptor is mixed with a matched one of the same point"
    )
    known_share: float | None = Field(
        None, ge=0, le=1, description="share of a batch drawn from samples of known depth; null: as they come"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the device has it")
    checkpoint_every: int = Field(500, ge=1)
    log_every: int = Field(50, ge=1)
    loss: LossConfig = LossConfig()


class LocalizeConfig(Strict):
    """Pose of a query."""

    hypotheses: int = Field(10, ge=1, description="retrieved mapping images whose g is tried (1 without g)")
    max_keypoints: int = Field(5000, ge=16)
    threshold_px: float = Field(10.0, gt=0)
    iterations: int = Field(10_000, ge=10)
    min_inliers: int = Field(12, ge=4, description="fewer and the query counts as not localized")
    refine_px: float | None = Field(
        None, gt=0, description="final non-linear refinement: Cauchy scale; null: PoseLib's own"
    )


class MethodConfig(Strict):
    """A method: encoder, global encoding, head, training, localization."""

    extends: str | None = None
    description: str
    encoder: str
    retrieval: str | None = Field(
        None, description="a retrieval feature named in config.yaml; needed with a global encoding"
    )
    global_encoding: GlobalEncodingUse = GlobalEncodingUse()
    head: HeadConfig = HeadConfig()
    training: TrainingConfig = TrainingConfig()
    localize: LocalizeConfig = LocalizeConfig()

    @model_validator(mode="after")
    def _retrieval_with_global(self) -> MethodConfig:
        if self.global_encoding.name is not None and self.retrieval is None:
            raise ValueError("a global encoding needs retrieval: the query's encoding is taken from retrieved images")
        if self.global_encoding.name is None and self.localize.hypotheses != 1:
            raise ValueError("localize.hypotheses must be 1 without a global encoding")
        return self


# ------------------------------------------------------------------------------------------------------------- project


class WeightsConfig(Strict):
    """Where published network weights are looked for and kept."""

    cache: str = Field("~/.cache/scrflow/weights", description="SCRFLOW_WEIGHTS overrides it")
    offline: bool = Field(False, description="never reach for the network; SCRFLOW_OFFLINE=1 overrides it")


class GlobalConfig(Strict):
    """config/config.yaml."""

    seed: int = Field(1, ge=0)
    data_root: str = Field("../shared/data", description="folder of real scenes; SCRFLOW_DATA overrides it")
    buffer_shards: int = Field(4, ge=1)
    weights: WeightsConfig = WeightsConfig()
    graphs: dict[str, GraphConfig] = {"frustum": GraphConfig(kind="frustum"), "points": GraphConfig(kind="points")}
    encodings: dict[str, Node2VecConfig] = {"node2vec": Node2VecConfig()}
    retrieval: dict[str, RetrievalConfig] = {}
    sample_depth: SampleDepthConfig = SampleDepthConfig()


# ----------------------------------------------------------- what each stage reads (these are the rules' params.config)


class SfmStage(Strict):
    source: PhotosSource
    split: Split
    sfm: SfmConfig
    seed: int


class SceneStage(Strict):
    source: Source
    split: Split
    min_mapping_images: int
    unit: str


class TriangulateStage(Strict):
    max_features: int = 4096
    seed: int


class CovisibilityStage(Strict):
    graph: GraphConfig
    depth_range: tuple[float, float]
    seed: int


class Node2VecStage(Strict):
    node2vec: Node2VecConfig
    seed: int


class RetrievalStage(Strict):
    retrieval: RetrievalConfig
    extractor: ExtractorConfig | None
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


class TrainStage(Strict):
    global_encoding: GlobalEncodingUse
    head: HeadConfig
    training: TrainingConfig
    depth_bias: float
    target_depth: float
    seed: int


class MapStage(Strict):
    extractor: ExtractorConfig
    global_encoding: GlobalEncodingUse
    head: HeadConfig
    retrieval: RetrievalConfig | None
    retrieval_extractor: ExtractorConfig | None
    own_encoding: bool = Field(
        description="g is the photo's own retrieval feature (GLACE), not that of retrieved images"
    )
    unit: str


class LocalizeStage(Strict):
    localize: LocalizeConfig
    seed: int


class EvaluateStage(Strict):
    thresholds: tuple[tuple[float, float], ...]
    unit: str
    synthetic: bool


class Project:
    """All of ``config/``, resolved and checked against each other.

    ``overrides`` counts as if the files said so: keys of config.yaml; under ``scenes``, ``encoders`` and ``methods``
    keys of the files there (``{"methods": {"ace": {"training": {"steps": 10}}}}``).

    Raises ScrflowError naming file and key for anything that is unknown, of a wrong type, or refers to nothing.
    """

    def __init__(self, config_dir: str | Path = "config", overrides: dict[str, Any] | None = None):
        self.dir = Path(config_dir)
        over = dict(overrides or {})
        self._over = {kind: over.pop(kind, None) or {} for kind in ("scenes", "encoders", "methods")}
        values = deep_merge(_read_yaml(self.dir / "config.yaml"), over)
        self.config: GlobalConfig = _validate(GlobalConfig, values, self.dir / "config.yaml")
        self.scenes: dict[str, SceneConfig] = self._load("scenes", SceneConfig)
        self.encoders: dict[str, EncoderConfig] = self._load("encoders", EncoderConfig)
        self.methods: dict[str, MethodConfig] = self._load("methods", MethodConfig)
        self._cross_check()

    def _load(self, kind: str, model: type[Strict]) -> dict[str, Any]:
        files = {p.stem: p for p in sorted((self.dir / kind).glob("*.yaml"))}
        raw = {name: _read_yaml(path) for name, path in files.items()}
        for name, values in self._over[kind].items():
            if name not in raw:
                raise ScrflowError(
                    f"override {kind}.{name}: no {self.dir}/{kind}/{name}.yaml; there are {', '.join(raw)}"
                )
            raw[name] = deep_merge(raw[name], values)

        def resolve(name: str, trail: tuple[str, ...]) -> dict[str, Any]:
            if name in trail:
                raise ScrflowError(f"{files[trail[0]]}: extends runs in a circle: {' -> '.join((*trail, name))}")
            base = raw[name].get("extends")
            if base is None:
                return raw[name]
            if base not in raw:
                raise ScrflowError(f"{files[name]}: key extends: no {kind} named {base!r}; there are {', '.join(raw)}")
            return deep_merge(resolve(base, (*trail, name)), raw[name])

        return {name: _validate(model, resolve(name, ()), files[name]) for name in raw}

    def _cross_check(self) -> None:
        def known(where: str, key: str, value: str | None, options: Any) -> None:
            if value is not None and value not in options:
                raise ScrflowError(
                    f"{where}: key {key}: no {value!r}; there are {', '.join(sorted(options)) or 'none'}"
                )

        clash = set(self.config.encodings) & set(self.config.retrieval)
        if clash:
            raise ScrflowError(f"{self.dir}/config.yaml: {', '.join(clash)} named in both encodings and retrieval")
        for name, feature in self.config.retrieval.items():
            known(f"{self.dir}/config.yaml", f"retrieval.{name}.encoder", feature.encoder, self.encoders)
        for name, method in self.methods.items():
            where = f"{self.dir}/methods/{name}.yaml"
            if name in RESERVED:
                raise ScrflowError(f"{where}: a method may not be named like one of {', '.join(sorted(RESERVED))}")
            known(where, "encoder", method.encoder, self.encoders)
            known(where, "retrieval", method.retrieval, self.config.retrieval)
            known(
                where,
                "global_encoding.name",
                method.global_encoding.name,
                {**self.config.encodings, **self.config.retrieval},
            )
        for name, scene in self.scenes.items():
            where = f"{self.dir}/scenes/{name}.yaml"
            known(where, "method", scene.method, self.methods)
            known(where, "graph", scene.graph, self.config.graphs)
            if name in self.methods or name in RESERVED:
                raise ScrflowError(f"{where}: a scene may not be named like a method or one of {sorted(RESERVED)}")

    def needs_depth(self, method: str) -> bool:
        """Whether training of the method reads the samples' triangulated depths."""
        training = self.method(method).training
        return training.loss.known_depth or training.mix_share > 0

    def scene(self, name: str) -> SceneConfig:
        """The scene's config; ScrflowError listing the known names if there is none."""
        if name not in self.scenes:
            raise ScrflowError(f"no scene {name!r} under {self.dir}/scenes; there are {', '.join(self.scenes)}")
        return self.scenes[name]

    def method(self, name: str) -> MethodConfig:
        """The method's config; ScrflowError listing the known names if there is none."""
        if name not in self.methods:
            raise ScrflowError(f"no method {name!r} under {self.dir}/methods; there are {', '.join(self.methods)}")
        return self.methods[name]

    def data_root(self) -> Path:
        return Path(os.environ.get("SCRFLOW_DATA", self.config.data_root))

    def scene_root(self, name: str) -> Path:
        """Folder of the scene's photos: in the project, under data_root when there, else resources/ (downloaded)."""
        scene = self.scene(name)
        if scene.in_project:
            return Path(scene.root)
        local = self.data_root() / scene.root
        return local if local.is_dir() or scene.download is None else Path("resources") / name

    # -- one method a stage: the subset of the config that the stage reads

    def sfm_stage(self, scene: str) -> SfmStage:
        s = self.scene(scene)
        return SfmStage(source=s.source, split=s.split, sfm=s.sfm, seed=self.config.seed)

    def scene_stage(self, scene: str) -> SceneStage:
        s = self.scene(scene)
        return SceneStage(source=s.source, split=s.split, min_mapping_images=s.min_mapping_images, unit=s.unit)

    def triangulate_stage(self, scene: str) -> TriangulateStage:
        return TriangulateStage(seed=self.config.seed)

    def covisibility_stage(self, scene: str) -> CovisibilityStage:
        s = self.scene(scene)
        return CovisibilityStage(graph=self.config.graphs[s.graph], depth_range=s.depth_range, seed=self.config.seed)

    def node2vec_stage(self, encoding: str) -> Node2VecStage:
        return Node2VecStage(node2vec=self.config.encodings[encoding], seed=self.config.seed)

    def retrieval_stage(self, feature: str) -> RetrievalStage:
        r = self.config.retrieval[feature]
        extractor = self.encoders[r.encoder].extractor if r.encoder else None
        return RetrievalStage(retrieval=r, extractor=extractor, seed=self.config.seed)

    def pca_stage(self, encoder: str) -> PcaStage:
        e = self.encoders[encoder]
        return PcaStage(extractor=e.extractor, pca=e.pca, seed=self.config.seed)

    def buffer_stage(self, encoder: str) -> BufferStage:
        e = self.encoders[encoder]
        return BufferStage(
            extractor=e.extractor, buffer=e.buffer, shards=self.config.buffer_shards, seed=self.config.seed
        )

    def sample_depth_stage(self) -> SampleDepthStage:
        return SampleDepthStage(depth=self.config.sample_depth, seed=self.config.seed)

    def train_stage(self, scene: str, method: str) -> TrainStage:
        s, m = self.scene(scene), self.method(method)
        return TrainStage(
            global_encoding=m.global_encoding,
            head=m.head,
            training=m.training,
            depth_bias=s.depth_bias,
            target_depth=s.target_depth,
            seed=self.config.seed,
        )

    def map_stage(self, scene: str, method: str) -> MapStage:
        m = self.method(method)
        retrieval = self.config.retrieval[m.retrieval] if m.retrieval else None
        described_by = self.encoders[retrieval.encoder].extractor if retrieval and retrieval.encoder else None
        return MapStage(
            extractor=self.encoders[m.encoder].extractor,
            global_encoding=m.global_encoding,
            head=m.head,
            retrieval=retrieval,
            retrieval_extractor=described_by,
            own_encoding=m.global_encoding.name in self.config.retrieval,
            unit=self.scene(scene).unit,
        )

    def localize_stage(self, method: str) -> LocalizeStage:
        return LocalizeStage(localize=self.method(method).localize, seed=self.config.seed)

    def evaluate_stage(self, scene: str) -> EvaluateStage:
        s = self.scene(scene)
        return EvaluateStage(thresholds=s.thresholds, unit=s.unit, synthetic=s.synthetic)


# folders beside the methods' under results/SCENE
RESERVED = frozenset({"scene", "sfm", "triangulated", "encodings", "retrieval", "local", "logs", "benchmarks"})


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ScrflowError(f"{path}: no such config file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ScrflowError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ScrflowError(f"{path}: expected keys and values, found {type(values).__name__}")
    return values


def deep_merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Values of ``over`` on top of ``base``, dictionaries merged key by key."""
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = deep_merge(out[key], value) if both else value
    return out


def _validate(model: type[Strict], values: dict[str, Any], path: Path) -> Any:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = []
        for e in error.errors():
            key = ".".join(str(p) for p in e["loc"]) or "(file)"
            problems.append(f"key {key}: {e['msg'][0].lower()}{e['msg'][1:]}")
        raise ScrflowError(f"{path}: " + "; ".join(problems)) from None
