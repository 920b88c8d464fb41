"""The files of ``config/``: each with what it extends, the variants that tables run, and checks across files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scrflow.config.base import Strict, deep_merge, read_yaml, validate
from scrflow.config.method import MethodConfig
from scrflow.config.table import TableConfig, TableRow
from scrflow.core.errors import ScrflowError
from scrflow.core.plugins import module_of

if TYPE_CHECKING:
    from scrflow.pipeline.project import Project

# folders of config/, each file of which is one of the kind
KINDS = ("scenes", "encoders", "methods", "baselines", "tables")
Model = TypeVar("Model", bound=Strict)


def load_kind(
    folder: Path, kind: str, model: type[Model], over: dict[str, dict[str, Any]]
) -> tuple[dict[str, Model], dict[str, dict[str, Any]]]:
    """All files of a kind (name -> config), and the keys of each with those of what it extends. ``over`` counts as if
    the files said so. ScrflowError naming file and key."""
    files = {p.stem: p for p in sorted((folder / kind).glob("*.yaml"))}
    raw = {name: read_yaml(path) for name, path in files.items()}
    for name, values in over.items():
        if name not in raw:
            raise ScrflowError(f"override {kind}.{name}: no {folder}/{kind}/{name}.yaml; there are {', '.join(raw)}")
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


def variants_of(project: Project, table: str) -> dict[str, Variant]:
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


# folders beside the methods' under results/SCENE
RESERVED = frozenset({"scene", "sfm", "triangulated", "encodings", "retrieval", "hloc", "local", "logs", "benchmarks"})


def _known(where: str, key: str, value: str | None, options: Any) -> None:
    if value is not None and value not in options:
        raise ScrflowError(f"{where}: key {key}: no {value!r}; there are {', '.join(sorted(options)) or 'none'}")


def cross_check(project: Project) -> None:
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


def _check_shared(project: Project) -> None:
    """Encodings and retrieval features of config.yaml."""
    where, shared = f"{project.dir}/config.yaml", project.config
    clash = set(shared.encodings) & set(shared.retrieval)
    if clash:
        raise ScrflowError(f"{where}: {', '.join(clash)} named in both encodings and retrieval")
    describing = [name for name, f in shared.retrieval.items() if f.kind in ("vlad", "network")]
    for name, feature in shared.retrieval.items():
        _known(where, f"retrieval.{name}.encoder", feature.encoder, project.encoders)
        for part in feature.parts:
            _known(where, f"retrieval.{name}.parts", part, describing)
    for name in project.encodings_of_kind("clusters"):
        _known(where, f"encodings.{name}.retrieval", shared.encodings[name].retrieval, shared.retrieval)
    for name in project.encodings_of_kind("node2vec"):
        _known(where, f"encodings.{name}.graph", shared.encodings[name].graph, shared.graphs)


def _check_baseline(project: Project, name: str) -> None:
    where, baseline = f"{project.dir}/baselines/{name}.yaml", project.baselines[name]
    if name in project.methods or name in RESERVED:
        raise ScrflowError(f"{where}: a baseline may not be named like a method or one of {sorted(RESERVED)}")
    _known(where, "retrieval", baseline.retrieval, project.config.retrieval)
    try:
        module_of("local encoder", baseline.features.name)
    except ScrflowError as error:
        raise ScrflowError(f"{where}: key features.name: {error}") from None


def _check_table(project: Project, name: str) -> None:
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


def _check_scene(project: Project, name: str, sources: dict[str, str]) -> None:
    """``sources``: root -> the first scene that has it; grows by this one."""
    where, scene = f"{project.dir}/scenes/{name}.yaml", project.scenes[name]
    first = sources.setdefault(scene.root, name)
    if scene.download != project.scenes[first].download:
        raise ScrflowError(f"{where}: key download: differs from that of {first}, which has the same root")
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
        raise ScrflowError(f"{where}: a scene may not be named like a method or one of {sorted(RESERVED)}")


def check_method(project: Project, where: str, name: str, method: MethodConfig) -> None:
    """ScrflowError where a method, or a row of a table, refers to nothing or asks for what cannot be."""
    if name in RESERVED:
        raise ScrflowError(f"{where}: a method may not be named like one of {', '.join(sorted(RESERVED))}")
    _known(where, "encoder", method.encoder, project.encoders)
    _known(where, "retrieval", method.retrieval, project.config.retrieval)
    encodings = {**project.config.encodings, **project.config.retrieval}
    _known(where, "global_encoding.name", method.global_encoding.name, encodings)
    own = project.own_feature(method)
    if own is not None and own != method.retrieval:
        raise ScrflowError(f"{where}: key retrieval: {method.retrieval!r}, but the global encoding needs {own!r}")
    if own is not None and method.localize.hypotheses != 1:
        count = method.localize.hypotheses
        raise ScrflowError(f"{where}: key localize.hypotheses: {count}, but a query has one encoding, {own!r}: set 1")
    images_lend = method.global_encoding.name is not None and own is None
    for key in ("merge", "retrieval_dim", "pq_bytes"):
        if getattr(method.map, key) is not None and not images_lend:
            raise ScrflowError(f"{where}: key map.{key}: of methods whose encodings are mapping images' alone")
