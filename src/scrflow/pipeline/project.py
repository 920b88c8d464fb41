"""What each stage reads of ``config/``: a change in it reruns the stage, and nothing else does."""

from typing import Any, TypeVar

from pydantic import BaseModel

from scrflow.config import stages
from scrflow.config.base import Restriction
from scrflow.config.scene import Download
from scrflow.config.table import TableRun, TableScene, TableStage
from scrflow.core.errors import ScrflowError
from scrflow.core.plugins import constant
from scrflow.pipeline.configs import Configs, variant_name

# of the farthest depth: a retrieved image this near the photo shows the same (0.5 m indoors, 3 m outdoors); where the
# depths are not known yet, depth_bias is about as long
NEAR_SHARE = 1 / 16
Stage = TypeVar("Stage", bound=BaseModel)


class Project(Configs):
    """All of ``config/``, and what each stage reads of it: ``NAME_stage`` for the stages of that config."""

    def download_stage(self, root: str) -> Download:
        return self.downloads()[root]

    def _made(self, stage: type[Stage], *holders: BaseModel, **values: Any) -> Stage:
        """A stage's config of ``values``; a field that they lack is that of the first holder that has it, or of the
        whole config (seed)."""
        for name in stage.model_fields.keys() - values.keys():
            values[name] = next(getattr(holder, name) for holder in (*holders, self.config) if hasattr(holder, name))
        return stage(**values)

    def sfm_stage(self, scene: str) -> stages.SfmStage:
        s = self.scene(scene)
        return self._made(stages.SfmStage, s, sfm=s.sfm.of_scene(scene))

    def hloc_photos_stage(self, scene: str) -> stages.SfmStage | None:
        """Of bare photos, which hloc reads before the scene exists; None where the scene is given."""
        return self.sfm_stage(scene) if self.scene(scene).source.reader == "photos" else None

    def scene_stage(self, scene: str) -> stages.SceneStage:
        return self._made(stages.SceneStage, self.scene(scene))

    def triangulate_stage(self, scene: str) -> stages.TriangulateStage:
        sfm, seed = self.scene(scene).sfm.of_scene(scene), self.config.seed
        return stages.TriangulateStage(hloc_features=sfm.hloc_features, hloc_matches=sfm.hloc_matches, seed=seed)

    def covisibility_stage(self, scene: str, graph: str | None = None) -> stages.CovisibilityStage:
        """Of the scene's own graph, or of another named in config.yaml."""
        s = self.scene(scene)
        return self._made(stages.CovisibilityStage, s, graph=self.config.graphs[graph or s.graph])

    def node2vec_stage(self, encoding: str) -> stages.Node2VecStage:
        return self._made(stages.Node2VecStage, node2vec=self.config.encodings[encoding])

    def clusters_stage(self, encoding: str) -> stages.ClustersStage:
        return self._made(stages.ClustersStage, clusters=self.config.encodings[encoding])

    def retrieval_stage(self, scene: str, feature: str) -> stages.RetrievalStage:
        s = self.scene(scene)
        near = NEAR_SHARE * s.depth_range[1] if s.depth_range else s.depth_bias or 1.0
        return self._made(stages.RetrievalStage, self._retrieval_part(feature), near=near)

    def _retrieval_part(self, feature: str) -> stages.RetrievalPart:
        """A retrieval feature, with the extractor of the local features that it aggregates."""
        r = self.config.retrieval[feature]
        return stages.RetrievalPart(retrieval=r, extractor=self.encoders[r.encoder].extractor if r.encoder else None)

    def _parts_of(self, feature: str | None) -> tuple[stages.RetrievalPart, ...]:
        """The features that a retrieval feature is joined from."""
        return tuple(map(self._retrieval_part, self.config.retrieval[feature].parts)) if feature else ()

    def pca_stage(self, encoder: str) -> stages.PcaStage:
        return self._made(stages.PcaStage, self.encoders[encoder])

    def buffer_stage(self, encoder: str) -> stages.BufferStage:
        return self._made(stages.BufferStage, self.encoders[encoder], shards=self.config.buffer_shards)

    def sample_depth_stage(self) -> stages.SampleDepthStage:
        return self._made(stages.SampleDepthStage, depth=self.config.sample_depth)

    def point_depth_stage(self) -> stages.PointDepthStage:
        return stages.PointDepthStage(points=self.config.point_depth)

    def map_depth_stage(self, scene: str) -> stages.MapDepthStage:
        return stages.MapDepthStage(maps=self.depth_maps(scene))

    def tracks_stage(self, tracks: str) -> stages.TracksStage:
        return stages.TracksStage(tracks=self.config.tracks[tracks], seed=self.config.seed)

    def train_stage(self, scene: str, method: str) -> stages.TrainStage:
        return self._made(stages.TrainStage, self.method(method), self.scene(scene), seed=self.seed_of(method))

    def map_stage(self, scene: str, method: str) -> stages.MapStage:
        m = self.method(method)
        described = self._retrieval_part(m.retrieval) if m.retrieval else None
        landmarks = None
        if m.landmarks is not None:
            features = self.config.tracks[m.landmarks.tracks].features
            landmarks = stages.LandmarksPart(features=features, landmarks=m.landmarks)
        return self._made(
            stages.MapStage,
            *(m, self.scene(scene)),
            extractor=self.encoders[m.encoder].extractor if m.encoder else None,
            landmarks=landmarks,
            retrieval=described and described.retrieval,
            retrieval_extractor=described and described.extractor,
            retrieval_parts=self._parts_of(m.retrieval) if m.retrieval else (),
            own_encoding=self.own_feature(m) is not None,
            clustered=m.global_encoding.name in self.encodings_of_kind("clusters"),
            restrictions=self.restrictions(scene, method),
            seed=self.seed_of(method),
        )

    def localize_stage(self, method: str) -> stages.LocalizeStage:
        return self._made(stages.LocalizeStage, self.method(method), seed=self.seed_of(method))

    def baseline_map_stage(self, baseline: str) -> stages.BaselineMapStage:
        b = self.baseline(baseline)
        described, parts = self._retrieval_part(b.retrieval), self._parts_of(b.retrieval)
        return self._made(stages.BaselineMapStage, b, retrieval=described, retrieval_parts=parts)

    def baseline_localize_stage(self, baseline: str) -> stages.BaselineLocalizeStage:
        return self._made(stages.BaselineLocalizeStage, self.baseline(baseline))

    def submission_stage(self, scene: str) -> stages.SubmissionStage:
        return self._made(stages.SubmissionStage, self.scene(scene))

    def evaluate_stage(self, scene: str) -> stages.EvaluateStage:
        return self._made(stages.EvaluateStage, self.scene(scene))

    def hloc_export_stage(self, encoder: str, retrieval: str | None, pairs: int) -> stages.HlocExportStage:
        for key, name, known in (("encoders", encoder, self.encoders), ("retrieval", retrieval, self.config.retrieval)):
            if name is not None and name not in known:
                raise ScrflowError(f"{self.dir}: no {name!r} in {key}; choose one of {', '.join(known)}")
        return stages.HlocExportStage(
            extractor=self.encoders[encoder].extractor,
            retrieval_name=retrieval,
            retrieval=self._retrieval_part(retrieval) if retrieval else None,
            parts=self._parts_of(retrieval),
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
                    folder = variant_name(table, config, row, set_name is not None, seed, self.config.seed)
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

    def restrictions(self, scene: str, method: str | None = None) -> tuple[Restriction, ...]:
        """What of a scene, and of a method's encoder and retrieval feature, may not be used commercially, or of what
        that is unknown. A scene of unknown use that is not downloaded has the user's own photos: none."""
        s, found = self.scene(scene), []
        if s.commercial_use == "forbidden" or (s.commercial_use == "unknown" and s.download is not None):
            found.append(Restriction(what=f"scene {scene}", licence=s.licence, commercial_use=s.commercial_use))
        if method is not None:
            m = self.method(method)
            found += self.encoder_restrictions(m.encoder) if m.encoder is not None else []
            if m.landmarks is not None:
                extractor = self.config.tracks[m.landmarks.tracks].features.name
                same = [name for name, e in self.encoders.items() if e.extractor.name == extractor]
                found += [r for name in same[:1] for r in self.encoder_restrictions(name)]
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
