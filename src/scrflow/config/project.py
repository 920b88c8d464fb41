"""The whole of ``config/``, resolved and checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from scrflow.config.base import Strict, deep_merge, read_yaml, validate
from scrflow.config.encoder import EncoderConfig
from scrflow.config.features import GlobalConfig
from scrflow.config.method import MethodConfig
from scrflow.config.scene import Download, SceneConfig
from scrflow.config.stages import (
    BufferStage,
    CovisibilityStage,
    EvaluateStage,
    LocalizeStage,
    MapStage,
    Node2VecStage,
    PcaStage,
    RetrievalStage,
    SampleDepthStage,
    SceneStage,
    SfmStage,
    TrainStage,
    TriangulateStage,
)
from scrflow.errors import ScrflowError

# folders beside the methods' under results/SCENE
RESERVED = frozenset({"scene", "sfm", "triangulated", "encodings", "retrieval", "local", "logs", "benchmarks"})


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
        values = deep_merge(read_yaml(self.dir / "config.yaml"), over)
        self.config: GlobalConfig = validate(GlobalConfig, values, self.dir / "config.yaml")
        self.scenes: dict[str, SceneConfig] = self._load("scenes", SceneConfig)
        self.encoders: dict[str, EncoderConfig] = self._load("encoders", EncoderConfig)
        self.methods: dict[str, MethodConfig] = self._load("methods", MethodConfig)
        self._cross_check()

    def _load(self, kind: str, model: type[Strict]) -> dict[str, Any]:
        files = {p.stem: p for p in sorted((self.dir / kind).glob("*.yaml"))}
        raw = {name: read_yaml(path) for name, path in files.items()}
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

        return {name: validate(model, resolve(name, ()), files[name]) for name in raw}

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
        sources: dict[str, str] = {}
        for name, scene in self.scenes.items():
            where = f"{self.dir}/scenes/{name}.yaml"
            first = sources.setdefault(scene.root, name)
            if scene.download != self.scenes[first].download:
                raise ScrflowError(f"{where}: key download: differs from that of {first}, which has the same root")
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
        return local if local.is_dir() or scene.download is None else Path("resources") / scene.root

    def downloads(self) -> dict[str, Download]:
        """Root of a dataset -> where it comes from; scenes with the same root share one download."""
        return {s.root: s.download for s in self.scenes.values() if s.download is not None}

    # -- one method a stage: the subset of the config that the stage reads

    def download_stage(self, root: str) -> Download:
        return self.downloads()[root]

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
