"""All of ``config/``: each file with what it extends, the variants that tables run, and checks across files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from scrflow.config.base import Strict, deep_merge, read_yaml, validate
from scrflow.config.features import GlobalConfig
from scrflow.config.method import BaselineConfig, EncoderConfig, MethodConfig
from scrflow.config.scene import DepthMaps, Download, SceneConfig
from scrflow.config.table import TableConfig, TableRow
from scrflow.core.errors import ScrflowError
from scrflow.core.plugins import plugins

# folders of config/, each file of which is one of the kind
KINDS = ("scenes", "encoders", "methods", "baselines", "tables")
# of a wheel: Snakefile, rules, config, demo and the like (setup.py); None in a checkout, which has them at its top
_COPIED = Path(__file__).resolve().parents[1] / "_project"
SHIPPED = _COPIED if _COPIED.is_dir() else None
Model = TypeVar("Model", bound=Strict)


def snakefile() -> Path:
    """This folder's Snakefile, or the wheel's."""
    own = Path("Snakefile")
    return own if SHIPPED is None or own.is_file() else SHIPPED / own


def load_kind(
    folders: Sequence[Path], kind: str, model: type[Model], over: dict[str, dict[str, Any]]
) -> tuple[dict[str, Model], dict[str, dict[str, Any]]]:
    """All files of a kind (name -> config), and the keys of each with those of what it extends. A later folder's file
    replaces one of the same name, and ``over`` counts as if the files said so. ScrflowError naming file and key."""
    files = {p.stem: p for folder in folders for p in (folder / kind).glob("*.yaml")}
    raw = {name: read_yaml(files[name]) for name in sorted(files)}
    for name, values in over.items():
        if name not in raw:
            where = f"{folders[-1]}/{kind}/{name}.yaml"
            raise ScrflowError(f"override {kind}.{name}: no {where}; there are {', '.join(raw)}")
        raw[name] = deep_merge(raw[name], values)

    def resolve(name: str, trail: tuple[str, ...]) -> dict[str, Any]:
        if name in trail:
            raise ScrflowError(f"{files[trail[0]]}: extends runs in a circle: {' -> '.join((*trail, name))}")
        base = raw[name].get("extends")
        if base is None:
            return raw[name]
        if not isinstance(base, str) or base not in raw:
            raise ScrflowError(f"{files[name]}: key extends: no {kind} named {base!r}; there are {', '.join(raw)}")
        return deep_merge(resolve(base, (*trail, name)), raw[name])

    keys = {name: resolve(name, ()) for name in raw}
    return {name: validate(model, values, files[name]) for name, values in keys.items()}, keys


@dataclass(frozen=True)
class Variant:
    """A method that a table runs."""

    base: str
    config: MethodConfig
    where: Path  # the table's file


def variant_name(table: str, config: TableConfig, row: TableRow, small: bool, seed: int, default_seed: int) -> str:
    """Name of the method that a row runs with a seed; the method's own where nothing is changed."""
    name = row.method_of(small)
    if config.over:
        name += f"+{table}.{row.id}"
    elif row.over_of(small):
        name += f"+{row.id}"
    return name if seed == default_seed else f"{name}+s{seed}"


def variants_of(project: Configs, table: str) -> dict[str, Variant]:
    """Every variant that a table runs. ScrflowError naming the table for an unknown method or key, and for a name that
    a variant of another table has with another meaning."""
    where, config, default = project.dir / "tables" / f"{table}.yaml", project.tables[table], project.config.seed
    found: dict[str, Variant] = {}
    for row in config.rows:
        for small in (False, True):
            base = row.method_of(small)
            if base is None:
                continue
            values = deep_merge(project.method_keys(base, where), deep_merge(config.over, row.over_of(small)))
            for seed in config.seeds:
                name = variant_name(table, config, row, small, seed, default)
                if name in project.methods:
                    continue
                values["seed"] = None if seed == default else seed
                made = Variant(base, validate(MethodConfig, values, Path(f"{where}: row {row.id}")), where)
                known = project.variants.get(name) or found.setdefault(name, made)
                if known.config != made.config:
                    raise ScrflowError(
                        f"{where}: row {row.id}: {known.where} has a row of that name with other keys; "
                        "give one of them another id"
                    )
    for name, variant in found.items():
        check_method(project, str(where), name, variant.config)
    return found


class Configs:
    """All of ``config/``, resolved and checked against each other; ScrflowError naming file and key for what is wrong.

    Installed from a wheel, ``config/`` adds to the config in the wheel: its files replace those of the same name, and
    the keys of its config.yaml those of the wheel's. Beside a Snakefile of its own it stands alone.

    ``overrides`` counts as if the files said so: keys of config.yaml; under ``scenes``, ``encoders`` and ``methods``
    keys of the files there (``{"methods": {"ace": {"training": {"steps": 10}}}}``).
    """

    def __init__(self, config_dir: str | Path = "config", overrides: dict[str, Any] | None = None):
        self.dir = Path(config_dir)
        over = dict(overrides or {})
        self._over = {kind: over.pop(kind, None) or {} for kind in KINDS}
        for kind, named in self._over.items():
            if not isinstance(named, dict) or not all(isinstance(keys, dict) for keys in named.values()):
                raise ScrflowError(f"override {kind}: expected NAME: {{KEY: VALUE}}, found {str(named)[:80]}")
        self._keys: dict[str, dict[str, dict[str, Any]]] = {}
        alone = SHIPPED is None or (self.dir.parent / "Snakefile").is_file()
        self._folders = (self.dir,) if alone else (SHIPPED / "config", self.dir)
        values: dict[str, Any] = {}
        for path in (folder / "config.yaml" for folder in self._folders):
            if alone or path.is_file():
                values = deep_merge(values, read_yaml(path))
        values = deep_merge(values, over)
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
        made, self._keys[kind] = load_kind(self._folders, kind, model, self._over[kind])
        return made

    def path_of(self, name: str) -> Path:
        """A file or folder of ``config/``, by its path in it: the last of the folders that has it."""
        found = (folder / name for folder in reversed(self._folders))
        return next((path for path in found if path.exists()), self.dir / name)

    def method_keys(self, name: str, where: Path) -> dict[str, Any]:
        """Keys of a method's file, with those of what it extends."""
        if name not in self._keys["methods"]:
            raise ScrflowError(f"{where}: no method {name!r}; there are {', '.join(self._keys['methods'])}")
        return self._keys["methods"][name]

    def take_variants(self, table: str) -> None:
        """Add the methods that a table runs beside those of config/methods. Where a run's overrides make one of them
        wrong, ``table_stage`` says so: the run may be for something else."""
        try:
            self.variants |= variants_of(self, table)
        except ScrflowError as error:
            if not self._over["methods"]:
                raise
            self.unusable[table] = error

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

    def _named(self, kind: str, there: dict[str, Model], name: str) -> Model:
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
        """The method whose head is this one's: those that differ in the map or in localization alone share that of the
        shortest name."""
        own = self._training_keys(method)
        same = (name for name in [*self.methods, *self.variants] if self._training_keys(name) == own)
        return min(same, key=lambda name: (len(name), name))

    def _training_keys(self, method: str) -> tuple[Any, ...]:
        m = self.method(method)
        return m.encoder, m.global_encoding, m.head, m.training, self.seed_of(method)

    def graph_of(self, method: str) -> str | None:
        """The graph that a method's encoding was made on, where it is not the scene's own."""
        encoding = self.config.encodings.get(self.method(method).global_encoding.name or "")
        return getattr(encoding, "graph", None)

    def data_root(self) -> Path:
        return Path(os.environ.get("SCRFLOW_DATA", self.config.data_root)).expanduser()

    def scene_root(self, name: str) -> Path:
        """Folder of the scene's photos: in the project, under data_root (or absolute) when there, else resources/
        (downloaded)."""
        return Path("resources", self.scene(name).root) if self.is_downloaded(name) else self._own_root(name)

    def is_downloaded(self, name: str) -> bool:
        """Whether the workflow downloads the scene: its config names a source, and its own folder is not there."""
        return self.scene(name).download is not None and not self._own_root(name).is_dir()

    def _own_root(self, name: str) -> Path:
        scene = self.scene(name)
        root = Path(scene.root).expanduser()
        if scene.in_project:
            shipped = SHIPPED is not None and self.path_of(f"scenes/{name}.yaml").is_relative_to(SHIPPED)
            return SHIPPED / root if shipped else root
        return self.data_root() / root  # an absolute root stays as it is

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
        """Every name of a set that a table can run on."""
        return sorted({*self.config.table_sets, *(name for table in self.tables for name in self.table_sets(table))})


# folders beside the methods' under results/SCENE
RESERVED = frozenset(
    {"scene", "sfm", "triangulated", "tracks", "encodings", "retrieval", "hloc", "local", "logs", "benchmarks"}
)


def _known(where: str, key: str, value: str | None, options: Any) -> None:
    if value is not None and value not in options:
        raise ScrflowError(f"{where}: key {key}: no {value!r}; there are {', '.join(sorted(options)) or 'none'}")


def cross_check(project: Configs) -> None:
    """ScrflowError naming file and key for a name that refers to nothing, or parts that do not go together."""
    _check_shared(project)
    for name, method in project.methods.items():
        check_method(project, f"{project.dir}/methods/{name}.yaml", name, method)
    for table in project.tables:
        project.take_variants(table)
    for name in project.baselines:
        _check_baseline(project, name)
    for name in project.tables:
        _check_table(project, name)
    sources: dict[str, str] = {}
    for name in project.scenes:
        _check_scene(project, name, sources)


def _check_shared(project: Configs) -> None:
    """Encodings and retrieval features of config.yaml."""
    where, shared = f"{project.dir}/config.yaml", project.config
    clash = set(shared.encodings) & set(shared.retrieval)
    if clash:
        raise ScrflowError(f"{where}: {', '.join(clash)} named in both encodings and retrieval; rename one of the two")
    for name, tracks in shared.tracks.items():
        _known(where, f"tracks.{name}.features.name", tracks.features.name, plugins("local encoder"))
    describing = [name for name, f in shared.retrieval.items() if f.kind in ("vlad", "network")]
    for name, feature in shared.retrieval.items():
        _known(where, f"retrieval.{name}.encoder", feature.encoder, project.encoders)
        for part in feature.parts:
            _known(where, f"retrieval.{name}.parts", part, describing)
    for name in project.encodings_of_kind("clusters"):
        _known(where, f"encodings.{name}.retrieval", shared.encodings[name].retrieval, shared.retrieval)
    for name in project.encodings_of_kind("node2vec"):
        _known(where, f"encodings.{name}.graph", shared.encodings[name].graph, shared.graphs)


def _check_baseline(project: Configs, name: str) -> None:
    where, baseline = f"{project.dir}/baselines/{name}.yaml", project.baselines[name]
    if name in project.methods or name in RESERVED:
        raise ScrflowError(f"{where}: named like a method or one of {', '.join(sorted(RESERVED))}; rename the file")
    _known(where, "retrieval", baseline.retrieval, project.config.retrieval)
    _known(where, "features.name", baseline.features.name, plugins("local encoder"))


def _check_table(project: Configs, name: str) -> None:
    where, table = f"{project.dir}/tables/{name}.yaml", project.tables[name]
    for scene in table.scenes:
        _known(where, "scenes", scene, project.scenes)
    own = table.sets is not None
    for key, scenes in project.table_sets(name).items():
        for scene in scenes:
            set_key = f"sets.{key}" if own else f"table_sets.{key}"
            _known(where if own else f"{project.dir}/config.yaml", set_key, scene, project.scenes)
    for row in table.rows:
        _known(where, f"rows.{row.id}.baseline", row.baseline, project.baselines)


def _check_scene(project: Configs, name: str, sources: dict[str, str]) -> None:
    """``sources``: root -> the first scene that has it; grows by this one."""
    where, scene = f"{project.dir}/scenes/{name}.yaml", project.scenes[name]
    first = sources.setdefault(scene.root, name)
    if scene.download != project.scenes[first].download:
        raise ScrflowError(
            f"{where}: key download: differs from that of {first}, which has the same root; make it equal"
        )
    _known(where, "method", scene.method, project.methods)
    _known(where, "graph", scene.graph, project.config.graphs)
    for part in project.parts(name):
        region = scene.source.part_of_a_scene
        key = "source.scene" if region else "source.scenes"
        _known(where, key, part, project.scenes)
        if project.parts(part):
            raise ScrflowError(f"{where}: key {key}: {part} is a combined scene or a region; name what it is made of")
        if region and scene.unit != project.scenes[part].unit:
            unit = project.scenes[part].unit
            raise ScrflowError(f"{where}: key unit: {scene.unit!r}, but a region has its scene's: set {unit!r}")
    if not project.runs(name, scene.method):
        project.depth_maps(name, scene.method)
    if name in project.methods or name in project.baselines or name in RESERVED:
        raise ScrflowError(f"{where}: named like a method or one of {', '.join(sorted(RESERVED))}; rename the file")


def check_method(project: Configs, where: str, name: str, method: MethodConfig) -> None:
    """ScrflowError where a method, or a row of a table, refers to nothing or asks for what cannot be."""
    if name in RESERVED:
        raise ScrflowError(f"{where}: named like one of {', '.join(sorted(RESERVED))}; rename it")
    _known(where, "encoder", method.encoder, project.encoders)
    if method.landmarks is not None:
        _known(where, "landmarks.tracks", method.landmarks.tracks, project.config.tracks)
    _known(where, "retrieval", method.retrieval, project.config.retrieval)
    encodings = {**project.config.encodings, **project.config.retrieval}
    _known(where, "global_encoding.name", method.global_encoding.name, encodings)
    own = project.own_feature(method)
    if own is not None and own != method.retrieval:
        raise ScrflowError(
            f"{where}: key retrieval: {method.retrieval!r}, but the global encoding needs {own!r}: set it"
        )
    if own is not None and method.localize.hypotheses != 1:
        count = method.localize.hypotheses
        raise ScrflowError(f"{where}: key localize.hypotheses: {count}, but a query has one encoding, {own!r}: set 1")
    images_lend = method.global_encoding.name is not None and own is None
    for key in ("merge", "retrieval_dim", "pq_bytes"):
        if getattr(method.map, key) is not None and not images_lend:
            raise ScrflowError(
                f"{where}: key map.{key}: of methods whose encodings are mapping images' alone; remove it"
            )
