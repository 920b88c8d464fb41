"""All of ``config/``, resolved and checked, and what follows from it for scenes, methods and tables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from scrflow.config.base import deep_merge, read_yaml, validate
from scrflow.config.baseline import BaselineConfig
from scrflow.config.encoder import EncoderConfig
from scrflow.config.features import GlobalConfig
from scrflow.config.method import MethodConfig
from scrflow.config.scene import DepthMaps, Download, SceneConfig
from scrflow.config.sources import CombinedSource, RegionSource
from scrflow.config.table import TableConfig
from scrflow.core.errors import ScrflowError
from scrflow.pipeline.crosscheck import check_method, cross_check
from scrflow.pipeline.files import KINDS, Model, load_kind
from scrflow.pipeline.variants import Variant, variants_of


class WholeConfig:
    """All of ``config/``, resolved and checked against each other.

    ``overrides`` counts as if the files said so: keys of config.yaml; under ``scenes``, ``encoders`` and ``methods``
    keys of the files there (``{"methods": {"ace": {"training": {"steps": 10}}}}``).

    Raises ScrflowError naming file and key for anything that is unknown, of a wrong type, or refers to nothing.
    """

    def __init__(self, config_dir: str | Path = "config", overrides: dict[str, Any] | None = None):
        self.dir = Path(config_dir)
        over = dict(overrides or {})
        self._over = {kind: over.pop(kind, None) or {} for kind in KINDS}
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
        self.variants: dict[str, Variant] = {}
        self.unusable: dict[str, ScrflowError] = {}  # tables, by the overrides of this run
        cross_check(self)

    def _load(self, kind: str, model: type[Model]) -> dict[str, Model]:
        configs, self._keys[kind] = load_kind(self.dir, kind, model, self._over[kind])
        return configs

    def _method_keys(self, name: str, where: Path) -> dict[str, Any]:
        """Keys of a method's file, with those of what it extends."""
        if name not in self._keys["methods"]:
            raise ScrflowError(f"{where}: no method {name!r}; there are {', '.join(self._keys['methods'])}")
        return self._keys["methods"][name]

    def take_variants(self, table: str) -> None:
        """The methods that a table runs beside those of config/methods.

        Where methods are overridden for a run, a variant of one may come to nothing: that is told when the table is
        asked for, as the run may be for something else.
        """
        where = self.dir / "tables" / f"{table}.yaml"
        methods, seed = set(self.methods), self.config.seed
        try:
            found = variants_of(table, self.tables[table], where, self._method_keys, methods, seed, self.variants)
            for name, variant in found.items():
                check_method(self, str(where), name, variant.config)
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

    def needs_depth(self, method: str) -> bool:
        """Whether training of the method reads the samples' depths."""
        return self.method(method).training.needs_depth

    def depth_maps(self, scene: str, method: str = "") -> DepthMaps:
        """Where the scene's depth images are; ScrflowError for a scene without any, naming the method that asks."""
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
        """Whether the scene's own model comes with 3D points: SfM's and an NVM's do, a COLMAP model if its file says so
        (one that is still to be downloaded is believed to)."""
        source = self.scene(scene).source
        if source.reader in ("photos", "nvm", "cambridge"):
            return True
        if source.reader != "colmap":
            return False
        model = self.scene_root(scene) / source.model
        if (model / "points3D.bin").is_file():
            return (model / "points3D.bin").stat().st_size > 8  # the number of points
        if not (model / "points3D.txt").is_file():
            return True
        with open(model / "points3D.txt", encoding="utf-8") as f:
            return any(line.strip() and not line.startswith("#") for line in f)

    def scene(self, name: str) -> SceneConfig:
        """The scene's config; ScrflowError listing the known names if there is none."""
        if name not in self.scenes:
            raise ScrflowError(f"no scene {name!r} under {self.dir}/scenes; there are {', '.join(self.scenes)}")
        return self.scenes[name]

    def method(self, name: str) -> MethodConfig:
        """The config of a method or a variant; ScrflowError listing the known names if there is none."""
        if name in self.variants:
            return self.variants[name].config
        if name not in self.methods:
            raise ScrflowError(f"no method {name!r} under {self.dir}/methods; there are {', '.join(self.methods)}")
        return self.methods[name]

    def baseline(self, name: str) -> BaselineConfig:
        """The baseline's config; ScrflowError listing the known names if there is none."""
        if name not in self.baselines:
            there = ", ".join(self.baselines) or "none"
            raise ScrflowError(f"no baseline {name!r} under {self.dir}/baselines; there are {there}")
        return self.baselines[name]

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
        """The scenes whose artifacts a scene is made of: a combined one, or a region of another; none for others."""
        source = self.scene(name).source
        if isinstance(source, RegionSource):
            return (source.scene,)
        return source.scenes if isinstance(source, CombinedSource) else ()

    def scenes_at_hand(self) -> list[str]:
        """Scenes whose folder is there (for a combined one: those of its parts)."""
        return [name for name in self.scenes if all(self.scene_root(n).is_dir() for n in self.parts(name) or [name])]

    def downloads(self) -> dict[str, Download]:
        """Root of a dataset -> where it comes from; scenes with the same root share one download."""
        return {s.root: s.download for s in self.scenes.values() if s.download is not None}

    def table_sets(self, table: str) -> dict[str, tuple[str, ...]]:
        """The sets of scenes (demo, real) that a table can be asked for on, beside its own scenes."""
        sets = self.tables[table].sets
        return self.config.table_sets if sets is None else sets

    def set_names(self) -> list[str]:
        """Every name of a set that a table, or the toy example, can be asked for on."""
        return sorted({*self.config.table_sets, *(name for table in self.tables for name in self.table_sets(table))})
