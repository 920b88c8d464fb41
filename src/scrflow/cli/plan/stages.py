"""The stages of a scene and a method: how many jobs, and what each takes. The rules are in rules/*.smk; the laws are
those of rates.yaml."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from scrflow.cli.plan.rates import Amount, Rates
from scrflow.cli.plan.sizes import NAME_BYTES, Sizes
from scrflow.cli.plan.workload import Workload
from scrflow.config import MethodConfig
from scrflow.core.errors import ScrflowError
from scrflow.pipeline.project import Project

COUNTED_IMAGES = 8192  # up to so many Node2Vec counts all pairs (scrflow.graph.node2vec)
PICTURES_MB = 1.0  # errors.png, overlay.png, tables
NEIGHBOURS = 24


@dataclass(frozen=True)
class Stage:
    """All jobs of a rule, and of a wildcard where that makes them unlike."""

    rule: str
    label: str  # the wildcard, if any
    jobs: int
    cpu_s: Amount  # of one job
    mem_mb: Amount  # of one job
    disk_mb: float  # of all, what stays
    after: tuple[str, ...]  # names of stages
    parallel: float = 0.0  # share that more threads make shorter
    gpu_s: Amount | None = None  # of one job, all its GPUs together; where one trains it
    gpus: int = 0
    scratch_mb: float = 0.0  # on disk besides, until the job ends

    @property
    def name(self) -> str:
        return f"{self.rule} {self.label}".rstrip()

    def wall_s(self, threads: int) -> float:
        """Of one job with so many threads."""
        if self.gpu_s is not None:
            return self.gpu_s.value / max(1, self.gpus)
        return self.cpu_s.value * (1 - self.parallel + self.parallel / max(1, threads))


def stages_of(
    project: Project, method: str, work: Workload, rates: Rates, gpu: str | None = None, graph: str = "frustum"
) -> tuple[Stage, ...]:
    """Every stage up to the scene's poses.txt, in an order in which they can run.

    ``gpu`` names the GPU that training has, by the rates of the papers; None: it trains on the CPU.
    """
    found = _Builder(project, method, work, rates, gpu, graph)
    stages = tuple(found.build())
    names = {stage.name for stage in stages}
    kept = (replace(stage, after=tuple(n for n in stage.after if n in names)) for stage in stages)
    return tuple(_scaled(stage, rates) for stage in kept)


def _scaled(stage: Stage, rates: Rates) -> Stage:
    """With the factors of one's own machine."""
    cpu, memory = rates.factors.get(stage.rule, (1.0, 1.0))
    return replace(stage, cpu_s=stage.cpu_s.times(cpu), mem_mb=stage.mem_mb.times(memory))


class _Builder:
    def __init__(self, project: Project, method: str, work: Workload, rates: Rates, gpu: str | None, graph: str):
        self.project, self.work, self.rates, self.name = project, work, rates, method
        self.method: MethodConfig = project.method(method)
        self.sizes = Sizes(project, work, self.method)
        self.encoder = project.encoders[self.method.encoder]
        self.graph_kind = project.config.graphs[graph].kind
        if gpu is not None and not rates.has(f"train.gpu.{gpu}.tflops"):
            known = [key.split(".")[2] for key in rates.file.rates if key.startswith("train.gpu.")]
            raise ScrflowError(f"--gpu {gpu}: no rate of it; there are {', '.join(known)}, or none")
        self.gpu = gpu

    # -- parts that several stages share

    def _start(self) -> Amount:
        """Imports, and the scene read."""
        return self.rates("start.cpu_s") + self.rates("scene.cpu_s", self.work.images)

    def _scene_mb(self) -> Amount:
        return self.rates("scene.mem_mb", self.work.images)

    def _encode(self, extractor: str, short_side: int, copies: float = 1.0) -> Amount:
        """A photo read once and encoded so many times."""
        key = f"encoder.{'loftr' if extractor.startswith('loftr') else extractor}.cpu_s"
        if not self.rates.has(key):
            raise ScrflowError(f"encoder {extractor}: no rate of it in rates.yaml; measure it (benchmarks/encoders.py)")
        pixels = self.work.encoded(short_side)
        return self.rates("read.cpu_s", self.work.megapixels) + self.rates(key, pixels).times(copies)

    def _stage(self, rule: str, cpu: Amount, memory: Amount, disk_mb: float, after: tuple[str, ...], **more) -> Stage:
        label, jobs = more.pop("label", ""), more.pop("jobs", 1)
        return Stage(rule, label, jobs, cpu, memory, disk_mb, after, self.rates.parallel(rule), **more)

    # -- the stages

    def build(self) -> Iterator[Stage]:
        yield from self._scene()
        yield from self._encodings()
        yield from self._buffer()
        yield from self._map()

    def _scene(self) -> Iterator[Stage]:
        work, r = self.work, self.rates
        photos = work.images + work.queries
        if work.bare:
            all_pairs, sparse = photos * (photos - 1) / 2, 20 * photos
            pairs = all_pairs if photos <= 60 else sparse
            yield self._stage(
                "reconstruct_scene", r("reconstruct_scene.cpu_s", pairs), r("reconstruct_scene.mem_mb", photos),
                0.5 * photos, (),
            )  # fmt: skip
        check = r("check.cpu_s", work.megapixels).times(photos)
        scene_mb = (300 * photos + 2 * NAME_BYTES * photos) / 1e6
        yield self._stage(
            "build_scene", r("build_scene.cpu_s", photos) + check, r("build_scene.mem_mb", work.images), scene_mb,
            ("reconstruct_scene",),
        )  # fmt: skip
        if self._wants_points() and not work.bare:
            pairs = work.images * min(20.0, work.images / 2)
            yield self._stage(
                "triangulate_points", r("triangulate_points.cpu_s", pairs), r("triangulate_points.mem_mb", work.images),
                0.5 * work.images, ("build_scene",),
            )  # fmt: skip

    def _wants_points(self) -> bool:
        training = self.method.training
        return self.graph_kind == "points" or (training.needs_depth and training.depth_source == "points")

    def _wants_graph(self) -> bool:
        encoding = self.project.config.encodings.get(self.method.global_encoding.name or "")
        made_on_graph = encoding is not None and encoding.kind == "node2vec"
        training = self.method.training
        matched = training.needs_depth and training.depth_source == "matched"
        return (
            made_on_graph or matched or self.method.global_encoding.neighbour_share > 0 or bool(self.method.map.merge)
        )

    def _encodings(self) -> Iterator[Stage]:
        r, images = self.rates, self.work.images
        if self._wants_graph():
            kind = self.graph_kind
            edges_mb = (12.5 * images * self.work.degree + NAME_BYTES * images) / 1e6
            yield self._stage(
                "build_graph", r(f"build_graph.{kind}.cpu_s", images) + r("scene.cpu_s", images),
                r(f"build_graph.{kind}.mem_mb", images) + self._scene_mb(), edges_mb,
                ("build_scene", "triangulate_points"),
            )  # fmt: skip
        if self.method.retrieval is not None:
            yield from self._retrieval(self.method.retrieval)
        name = self.method.global_encoding.name
        encoding = self.project.config.encodings.get(name or "")
        if encoding is not None and encoding.kind == "node2vec":
            path = "counted" if images <= COUNTED_IMAGES else "sampled"
            cpu = r(
                "embed_graph.package.cpu_s" if encoding.engine == "node2vec" else f"embed_graph.{path}.cpu_s", images
            )
            memory, disk = r(f"embed_graph.{path}.mem_mb", images), images * (4 * encoding.dim + NAME_BYTES) / 1e6
            yield self._stage("embed_graph", cpu, memory, disk, ("build_graph",), label=name)
        if encoding is not None and encoding.kind == "clusters":
            yield self._stage(
                "cluster_features", r("cluster_features.cpu_s", images), r("cluster_features.mem_mb", images),
                images * (4 * self.sizes.global_dim + NAME_BYTES) / 1e6, (f"build_retrieval {encoding.retrieval}",),
                label=name,
            )  # fmt: skip

    def _retrieval(self, name: str) -> Iterator[Stage]:
        r, work, feature = self.rates, self.work, self.project.config.retrieval[name]
        for part in feature.parts:
            yield from self._retrieval(part)
        photo = Amount()
        if feature.kind == "vlad":
            extractor = self.project.encoders[feature.encoder].extractor
            photo = self._encode(extractor.name, extractor.short_side)
        elif feature.kind == "network":
            low, high = sorted(work.size)
            photo = r("read.cpu_s", work.megapixels) + r(f"network.{feature.network}.cpu_s", high / low / (640 / 480))
        learnt = r("features.learnt.cpu_s", work.images) if work.images > 256 else Amount()
        cpu = self._start() + photo.times(work.images) + learnt + r("features.hdf5.cpu_s", work.images)
        memory = "build_retrieval.fusion.mem_mb" if feature.parts else "build_retrieval.mem_mb"
        raw_mb = 4e-6 * work.images * self.sizes.raw_dim(feature)
        numbers = 490 + 4 * self.sizes.retrieval_dim(name)  # of an image in hloc's layout, its group counted
        model = self.sizes.describing_bytes(name) + self.sizes.index_bytes(name) + NAME_BYTES * work.images
        disk = (work.images * numbers + model) / 1e6
        yield self._stage(
            "build_retrieval", cpu, r(memory, raw_mb) + self._scene_mb(), disk,
            ("build_scene", *(f"build_retrieval {part}" for part in feature.parts)), label=name,
        )  # fmt: skip

    def _buffer(self) -> Iterator[Stage]:
        r, work, sizes = self.rates, self.work, self.sizes
        extractor, buffer, name = self.encoder.extractor, self.encoder.buffer, self.method.encoder
        photos = min(work.images, max(64, -(-self.encoder.pca.samples // extractor.max_keypoints)))
        described_mb = 4e-6 * photos * extractor.max_keypoints * sizes.descriptor_dim
        yield self._stage(
            "fit_pca", self._start() + self._encode(extractor.name, extractor.short_side).times(photos),
            r("fit_pca.mem_mb", described_mb) + self._scene_mb(),
            4e-6 * (sizes.descriptor_dim + 1) * sizes.local_dim, ("build_scene",), label=name,
        )  # fmt: skip
        shards = self.project.config.buffer_shards
        low, high = buffer.augment.scale
        # pixels of an augmented copy, its scale being uniform in its logarithm
        area = (high**2 - low**2) / (2 * math.log(high / low)) if high > low else low**2
        plain = min(buffer.plain_copies, sizes.copies)
        in_shard = math.ceil(work.images / shards)
        copies = plain + area * (sizes.copies - plain)
        shard_mb = sizes.samples / shards * sizes.sample_bytes / 1e6
        names_mb = shards * work.images * NAME_BYTES / 1e6
        yield self._stage(
            "fill_buffer", self._start() + self._encode(extractor.name, extractor.short_side, copies).times(in_shard),
            r("fill_buffer.mem_mb", shard_mb) + self._scene_mb(),
            shards * shard_mb + names_mb + 173e-6 * work.images * sizes.copies, (f"fit_pca {name}",),
            label=name, jobs=shards,
        )  # fmt: skip
        if self.method.training.needs_depth:
            yield self._depths(name)

    def _depths(self, name: str) -> Stage:
        r, work, sizes = self.rates, self.work, self.sizes
        source, disk = self.method.training.depth_source, 40e-6 * sizes.samples
        filled = f"fill_buffer {name}"
        if source != "matched":
            rule = "find_point_depths" if source == "points" else "read_depth_maps"
            after = (filled, "triangulate_points") if source == "points" else (filled,)
            memory = r("read_depths.mem_mb", sizes.samples)
            return self._stage(rule, r("read_depths.cpu_s", work.images), memory, disk, after, label=name)
        samples = (self.encoder.buffer.samples_per_copy / 1024) ** 2  # of two images, each with each
        pairs = matched_pairs(work)
        cpu = r("start.cpu_s") + r("match.cpu_s", pairs).times(samples)
        memory = r("triangulate_samples.samples.mem_mb", sizes.samples) + r("triangulate_samples.pairs.mem_mb", pairs)
        return self._stage("triangulate_samples", cpu, memory, disk, (filled, "build_graph"), label=name)

    def _map(self) -> Iterator[Stage]:
        r, work, sizes, method = self.rates, self.work, self.sizes, self.method
        training, name, map_mb = method.training, self.name, sizes.map_bytes / 1e6
        step_gflop = sizes.training_gflop / training.steps
        muon_gflop = sizes.muon_gflop / max(1, training.steps // training.accumulate)
        cpu = r("start.cpu_s") + r("train.cpu_s_a_gflop", step_gflop).times(training.steps)
        if sizes.muon_gflop:
            updates = training.steps // training.accumulate
            cpu = cpu + r("train.muon.cpu_s_a_gflop", muon_gflop).times(updates)
        tables_mb = 8e-6 * work.images * (1 + work.most_neighbours) * (method.global_encoding.neighbour_share > 0)
        memory = r("train.mem_mb", sizes.held_mb) + tables_mb + 4e-6 * work.images * sizes.global_dim
        gpu = None
        if self.gpu is not None:
            peak = r(f"train.gpu.{self.gpu}.tflops")
            gpu = Amount((sizes.training_gflop + sizes.muon_gflop) / (1000 * peak.value), peak.evidence)
        yield self._stage(
            "train_head", cpu, memory, 2e-6 * sizes.head.parameters,
            (f"fill_buffer {method.encoder}", *self._encoding_stages(), *self._depth_stages()), label=name,
            gpu_s=gpu, gpus=training.gpus if gpu else 0,
            # the checkpoint: weights and two moments in float32, and more of Muon's
            scratch_mb=16e-6 * sizes.head.parameters,
        )  # fmt: skip
        yield self._stage(
            "write_map", r("write_map.cpu_s", work.images) + r("scene.cpu_s", work.images),
            r("write_map.mem_mb", map_mb), map_mb, (f"train_head {name}", f"build_retrieval {method.retrieval}"),
            label=name,
        )  # fmt: skip
        yield self._stage(
            "localize_queries", self._start() + self._query().times(work.queries), r("localize.mem_mb", map_mb),
            (NAME_BYTES + 700) * work.queries / 1e6, (f"write_map {name}",), label=name,
        )  # fmt: skip
        yield self._stage(
            "evaluate_poses", r("evaluate_poses.cpu_s", work.queries) + r("scene.cpu_s", work.images),
            r("evaluate_poses.mem_mb", work.queries) + self._scene_mb(), PICTURES_MB, (f"localize_queries {name}",),
            label=name,
        )  # fmt: skip
        yield self._stage(
            "choose_poses", r("choose_poses.cpu_s"), r("choose_poses.mem_mb"), 1e-4 * work.queries,
            (f"evaluate_poses {name}",),
        )  # fmt: skip

    def _encoding_stages(self) -> tuple[str, ...]:
        name = self.method.global_encoding.name
        return ("build_graph", f"embed_graph {name}", f"cluster_features {name}", f"build_retrieval {name}")

    def _depth_stages(self) -> tuple[str, ...]:
        rules = ("triangulate_samples", "find_point_depths", "read_depth_maps")
        return tuple(f"{rule} {self.method.encoder}" for rule in rules)

    def _query(self) -> Amount:
        """Localizing a photo."""
        r, work, extractor, use = self.rates, self.work, self.encoder.extractor, self.method.localize
        cpu = self._encode(extractor.name, extractor.short_side)
        if self.method.retrieval is not None:
            cpu = cpu + self._described(self.method.retrieval)
        if self.method.retrieval is not None and use.hypotheses > 1:
            cpu = cpu + r("query.scan.cpu_s", work.images)
        # with halving, each hypothesis beyond the first sends a quarter of the keypoints through the head:
        # 86, 174 and 321 ms for 5, 10 and 20 hypotheses, 57 for one (docs/performance.md)
        share = 0.235 if use.halving is not None else 1.0
        rows = use.max_keypoints * (1 + share * (use.hypotheses - 1))
        gflop = 2e-9 * self.sizes.head.parameters * rows
        tried = r("query.hypothesis.cpu_s", use.hypotheses)
        return (
            cpu
            + r("query.head.cpu_s_a_gflop", gflop)
            + tried
            + r("query.pose.cpu_s", work.queries).times(1 / work.queries)
        )

    def _described(self, name: str) -> Amount:
        """A photo's retrieval feature, but for local descriptors that the head's encoder gives anyway."""
        feature = self.project.config.retrieval[name]
        parts = [self._described(part) for part in feature.parts]
        if feature.kind == "network":
            low, high = sorted(self.work.size)
            return self.rates(f"network.{feature.network}.cpu_s", high / low / (640 / 480))
        if (
            feature.kind == "vlad"
            and self.project.encoders[feature.encoder].extractor.name != self.encoder.extractor.name
        ):
            extractor = self.project.encoders[feature.encoder].extractor
            parts.append(self._encode(extractor.name, extractor.short_side))
        return sum(parts, Amount())


def matched_pairs(work: Workload) -> float:
    """Pairs of images that triangulate_samples matches: 24 of an image's neighbours, those chosen by both counted once;
    649, 1 775 and 3 925 in fox, the demo and redkitchen, here 660, 1 856 and 3 989."""
    if work.degree <= NEIGHBOURS:
        return work.images * work.degree / 2
    return work.images * NEIGHBOURS * (1 - NEIGHBOURS / 2 / work.degree)
