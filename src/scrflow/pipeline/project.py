"""What each stage reads of ``config/``."""

from __future__ import annotations

from scrflow.config.encoder import ExtractorConfig
from scrflow.config.features import RetrievalConfig
from scrflow.config.scene import Download
from scrflow.config.sources import RegionSource
from scrflow.config.stages import (
    BaselineLocalizeStage,
    BaselineMapStage,
    BufferStage,
    ClustersStage,
    CovisibilityStage,
    EvaluateStage,
    HlocExportStage,
    LocalizeStage,
    MapDepthStage,
    MapStage,
    Node2VecStage,
    PcaStage,
    PointDepthStage,
    RetrievalPart,
    RetrievalStage,
    SampleDepthStage,
    SceneStage,
    SfmStage,
    SubmissionStage,
    TrainStage,
    TriangulateStage,
)
from scrflow.config.table import TableRun, TableScene, TableStage
from scrflow.config.toy import ToyStage
from scrflow.core.errors import ScrflowError
from scrflow.pipeline.licence import restrictions
from scrflow.pipeline.variants import variant_name
from scrflow.pipeline.whole import WholeConfig

# of the farthest depth: a retrieved image this near the photo shows what it shows (0.5 m indoors, where depth_range
# ends at 8 m, and 3 m outdoors)
NEAR_SHARE = 1 / 16


class Project(WholeConfig):
    """The whole config, and one method a stage: the subset that the stage reads, and that reruns it when it changes."""

    def download_stage(self, root: str) -> Download:
        return self.downloads()[root]

    def sfm_stage(self, scene: str) -> SfmStage:
        s = self.scene(scene)
        return SfmStage(source=s.source, split=s.split, sfm=s.sfm.of_scene(scene), seed=self.config.seed)

    def hloc_photos_stage(self, scene: str) -> SfmStage | None:
        """Of bare photos, from which hloc may be asked to make the scene; None where the scene is given."""
        return self.sfm_stage(scene) if self.scene(scene).source.reader == "photos" else None

    def scene_stage(self, scene: str) -> SceneStage:
        s = self.scene(scene)
        return SceneStage(
            source=s.source,
            split=s.split,
            min_mapping_images=s.min_mapping_images,
            unit=s.unit,
            check_poses=s.check_poses,
        )

    def triangulate_stage(self, scene: str) -> TriangulateStage:
        sfm = self.scene(scene).sfm.of_scene(scene)
        return TriangulateStage(hloc_features=sfm.hloc_features, hloc_matches=sfm.hloc_matches, seed=self.config.seed)

    def covisibility_stage(self, scene: str, graph: str | None = None) -> CovisibilityStage:
        """Of the scene's own graph, or of another named in config.yaml."""
        s = self.scene(scene)
        made = self.config.graphs[graph or s.graph]
        return CovisibilityStage(graph=made, depth_range=s.depth_range, seed=self.config.seed)

    def node2vec_stage(self, encoding: str) -> Node2VecStage:
        return Node2VecStage(node2vec=self.config.encodings[encoding], seed=self.config.seed)

    def clusters_stage(self, encoding: str) -> ClustersStage:
        return ClustersStage(clusters=self.config.encodings[encoding], seed=self.config.seed)

    def retrieval_stage(self, scene: str, feature: str) -> RetrievalStage:
        r = self.config.retrieval[feature]
        near = NEAR_SHARE * self.scene(scene).depth_range[1]
        return RetrievalStage(retrieval=r, extractor=self._described_by(r), near=near, seed=self.config.seed)

    def _described_by(self, retrieval: RetrievalConfig) -> ExtractorConfig | None:
        """The extractor whose local features a retrieval feature aggregates."""
        return self.encoders[retrieval.encoder].extractor if retrieval.encoder else None

    def _retrieval_part(self, feature: str) -> RetrievalPart:
        r = self.config.retrieval[feature]
        return RetrievalPart(retrieval=r, extractor=self._described_by(r))

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

    def point_depth_stage(self) -> PointDepthStage:
        return PointDepthStage(points=self.config.point_depth)

    def map_depth_stage(self, scene: str) -> MapDepthStage:
        return MapDepthStage(maps=self.depth_maps(scene))

    def train_stage(self, scene: str, method: str) -> TrainStage:
        s, m = self.scene(scene), self.method(method)
        return TrainStage(
            global_encoding=m.global_encoding,
            head=m.head,
            training=m.training,
            depth_bias=s.depth_bias,
            target_depth=s.target_depth,
            seed=self.seed_of(method),
        )

    def map_stage(self, scene: str, method: str) -> MapStage:
        s, m = self.scene(scene), self.method(method)
        retrieval = self.config.retrieval[m.retrieval] if m.retrieval else None
        return MapStage(
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
            restrictions=restrictions(self, scene, method),
            seed=self.seed_of(method),
        )

    def localize_stage(self, method: str) -> LocalizeStage:
        return LocalizeStage(localize=self.method(method).localize, seed=self.seed_of(method))

    def baseline_map_stage(self, baseline: str) -> BaselineMapStage:
        b = self.baseline(baseline)
        return BaselineMapStage(
            features=b.features,
            matcher=b.matcher,
            neighbours=b.neighbours,
            retrieval=self._retrieval_part(b.retrieval),
            retrieval_parts=tuple(self._retrieval_part(name) for name in self.config.retrieval[b.retrieval].parts),
            seed=self.config.seed,
        )

    def baseline_localize_stage(self, baseline: str) -> BaselineLocalizeStage:
        return BaselineLocalizeStage(localize=self.baseline(baseline).localize, seed=self.config.seed)

    def submission_stage(self, scene: str) -> SubmissionStage:
        return SubmissionStage(pose_names=self.scene(scene).pose_names)

    def hloc_export_stage(self, encoder: str, retrieval: str | None, pairs: int) -> HlocExportStage:
        for name, known in ((encoder, self.encoders), (retrieval, self.config.retrieval)):
            if name is not None and name not in known:
                raise ScrflowError(f"{self.dir}: no {name!r}; there are {', '.join(known)}")
        feature = self.config.retrieval[retrieval] if retrieval else None
        return HlocExportStage(
            extractor=self.encoders[encoder].extractor,
            retrieval_name=retrieval,
            retrieval=self._retrieval_part(retrieval) if retrieval else None,
            parts=tuple(self._retrieval_part(name) for name in (feature.parts if feature else ())),
            pairs=pairs,
        )

    def table_stage(self, table: str, set_name: str | None = None) -> TableStage:
        """What a table runs: on its own scenes, or on those of a set with the rows' small methods.

        ScrflowError where this run's overrides of methods make no sense for one of its rows.
        """
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
                    folder = variant_name(table, config, row, set_name is not None, seed, self.config.seed)
                    if self.runs(scene, folder):
                        runs.append(TableRun(row=row.id, scene=scene, seed=seed, folder=folder))
        told = tuple(self._table_scene(scene) for scene in scenes)
        return TableStage(name=table, set=set_name, table=config, scenes=told, runs=tuple(runs))

    def _table_scene(self, name: str) -> TableScene:
        s = self.scene(name)
        whole = self.scene(s.source.scene) if isinstance(s.source, RegionSource) else s
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

    def evaluate_stage(self, scene: str) -> EvaluateStage:
        s = self.scene(scene)
        return EvaluateStage(thresholds=s.thresholds, unit=s.unit, synthetic=s.synthetic)
