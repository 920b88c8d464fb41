"""Files of ``config/`` held against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scrflow.config.method import MethodConfig
from scrflow.config.sources import RegionSource
from scrflow.core.errors import ScrflowError
from scrflow.core.plugins import module_of

if TYPE_CHECKING:
    from scrflow.pipeline.whole import WholeConfig

# folders beside the methods' under results/SCENE
RESERVED = frozenset({"scene", "sfm", "triangulated", "encodings", "retrieval", "hloc", "local", "logs", "benchmarks"})


def _known(where: str, key: str, value: str | None, options: Any) -> None:
    if value is not None and value not in options:
        raise ScrflowError(f"{where}: key {key}: no {value!r}; there are {', '.join(sorted(options)) or 'none'}")


def cross_check(whole: WholeConfig) -> None:
    """ScrflowError naming file and key for a name that refers to nothing, or parts that do not go together."""
    _check_shared(whole)
    for name, method in whole.methods.items():
        check_method(whole, f"{whole.dir}/methods/{name}.yaml", name, method)
    for table in whole.tables:
        whole.take_variants(table)
    for name in whole.baselines:
        _check_baseline(whole, name)
    for name in whole.tables:
        _check_table(whole, name)
    sources: dict[str, str] = {}
    for name in whole.scenes:
        _check_scene(whole, name, sources)


def _check_shared(whole: WholeConfig) -> None:
    """Encodings and retrieval features of config.yaml."""
    where, shared = f"{whole.dir}/config.yaml", whole.config
    clash = set(shared.encodings) & set(shared.retrieval)
    if clash:
        raise ScrflowError(f"{where}: {', '.join(clash)} named in both encodings and retrieval")
    describing = [name for name, f in shared.retrieval.items() if f.kind in ("vlad", "network")]
    for name, feature in shared.retrieval.items():
        _known(where, f"retrieval.{name}.encoder", feature.encoder, whole.encoders)
        for part in feature.parts:
            _known(where, f"retrieval.{name}.parts", part, describing)
    for name in whole.encodings_of_kind("clusters"):
        _known(where, f"encodings.{name}.retrieval", shared.encodings[name].retrieval, shared.retrieval)
    for name in whole.encodings_of_kind("node2vec"):
        _known(where, f"encodings.{name}.graph", shared.encodings[name].graph, shared.graphs)


def _check_baseline(whole: WholeConfig, name: str) -> None:
    where, baseline = f"{whole.dir}/baselines/{name}.yaml", whole.baselines[name]
    if name in whole.methods or name in RESERVED:
        raise ScrflowError(f"{where}: a baseline may not be named like a method or one of {sorted(RESERVED)}")
    _known(where, "retrieval", baseline.retrieval, whole.config.retrieval)
    try:
        module_of("local encoder", baseline.features.name)
    except ScrflowError as error:
        raise ScrflowError(f"{where}: key features.name: {error}") from None


def _check_table(whole: WholeConfig, name: str) -> None:
    where, table = f"{whole.dir}/tables/{name}.yaml", whole.tables[name]
    for scene in table.scenes:
        _known(where, "scenes", scene, whole.scenes)
    own = table.sets is not None
    for key, scenes in whole.table_sets(name).items():
        for scene in scenes:
            set_key = f"sets.{key}" if own else f"table_sets.{key}"
            _known(where if own else f"{whole.dir}/config.yaml", set_key, scene, whole.scenes)
    for row in table.rows:
        _known(where, f"rows.{row.id}.baseline", row.baseline, whole.baselines)


def _check_scene(whole: WholeConfig, name: str, sources: dict[str, str]) -> None:
    """``sources``: root -> the first scene that has it; grows by this one."""
    where, scene = f"{whole.dir}/scenes/{name}.yaml", whole.scenes[name]
    first = sources.setdefault(scene.root, name)
    if scene.download != whole.scenes[first].download:
        raise ScrflowError(f"{where}: key download: differs from that of {first}, which has the same root")
    _known(where, "method", scene.method, whole.methods)
    _known(where, "graph", scene.graph, whole.config.graphs)
    for part in whole.parts(name):
        region = isinstance(scene.source, RegionSource)
        key = "source.scene" if region else "source.scenes"
        _known(where, key, part, whole.scenes)
        if whole.parts(part):
            raise ScrflowError(
                f"{where}: key {key}: {part} is a combined scene, or a region, itself; name what it is made of"
            )
        if region and scene.unit != whole.scenes[part].unit:
            raise ScrflowError(
                f"{where}: key unit: {scene.unit!r}, {part} has {whole.scenes[part].unit!r}; a region keeps its "
                "scene's frame: set the same"
            )
    if not whole.runs(name, scene.method):
        whole.depth_maps(name, scene.method)
    if name in whole.methods or name in whole.baselines or name in RESERVED:
        raise ScrflowError(f"{where}: a scene may not be named like a method or one of {sorted(RESERVED)}")


def check_method(whole: WholeConfig, where: str, name: str, method: MethodConfig) -> None:
    """ScrflowError where a method, or a row of a table, refers to nothing or asks for what cannot be."""
    if name in RESERVED:
        raise ScrflowError(f"{where}: a method may not be named like one of {', '.join(sorted(RESERVED))}")
    _known(where, "encoder", method.encoder, whole.encoders)
    _known(where, "retrieval", method.retrieval, whole.config.retrieval)
    _known(
        where,
        "global_encoding.name",
        method.global_encoding.name,
        {**whole.config.encodings, **whole.config.retrieval},
    )
    own = whole.own_feature(method)
    if own is not None and own != method.retrieval:
        raise ScrflowError(
            f"{where}: key retrieval: {method.retrieval!r}, but the global encoding is made from {own!r}, and "
            "the query's is to be too: name the same"
        )
    if own is not None and method.localize.hypotheses != 1:
        raise ScrflowError(
            f"{where}: key localize.hypotheses: {method.localize.hypotheses}, but the query's encoding is made "
            f"from its own {own!r}, so there is one: set 1"
        )
    images_lend = method.global_encoding.name is not None and own is None
    for key in ("merge", "retrieval_dim", "pq_bytes"):
        if getattr(method.map, key) is not None and not images_lend:
            raise ScrflowError(f"{where}: key map.{key}: of methods whose encodings are mapping images' alone")
