"""config/encoders, config/methods and config/baselines."""

from typing import Any, Literal, Self

from pydantic import ByteSize, Field, model_validator

from scrflow.config.base import CommercialUse, Strict

REFINE_PX = "Cauchy scale of the last refinement; null: PoseLib's own, half of threshold_px"


class ExtractorConfig(Strict):
    """A frozen local extractor; ``name`` picks the class, see scrflow/features/encoders."""

    name: str
    short_side: int = Field(480, ge=64, description="px; photos are resized to it, cameras with them")
    resize: Literal["lanczos", "bilinear"] = Field(
        "lanczos", description="bilinear: as torchvision's, with antialiasing, in ACE, GLACE and R-SCoRe"
    )
    multiple: int = Field(1, ge=1, le=64, description="bilinear: sides are rounded up to its multiples (R-SCoRe: 8)")
    max_keypoints: int = Field(1024, ge=16)
    options: dict[str, Any] = Field(default_factory=dict, description="options of the class itself")

    @property
    def uses_gpu(self) -> bool:
        """Whether it runs on a GPU where there is one."""
        return self.name not in ("sift", "opencv-sift")


class PcaConfig(Strict):
    """Reduction of local descriptors."""

    kind: Literal["pca", "none"] = Field("pca", description="none: descriptors as they are (ACE, GLACE)")
    dim: int = Field(128, ge=2)
    samples: int = Field(200_000, ge=256, description="descriptors it is learnt on")
    scale: bool = Field(True, description="an entry has a mean square of 1; false: the projection as it is (R-SCoRe)")


class AugmentConfig(Strict):
    """Augmentation when the buffer is filled (GLACE sec. B)."""

    kind: Literal["scrflow", "published"] = Field(
        "scrflow",
        description="published: as in the code of ACE, GLACE and R-SCoRe, the original is resized once, by a uniform "
        "scale, brightness is a factor, and rotation bilinear; scrflow: the resized photo is warped, by a log-uniform "
        "scale, brightness is added, and rotation bicubic",
    )
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
    draw: Literal["best", "random"] = Field("best", description="of the extractor's keypoints of a copy")
    max_samples: int | None = Field(None, ge=1, description="an image has no more copies than these need")
    fill: Literal["whole", "reduced", "rooms"] = Field(
        "whole",
        description="max_samples with as many copies of each image and whole copies; reduced: with fewer samples a "
        "copy, to hold them exactly (R-SCoRe); rooms: with copies of some images more than of others, of a combined "
        "scene as many of each room (GLACE)",
    )
    devices: int = Field(1, ge=1, description="that share max_samples, each with copies of its own (R-SCoRe: 4)")
    augment: AugmentConfig = AugmentConfig()

    def copies(self, images: int) -> float:
        """Copies of each of so many mapping images, with fill ``rooms`` in the mean; the plain ones come first."""
        wanted = self.plain_copies + self.augmented_copies
        if self.max_samples is None:
            return wanted
        if self.fill == "rooms":
            return min(wanted, max(1, self.max_samples / (images * self.samples_per_copy)))
        each = -(-self.max_samples // (self.devices * images * self.samples_per_copy))
        return min(wanted, self.devices * max(1, each))

    def samples(self, images: int) -> int:
        """Samples of a copy, at most."""
        if self.fill != "reduced" or self.max_samples is None:
            return self.samples_per_copy
        return min(self.samples_per_copy, self.max_samples // (int(self.copies(images)) * images))

    @model_validator(mode="after")
    def _some(self) -> Self:
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


class GlobalEncodingUse(Strict):
    """What is joined to the local encoding, and how it is varied in training."""

    name: str | None = Field(None, description="an encoding or retrieval feature named in config.yaml; null for ACE")
    neighbour_share: float = Field(0.0, ge=0, le=1, description="of a batch: g of a graph neighbour (R-SCoRe: 0.5)")
    noise: float = Field(0.0, ge=0, description="sigma of feature diffusion, before renormalising (GLACE: 0.1)")
    scale: bool = Field(
        True,
        description="an entry has a mean square of 1; false: as they are, a table (R-SCoRe) or unit vectors (GLACE)",
    )


class HeadConfig(Strict):
    """The scene-specific MLP (docs/architecture.md)."""

    width: int = Field(768, ge=8)
    hidden_ratio: float = Field(2.0, gt=0)
    blocks: int = Field(3, ge=0, description="residual blocks between input block and decoder")
    clusters: int = Field(50, ge=1)
    scale_min: float = Field(0.01, gt=0, description="S_min of GLACE eq. 7")
    scale_max: float = Field(4.0, gt=1, description="S_max of GLACE eq. 7")
    decoder_ratio: float = Field(1.0, gt=0, description="second hidden layer of decoder and refiner, over width")
    input_skip: Literal["linear", "pad"] = Field("linear", description="of a narrower input: learnt, or zero padding")
    refine_blocks: int = Field(2, ge=0, description="0: no refinement (ACE, GLACE)")
    coarse_gradient: bool = Field(False, description="the loss on y reaches y0 (as in R-SCoRe's code)")
    frequencies: int = Field(16, ge=1)
    period: float = Field(2048.0, gt=0, description="longest period of the encoding of y0, in the scene's unit")

    @model_validator(mode="after")
    def _encoding_fits(self) -> Self:
        needed = 6 * self.frequencies  # sine and cosine of three coordinates
        if self.refine_blocks and self.width < needed:
            raise ValueError(f"width must be at least {needed}: the encoding of y0 has 6 * frequencies channels")
        return self


class LossConfig(Strict):
    """Loss terms and their schedules (GLACE eq. 3-4; docs/architecture.md)."""

    norm: Literal[1, 2] = Field(2, description="of the reprojection error: 1 in ACE and GLACE (eq. 2), 2 in R-SCoRe")
    bandwidth_max: float = Field(50.0, gt=0, description="px")
    bandwidth_min: float = Field(1.0, gt=0, description="px")
    coarse: bool = Field(False, description="R-SCoRe's terms on y0")
    coarse_bandwidth_max: float = Field(50.0, gt=0)
    coarse_bandwidth_min: float = Field(1.0, gt=0)
    depth_adjusted: bool = False
    depth_bias: float | None = Field(None, ge=0, description="b of the adjustment; null: that of the scene")
    pull: bool = Field(False, description="pull y to y0 in the first half")
    pull_to: Literal["coarse", "depth"] = Field("coarse", description="depth: to the 3D point of a known depth")
    pull_margin: float = Field(0.1, ge=0)
    min_depth: float = Field(0.1, gt=0)
    max_depth: float = Field(1000.0, gt=0)
    max_error_px: float = Field(1000.0, gt=0)
    invalid: Literal["l1-world", "l1-camera", "l2"] = Field(
        "l1-world",
        description="distance of an invalid prediction to its target: l1-camera in ACE and GLACE, l2 in R-SCoRe",
    )
    known_depth: bool = Field(False, description="hold samples of known depth to their 3D point (see depth_source)")
    min_depth_sigma: float = Field(0.005, gt=0, description="relative; a known depth is never trusted more than this")


class EarlyStopConfig(Strict):
    """When the held-out images' error hardly falls any more, the rest of the schedule is run through faster."""

    every: int = Field(100, ge=1, description="steps from one look at the held-out images to the next")
    patience: int = Field(4, ge=1, description="looks that must bring less than min_gain together")
    min_gain: float = Field(0.1, gt=0, lt=1, description="relative fall of the median error")
    cooldown: float = Field(0.5, gt=0, le=1, description="steps of the rest of the schedule, over the steps left")


class TrainingConfig(Strict):
    """Optimisation."""

    steps: int = Field(100_000, ge=1)
    batch_size: int = Field(40960, ge=16)
    accumulate: int = Field(1, ge=1, description="gradient accumulation: the optimiser steps every n-th batch")
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="muon: for matrices, AdamW for the rest")
    lr_max: float = Field(3e-3, gt=0)
    lr_start: float = Field(5e-4, gt=0)
    lr_end: float | None = Field(None, ge=0, description="null: a thousandth of lr_start")
    warmup: float = Field(0.04, ge=0, lt=1, description="share of the steps in which the rate rises")
    weight_decay: float = Field(0.01, ge=0)
    depth_source: Literal["matched", "points", "maps"] = Field(
        "matched",
        description="of the samples' depths, where loss or mix_share ask for them: matching mapping images, 3D points "
        "of the SfM model, or depth images (depth_maps of the scene)",
    )
    mix_share: float = Field(0.0, ge=0, le=1, description="share of a batch mixed with matched descriptors")
    known_share: float | None = Field(None, ge=0, le=1, description="samples of known depth; null: as they come")
    precision: Literal["auto", "fp32", "fp16", "bf16", "bf16-backward"] = Field(
        "auto",
        description="auto: fp16 with loss scaling on a GPU; on a CPU float32, with a bf16 backward pass where the "
        "processor has bf16",
    )
    compile: bool = Field(False, description="torch.compile of the head; needs a C++ compiler, or Triton on a GPU")
    buffer_memory: ByteSize = Field(
        "2 GiB",
        validate_default=True,
        description="of the training device, for the samples; a buffer that does not fit is streamed from disk",
    )
    buffer_dtype: Literal["float16", "int8", "auto"] = Field(
        "float16",
        description="of descriptors; int8: a scale a channel; auto: int8 where a buffer fits into buffer_memory by it "
        "alone",
    )
    gpus: int = Field(1, ge=1, description="parts of each batch, one a GPU (several on a device if there are fewer)")
    holdout: float = Field(0.0, ge=0, lt=0.5, description="share of mapping images to tell when to stop")
    early_stop: EarlyStopConfig | None = Field(None, description="needs holdout")
    checkpoint_every: int = Field(500, ge=1, description="steps; less often where saving takes over 1 % of the time")
    log_every: int = Field(50, ge=1)
    loss: LossConfig = LossConfig()

    @property
    def needs_depth(self) -> bool:
        """Whether the samples' depths are read."""
        pulled = self.loss.pull and self.loss.pull_to == "depth"
        return self.loss.known_depth or pulled or self.mix_share > 0

    @model_validator(mode="after")
    def _depth_has_a_use(self) -> Self:
        if self.mix_share > 0 and self.depth_source != "matched":
            raise ValueError(
                f"mix_share needs depth_source matched: {self.depth_source} tells no matches between samples"
            )
        if self.early_stop is not None and self.holdout == 0:
            raise ValueError("early_stop needs holdout: a share of the mapping images, e.g. 0.05")
        if self.batch_size % self.gpus:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of gpus ({self.gpus})")
        if self.known_share is not None and not self.needs_depth:
            raise ValueError("known_share needs depths: set loss.known_depth, or loss.pull with pull_to depth")
        return self


class HalvingConfig(Strict):
    """Successive halving of the hypotheses: all are judged on few keypoints, the better ones on more, and the pose is
    estimated on all keypoints for the best alone."""

    keypoints: int = Field(192, ge=16, description="of the first round, spread evenly over the order of their scores")
    factor: int = Field(
        3, ge=2, description="a round passes on one in so many hypotheses, and so many times the keypoints"
    )
    iterations: int = Field(1000, ge=10, description="of RANSAC at most, for a hypothesis in a round")
    evidence: int = Field(16, ge=0, description="with fewer inliers of the best, judge all again on more keypoints")


class MatchFeaturesConfig(Strict):
    """Local features of mapping photos and queries; ``name`` picks the extractor, see scrflow/encoders."""

    name: str
    max_keypoints: int = Field(4096, ge=16)
    max_size: int = Field(1600, ge=64, description="px of the long side; larger photos are reduced, others stay")
    descriptors: Literal["uint8", "fp16"] = Field("fp16", description="uint8: for vectors without negative numbers")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the extractor's class")

    @property
    def extractor(self) -> ExtractorConfig:
        """The extractor as scrflow.features.encoders takes it."""
        return ExtractorConfig(name=self.name, max_keypoints=self.max_keypoints, options=self.options)


class TracksConfig(Strict):
    """Tracks of keypoints: features of mapping photos, matched and triangulated on the known poses. Pixels are those of
    the photo as its features are found."""

    features: MatchFeaturesConfig
    neighbours: int = Field(10, ge=2, description="mapping images that each is matched with, of all overlaps")
    match_dim: int = Field(64, ge=8, description="descriptors are reduced to, to match mapping images")
    max_ratio: float | None = Field(0.9, gt=0, le=1, description="of the angles to nearest and second nearest")
    max_epipolar_px: float = Field(2.0, gt=0)
    max_error_px: float = Field(2.0, gt=0, description="of an observation of a point")
    min_angle_deg: float = Field(1.0, ge=0, description="between the rays of a point")


class LandmarksConfig(Strict):
    """Landmarks of a map: how many are chosen from the tracks, and how they are kept."""

    tracks: str = Field("sift", description="named in config.yaml")
    count: int | None = Field(12000, ge=16, description="landmarks at most; null: as many as ``size`` holds")
    size: ByteSize | None = Field(None, description="of the map's part; in place of count")
    dim: int = Field(32, ge=2, description="descriptors are projected to")
    code_bytes: int = Field(11, ge=1, le=64, description="of a descriptor, product-quantised")

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.count is None) == (self.size is None):
            raise ValueError("give either count or size: set the other to null")
        return self


class LandmarkLocalizeConfig(Strict):
    """Pose of a query from its matches with landmarks. Pixels are those of the photo as its features are found."""

    max_ratio: float = Field(0.9, gt=0, le=1, description="of the angles to nearest and second nearest landmark")
    threshold_px: float = Field(8.0, gt=0)
    iterations: int = Field(10_000, ge=10)
    min_inliers: int = Field(12, ge=4, description="fewer and the query counts as not localized")
    refine_px: float | None = Field(0.5, gt=0, description=REFINE_PX)
    places: int = Field(10, ge=0, description="tried one at a time where all landmarks together give few inliers")
    hypotheses: int = Field(3, ge=0, description="poses of the head that are tried, where the map has a head")
    radius_px: float = Field(60.0, gt=0, description="how far from a keypoint a landmark may project by such a pose")


class LocalizeConfig(Strict):
    """Pose of a query."""

    hypotheses: int = Field(10, ge=1, description="retrieved mapping images whose g is tried (1 without g)")
    max_keypoints: int = Field(5000, ge=16)
    threshold_px: float = Field(10.0, gt=0)
    iterations: int = Field(10_000, ge=10)
    min_iterations: int = Field(100, ge=1, description="PoseLib's own: 1000")
    min_inliers: int = Field(12, ge=4, description="fewer and the query counts as not localized")
    refine_px: float | None = Field(None, gt=0, description=REFINE_PX)
    halving: HalvingConfig | None = Field(HalvingConfig(), description="null: estimate the pose of each in full")
    landmarks: LandmarkLocalizeConfig | None = Field(None, description="of maps with landmarks; null: the defaults")


class MapConfig(Strict):
    """How much the map file keeps (docs/performance.md: size against recall). By default all that the stages before it
    made, in their number formats."""

    head: Literal["fp16", "int8"] = Field("fp16", description="linear layers; int8 with a scale an output")
    encodings: Literal["fp16", "int8"] = Field("fp16", description="of the mapping images; int8 with a scale an image")
    pca: Literal["fp32", "fp16"] = "fp32"
    retrieval: Literal["fp16", "int8"] = Field("fp16", description="int8 with a scale a direction, word or codebook")
    retrieval_dim: int | None = Field(None, ge=2, description="directions kept of each whitening; null: all")
    pq_bytes: int | None = Field(None, ge=1, description="bytes an image in the index; null: as the feature has")
    merge: float | None = Field(
        None,
        gt=0,
        le=1,
        description="covisibility from which on an image stands for another, is retrieved and tried for it; null: none",
    )


class MethodConfig(Strict):
    """A method: a head with its encoder, global encoding and training, landmarks, or both; map and localization."""

    extends: str | None = None
    description: str
    encoder: str | None = Field(None, description="of the head")
    retrieval: str | None = Field(None, description="of config.yaml; needed with a global encoding")
    global_encoding: GlobalEncodingUse = GlobalEncodingUse()
    head: HeadConfig | None = Field(HeadConfig(), description="null: landmarks alone")
    landmarks: LandmarksConfig | None = Field(None, description="alone, or to refine the head's poses")
    training: TrainingConfig = TrainingConfig()
    map: MapConfig = MapConfig()
    localize: LocalizeConfig = LocalizeConfig()
    seed: int | None = Field(None, description="of training and localization; null: that of config.yaml")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.head is None and self.landmarks is None:
            raise ValueError("head and landmarks are both null: a map needs one of them")
        if (self.head is None) != (self.encoder is None):
            raise ValueError("encoder: a head needs one, and landmarks alone have none (their features: tracks)")
        if self.head is None and self.global_encoding.name is not None:
            raise ValueError("global_encoding: of no use without a head; set its name to null")
        return self

    @model_validator(mode="after")
    def _retrieval_with_global(self) -> Self:
        if self.global_encoding.name is not None and self.retrieval is None:
            raise ValueError("a global encoding needs retrieval: the query's encoding is taken from retrieved images")
        if self.global_encoding.name is None and self.retrieval is not None:
            raise ValueError("retrieval: of no use without a global encoding; set it to null")
        if self.global_encoding.name is None and self.localize.hypotheses != 1:
            raise ValueError("localize.hypotheses must be 1 without a global encoding")
        return self


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
    def _weighed(self) -> Self:
        if (self.kind == "lightglue") != (self.weights is not None):
            raise ValueError("lightglue needs weights, and nearest takes none")
        return self


class MatchLocalizeConfig(Strict):
    """Pose of a query from matches with the retrieved images."""

    retrieved: int = Field(10, ge=1, description="mapping images that a query is matched with")
    short_side: int = Field(480, ge=64, description="px of the photo that threshold_px and refine_px are meant for")
    threshold_px: float = Field(10.0, gt=0)
    iterations: int = Field(1000, ge=10)
    min_inliers: int = Field(12, ge=4, description="fewer and the query counts as not localized")
    refine_px: float | None = Field(1.5, gt=0, description=REFINE_PX)


class BaselineConfig(Strict):
    """A baseline: features, matcher, which mapping images are matched, retrieval, localization."""

    extends: str | None = None
    description: str
    features: MatchFeaturesConfig
    matcher: MatcherConfig = MatcherConfig()
    neighbours: int = Field(20, ge=2, description="mapping images that each is matched with, of all overlaps")
    retrieval: str = Field(description="a retrieval feature named in config.yaml")
    localize: MatchLocalizeConfig = MatchLocalizeConfig()
