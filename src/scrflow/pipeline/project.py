"""All of ``config/``, resolved and checked, and what each stage reads of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from scrflow.config import stages
from scrflow.config.base import Restriction, deep_merge, read_yaml, validate
from scrflow.config.features import GlobalConfig, RetrievalConfig
from scrflow.config.method import BaselineConfig, EncoderConfig, ExtractorConfig, MethodConfig
from scrflow.config.scene import DepthMaps, Download, SceneConfig
from scrflow.config.table import TableConfig, TableRun, TableScene, TableStage, ToyStage
from scrflow.core.errors import ScrflowError
from scrflow.core.plugins import constant
from scrflow.pipeline import configs

# of the farthest depth: a retrieved image this near the photo shows the same (0.5 m indoors, 3 m outdoors)
NEAR_SHARE = 1 / 16


class Project:
    """All of ``config/``, resolved and checked against each other; ScrflowError naming file and key for what is wrong.

    ``overrides`` counts as if the files said so: keys of config.yaml; under ``scenes``, ``encoders`` and ``methods``
    keys of the files there (``{"methods": {"ace": {"training": {"steps": 10}}}}``).
    """

    def __init__(self, config_dir: str | Path = "config", overrides: dict[str, Any] | None = None):
        self.dir = Path(config_dir)
        over = dict(overrides or {})
        self._over = {kind: over.pop(kind, None) or {} for kind in configs.KINDS}
        for kind, named in self._over.items():
            if not isinstance(named, dict) or not all(isinstance(keys, dict) for keys in named.values()):
                raise ScrflowError(f"override {kind}: expected NAME: {{KEY: VALUE}}, found {str(named)[:80]}")
        self._keys: dict[str, dict[str, dict[str, Any]]] = {}
        values = deep_merge(read_yaml(self.dir / "config.yaml"), over)
        self.config: GlobalConfig = validate(GlobalConfig, values, self.dir / "config.yaml")
        self.scenes: dict[str, SceneConfig] = self._load("scenes", SceneConfig)
        self.encoders: dict[str, EncoderConfig] = self._load("encoders", EncoderConfig)
        self.methods: dict[str, MethodConfig] = self._load("methods", MethodConfig)
        self.baselines: dict[str, BaselineConfig] = self._load("baselines", BaselineConfig)
        self.tables: dict[str, TableConfig] = self._load("tables", TableConfig)
        self.variants: dict[str, configs.Variant] = {}
        self.unusable: dict[str, ScrflowError] = {}  # tables, by the overrides of this run
        configs.cross_check(self)

    def _load(self, kind: str, model: type[configs.Model]) -> dict[str, configs.Model]:
        made, self._keys[kind] = configs.load_kind(self.dir, kind, model, self._over[kind])
        return made

    def method_keys(self, name: str, where: Path) -> dict[str, Any]:
        """Keys of a method's file, with those of what it extends."""
        if name not in self._keys["methods"]:
            raise ScrflowError(f"{where}: no method {name!r}; there are {', '.join(self._keys['methods'])}")
        return self._keys["methods"][name]

    def take_variants(self, table: str) -> None:
        """Add the methods that a table runs beside those of config/methods. Where a run's overrides make one of them
        wrong, ``table_stage`` says so: the run may be for something else."""
        try:
            found = configs.variants_of(self, table)
        except ScrflowError as error:
            if not self._over["methods"]:
                raise
            self.unusable[table] = error
        else:
            self.variants |= found

    def encodings_of_kind(self, kind: str) -> list[str]:
        """Names of the global encodings of a kind."""
        return [name for name, encoding in self.config.encodings.items() if encoding.kind == kind]

    def own_feature(self, method: MethodConfig) -> str | None:
        """The retrieval feature of the query itself that its encoding is made from; None where images lend theirs."""
        name = method.global_encoding.name
        if name in self.config.retrieval:
            return name
        encoding = self.config.encodings.get(name) if name else None
        return encoding.retrieval if encoding is not None and encoding.kind == "clusters" else None

    def depth_maps(self, scene: str, method: str = "") -> DepthMaps:
        """The scene's depth images; ScrflowError for a scene without any, naming the method that asks."""
        maps = self.scene(scene).depth_maps
        if maps is None:
            asks = f"method {method} takes" if method else "depth_source maps takes"
            raise ScrflowError(
                f"{self.dir}/scenes/{scene}.yaml: key depth_maps: not given, and {asks} depths from depth images; say "
                "where they are, or set training.depth_source to points or matched"
            )
        return maps

    def runs(self, scene: str, method: str) -> bool:
        """Whether the scene has what the method asks for beyond photos and poses: depth images."""
        training = self.method(method).training
        asks = training.needs_depth and training.depth_source == "maps"
        return not asks or self.scene(scene).depth_maps is not None

    def has_points(self, scene: str) -> bool:
        """Whether the scene's own model comes with 3D points, as far as its files are here."""
        return self.scene(scene).source.has_points(self.scene_root(scene))

    def _named(self, kind: str, there: dict[str, configs.Model], name: str) -> configs.Model:
        if name not in there:
            names = ", ".join(there) or "none"
            raise ScrflowError(f"no {kind} {name!r} under {self.dir}/{kind}s; there are {names}")
        return there[name]

    def scene(self, name: str) -> SceneConfig:
        """The scene's config; ScrflowError listing the known names if there is none, as of the next two."""
        return self._named("scene", self.scenes, name)

    def method(self, name: str) -> MethodConfig:
        """The config of a method or a variant."""
        return self.variants[name].config if name in self.variants else self._named("method", self.methods, name)

    def baseline(self, name: str) -> BaselineConfig:
        return self._named("baseline", self.baselines, name)

    def seed_of(self, method: str) -> int:
        """Seed of a method's training and localization."""
        seed = self.method(method).seed
        return self.config.seed if seed is None else seed

    def head_of(self, method: str) -> str:
        """The method whose head is this one's: a variant that differs in localization alone trains none of its own."""
        if method not in self.variants:
            return method
        own = self._training_keys(method)
        others = [self.variants[method].base, *self.variants]
        return next(name for name in others if self._training_keys(name) == own)

    def _training_keys(self, method: str) -> tuple[Any, ...]:
        m = self.method(method)
        return m.encoder, m.global_encoding, m.head, m.training, self.seed_of(method)

    def graph_of(self, method: str) -> str | None:
        """The graph that a method's encoding was made on, where it is not the scene's own."""
        encoding = self.config.encodings.get(self.method(method).global_encoding.name or "")
        return getattr(encoding, "graph", None)

    def data_root(self) -> Path:
        return Path(os.environ.get("SCRFLOW_DATA", self.config.data_root))

    def scene_root(self, name: str) -> Path:
        """Folder of the scene's photos: in the project, under data_root when there, else resources/ (downloaded)."""
        scene = self.scene(name)
        if scene.in_project:
            return Path(scene.root)
        local = self.data_root() / scene.root
        return local if local.is_dir() or scene.download is None else Path("resources") / scene.root

    def parts(self, name: str) -> tuple[str, ...]:
        """The scenes whose artifacts a combined scene, or a region of another, is made of."""
        return self.scene(name).source.parts

    def scenes_at_hand(self) -> list[str]:
        """Scenes whose folder is there (for a combined one: those of its parts)."""
        return [name for name in self.scenes if all(self.scene_root(n).is_dir() for n in self.parts(name) or [name])]

    def downloads(self) -> dict[str, Download]:
        """Root of a dataset -> where it comes from; scenes with the same root share one download."""
        return {s.root: s.download for s in self.scenes.values() if s.download is not None}

    def table_sets(self, table: str) -> dict[str, tuple[str, ...]]:
        """The sets of scenes (demo, real) that a table can run on, beside its own scenes."""
        sets = self.tables[table].sets
        return self.config.table_sets if sets is None else sets

    def set_names(self) -> list[str]:
        """Every name of a set that a table, or the toy example, can run on."""
        return sorted({*self.config.table_sets, *(name for table in self.tables for name in self.table_sets(table))})

    # -- what each stage reads: a change in it reruns the stage

    def download_stage(self, root: str) -> Download:
        return self.downloads()[root]

    def sfm_stage(self, scene: str) -> stages.SfmStage:
        s = self.scene(scene)
        return stages.SfmStage(source=s.source, split=s.split, sfm=s.sfm.of_scene(scene), seed=self.config.seed)

    def hloc_photos_stage(self, scene: str) -> stages.SfmStage | None:
        """Of bare photos, which hloc reads before the scene exists; None where the scene is given."""
        return self.sfm_stage(scene) if self.scene(scene).source.reader == "photos" else None

    def scene_stage(self, scene: str) -> stages.SceneStage:
        s = self.scene(scene)
        keys = ("source", "split", "min_mapping_images", "unit", "check_poses")
        return stages.SceneStage(**{key: getattr(s, key) for key in keys})

    def triangulate_stage(self, scene: str) -> stages.TriangulateStage:
        sfm, seed = self.scene(scene).sfm.of_scene(scene), self.config.seed
        return stages.TriangulateStage(hloc_features=sfm.hloc_features, hloc_matches=sfm.hloc_matches, seed=seed)

    def covisibility_stage(self, scene: str, graph: str | None = None) -> stages.CovisibilityStage:
        """Of the scene's own graph, or of another named in config.yaml."""
        s = self.scene(scene)
        made = self.config.graphs[graph or s.graph]
        return stages.CovisibilityStage(graph=made, depth_range=s.depth_range, seed=self.config.seed)

    def node2vec_stage(self, encoding: str) -> stages.Node2VecStage:
        return stages.Node2VecStage(node2vec=self.config.encodings[encoding], seed=self.config.seed)

    def clusters_stage(self, encoding: str) -> stages.ClustersStage:
        return stages.ClustersStage(clusters=self.config.encodings[encoding], seed=self.config.seed)

    def retrieval_stage(self, scene: str, feature: str) -> stages.RetrievalStage:
        r = self.config.retrieval[feature]
        near = NEAR_SHARE * self.scene(scene).depth_range[1]
        return stages.RetrievalStage(retrieval=r, extractor=self._described_by(r), near=near, seed=self.config.seed)

    def _described_by(self, retrieval: RetrievalConfig) -> ExtractorConfig | None:
        """The extractor whose local features a retrieval feature aggregates."""
        return self.encoders[retrieval.encoder].extractor if retrieval.encoder else None

    def _retrieval_part(self, feature: str) -> stages.RetrievalPart:
        r = self.config.retrieval[feature]
        return stages.RetrievalPart(retrieval=r, extractor=self._described_by(r))

    def pca_stage(self, encoder: str) -> stages.PcaStage:
        e = self.encoders[encoder]
        return stages.PcaStage(extractor=e.extractor, pca=e.pca, seed=self.config.seed)

    def buffer_stage(self, encoder: str) -> stages.BufferStage:
        e = self.encoders[encoder]
        shards = self.config.buffer_shards
        return stages.BufferStage(extractor=e.extractor, buffer=e.buffer, shards=shards, seed=self.config.seed)

    def sample_depth_stage(self) -> stages.SampleDepthStage:
        return stages.SampleDepthStage(depth=self.config.sample_depth, seed=self.config.seed)

    def point_depth_stage(self) -> stages.PointDepthStage:
        return stages.PointDepthStage(points=self.config.point_depth)

    def map_depth_stage(self, scene: str) -> stages.MapDepthStage:
        return stages.MapDepthStage(maps=self.depth_maps(scene))

    def train_stage(self, scene: str, method: str) -> stages.TrainStage:
        s, m = self.scene(scene), self.method(method)
        return stages.TrainStage(
            global_encoding=m.global_encoding,
            head=m.head,
            training=m.training,
            depth_bias=s.depth_bias,
            target_depth=s.target_depth,
            seed=self.seed_of(method),
        )

    def map_stage(self, scene: str, method: str) -> stages.MapStage:
        s, m = self.scene(scene), self.method(method)
        retrieval = self.config.retrieval[m.retrieval] if m.retrieval else None
        return stages.MapStage(
            extractor=self.encoders[m.encoder].extractor,
            global_encoding=m.global_encoding,
            head=m.head,
            retrieval=retrieval,
            retrieval_extractor=self._described_by(retrieval) if retrieval else None,
            retrieval_parts=tuple(self._retrieval_part(name) for name in (retrieval.parts if retrieval else ())),
            own_encoding=self.own_feature(m) is not None,
            clustered=m.global_encoding.name in self.encodings_of_kind("clusters"),
            map=m.map,
            localize=m.localize,
            thresholds=s.thresholds,
            unit=s.unit,
            restrictions=self.restrictions(scene, method),
            seed=self.seed_of(method),
        )

    def localize_stage(self, method: str) -> stages.LocalizeStage:
        return stages.LocalizeStage(localize=self.method(method).localize, seed=self.seed_of(method))

    def baseline_map_stage(self, baseline: str) -> stages.BaselineMapStage:
        b = self.baseline(baseline)
        return stages.BaselineMapStage(
            features=b.features,
            matcher=b.matcher,
            neighbours=b.neighbours,
            retrieval=self._retrieval_part(b.retrieval),
            retrieval_parts=tuple(self._retrieval_part(name) for name in self.config.retrieval[b.retrieval].parts),
            seed=self.config.seed,
        )

    def baseline_localize_stage(self, baseline: str) -> stages.BaselineLocalizeStage:
        return stages.BaselineLocalizeStage(localize=self.baseline(baseline).localize, seed=self.config.seed)

    def submission_stage(self, scene: str) -> stages.SubmissionStage:
        return stages.SubmissionStage(pose_names=self.scene(scene).pose_names)

    def hloc_export_stage(self, encoder: str, retrieval: str | None, pairs: int) -> stages.HlocExportStage:
        for name, known in ((encoder, self.encoders), (retrieval, self.config.retrieval)):
            if name is not None and name not in known:
                raise ScrflowError(f"{self.dir}: no {name!r}; there are {', '.join(known)}")
        feature = self.config.retrieval[retrieval] if retrieval else None
        return stages.HlocExportStage(
            extractor=self.encoders[encoder].extractor,
            retrieval_name=retrieval,
            retrieval=self._retrieval_part(retrieval) if retrieval else None,
            parts=tuple(self._retrieval_part(name) for name in (feature.parts if feature else ())),
            pairs=pairs,
        )

    def table_stage(self, table: str, set_name: str | None = None) -> TableStage:
        """What a table runs: on its own scenes, or on those of a set with the rows' small methods. ScrflowError where
        this run's overrides of methods make one of its rows wrong."""
        if table in self.unusable:
            raise self.unusable[table]
        config = self.tables[table]
        if set_name is not None and set_name not in self.table_sets(table):
            there = ", ".join(self.table_sets(table)) or "none"
            raise ScrflowError(f"{self.dir}/tables/{table}.yaml: no set {set_name!r}; there are {there}")
        scenes = config.scenes if set_name is None else self.table_sets(table)[set_name]
        runs = []
        for row in config.rows:
            for scene in scenes:
                if row.baseline:
                    runs.append(TableRun(row=row.id, scene=scene, seed=None, folder=row.baseline))
                if row.method_of(set_name is not None) is None:
                    continue
                for seed in config.seeds:
                    folder = configs.variant_name(table, config, row, set_name is not None, seed, self.config.seed)
                    if self.runs(scene, folder):
                        runs.append(TableRun(row=row.id, scene=scene, seed=seed, folder=folder))
        told = tuple(self._table_scene(scene) for scene in scenes)
        return TableStage(name=table, set=set_name, table=config, scenes=told, runs=tuple(runs))

    def _table_scene(self, name: str) -> TableScene:
        s = self.scene(name)
        whole = self.scene(s.source.scene) if s.source.part_of_a_scene else s
        conditions = tuple(whole.split.queries) if whole is not s else self.parts(name) or tuple(s.split.queries)
        synthetic = s.synthetic or any(self.scene(part).synthetic for part in self.parts(name))
        return TableScene(name=name, unit=s.unit, thresholds=s.thresholds, conditions=conditions, synthetic=synthetic)

    def toy_stage(self, set_name: str | None = None) -> ToyStage:
        """GLACE's toy example, on the config's scenes or on those of one of table_sets."""
        toy, sets = self.config.toy, self.config.table_sets
        if set_name is not None:
            if set_name not in sets:
                there = ", ".join(sets) or "none"
                raise ScrflowError(f"{self.dir}/config.yaml: key table_sets: no {set_name!r}; there are {there}")
            toy = toy.model_copy(update={"scenes": sets[set_name]})
        return ToyStage(toy=toy, set=set_name)

    def evaluate_stage(self, scene: str) -> stages.EvaluateStage:
        s = self.scene(scene)
        return stages.EvaluateStage(thresholds=s.thresholds, unit=s.unit, synthetic=s.synthetic)

    def restrictions(self, scene: str, method: str | None = None) -> tuple[Restriction, ...]:
        """What of a scene, and of a method's encoder and retrieval feature, may not be used commercially, or of what
        that is unknown. A scene of unknown use that is not downloaded has the user's own photos: none."""
        s, found = self.scene(scene), []
        if s.commercial_use == "forbidden" or (s.commercial_use == "unknown" and s.download is not None):
            found.append(Restriction(what=f"scene {scene}", licence=s.licence, commercial_use=s.commercial_use))
        if method is not None:
            m = self.method(method)
            found += self.encoder_restrictions(m.encoder)
            found += self.feature_restrictions(m.retrieval) if m.retrieval is not None else []
        return tuple(dict.fromkeys(found))

    def encoder_restrictions(self, name: str) -> list[Restriction]:
        """Of the weights and the code of an encoder."""
        e = self.encoders[name]
        if e.commercial_use == "allowed":
            return []
        return [Restriction(what=f"encoder {name}", licence=e.licence, commercial_use=e.commercial_use)]

    def feature_restrictions(self, name: str) -> list[Restriction]:
        """Of a retrieval feature: of the encoder that it aggregates, its network's weights, or its parts."""
        from scrflow.storage.weights import registry  # not in the environment of hloc

        r = self.config.retrieval[name]
        found = self.encoder_restrictions(r.encoder) if r.kind == "vlad" else []
        if r.kind == "network":
            weights = registry()[descriptor_weights(r.network, r.options)]
            if weights.commercial_use != "allowed":
                what, use = f"retrieval feature {name}", weights.commercial_use
                found.append(Restriction(what=what, licence=weights.licence, commercial_use=use))
        return found + [restriction for part in r.parts for restriction in self.feature_restrictions(part)]


def descriptor_weights(name: str, options: dict[str, Any]) -> str:
    """The published weights (in weights_registry.yaml) that a network with these options takes."""
    defaults = constant("global descriptor", name, "DEFAULTS") or {}
    return constant("global descriptor", name, "WEIGHTS").format(**{**defaults, **options})
