"""The stages of the workflow, described once: function, config, inputs, outputs, and the code that counts.

Each rule of rules/*.smk is a stage of that name here. A new stage is a function, a row of this table, and a rule.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, TypeAdapter

from scrflow.config.baseline import MatchFeaturesConfig
from scrflow.config.encoder import ExtractorConfig
from scrflow.config.features import RetrievalConfig
from scrflow.core.plugins import module_of
from scrflow.pipeline.project import Project
from scrflow.storage.codeversion import code_version


@dataclass(frozen=True)
class Stage:
    """A rule and the function that its job calls."""

    rule: str
    function: str  # MODULE:NAME
    config: str | None  # Project's method NAME_stage makes it, from the wildcards that its parameters name
    inputs: tuple[str, ...]  # "name/": the function gets the folder of that file
    outputs: Mapping[str, str]  # name or "name/" -> pattern, relative to the project
    params: tuple[str, ...] = ()
    code: tuple[str, ...] = ()  # keys of the config that name an encoder, a descriptor or a reader whose code counts
    modules: tuple[str, ...] = ()  # other modules that count and that no import shows

    @property
    def module(self) -> str:
        """Module of the function, relative to the package."""
        return self.function.partition(":")[0].removeprefix("scrflow.")

    def load(self) -> Callable[..., None]:
        """The function; imports its module."""
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)

    def config_of(self, project: Project, wildcards: Mapping[str, str]) -> BaseModel | None:
        """The config that a job with these wildcards reads."""
        if self.config is None:
            return None
        make, known = getattr(project, f"{self.config}_stage"), dict(wildcards.items())
        names = [name for name in inspect.signature(make).parameters if name in known]
        return make(**{name: known[name] for name in names})

    def run(self, snakemake: Any) -> None:
        """Call the function. Its parameters are by name the rule's inputs, params and outputs, ``config`` and
        ``threads``; ``out`` is the first output. Files are Paths or lists of them. Where the rule leaves an input
        empty, the parameter keeps its default or is None."""
        function = self.load()
        folders = {name.rstrip("/") for name in (*self.inputs, *self.outputs) if name.endswith("/")}
        given: dict[str, Any] = {"threads": snakemake.threads}
        for files in (snakemake.output, snakemake.input):
            given |= {name: _paths(value, name in folders) for name, value in files.items()}
        first = next(iter(self.outputs)).rstrip("/")
        given["out"] = _paths(getattr(snakemake.output, first), first in folders)
        for name, parameter in inspect.signature(function).parameters.items():
            if name in dict(snakemake.params.items()):
                value = getattr(snakemake.params, name)
                given[name] = Path(value) if parameter.annotation in ("Path", Path) else value
            elif given.get(name) == []:
                given[name] = parameter.default if parameter.default is not parameter.empty else None
        if self.config is not None:
            made = get_type_hints(getattr(Project, f"{self.config}_stage"))["return"]
            given["config"] = TypeAdapter(made).validate_python(snakemake.params.config)
        function(**{name: given[name] for name in inspect.signature(function).parameters if name in given})


def _paths(value: str | list[str], folder: bool) -> Path | list[Path]:
    if isinstance(value, str):
        return Path(value).parent if folder else Path(value)
    return [_paths(v, folder) for v in value]


def code_of(rule: str, config: Any = None) -> str:
    """Version of a stage's code, with the encoders, descriptors and readers that ``config`` names."""
    stage = STAGES[rule]
    named = {m for key in stage.code for m in _modules(getattr(config, key))}
    return code_version(stage.module, *stage.modules, *sorted(named))


def _modules(part: Any) -> Iterator[str]:
    """Modules of the encoders, descriptors and readers that a part of a config names."""
    if isinstance(part, ExtractorConfig | MatchFeaturesConfig):
        yield module_of("local encoder", part.name)
    elif isinstance(part, RetrievalConfig) and part.network is not None:
        yield module_of("global descriptor", part.network)
    elif hasattr(part, "reader"):
        yield module_of("reader", part.reader)
    elif isinstance(part, BaseModel):
        for _, value in part:
            yield from _modules(value)
    elif isinstance(part, tuple):
        for value in part:
            yield from _modules(value)


# ---------------------------------------------------------------------------------------------------------- the table

_METHOD = "results/{scene}/{method}"
_BASELINE = "results/{scene}/{baseline}"
_LOCAL = "results/{scene}/local/{encoder}"
_HLOC = "results/{scene}/hloc"


def _model(report: str) -> dict[str, str]:
    """A COLMAP model and the report on it, whose folder the function gets."""
    folder = Path(report).parent
    parts = ("cameras", "frames", "images", "points3D", "rigs")
    return {"report/": report, **{part: f"{folder}/{part}.bin" for part in parts}}


def _encoding() -> dict[str, str]:
    return {
        name: f"results/{{scene}}/encodings/{{encoding}}.{end}"
        for name, end in (("encoding", "h5"), ("metrics", "json"))
    }


def _localized(folder: str) -> dict[str, str]:
    return {"poses": f"{folder}/poses.txt", "details": f"{folder}/localization.json"}


def _evaluated(folder: str) -> dict[str, str]:
    return {
        "out_csv": f"{folder}/queries.csv",
        "out_metrics": f"{folder}/metrics.json",
        "errors_png": f"{folder}/errors.png",
        "overlay_png": f"{folder}/overlay.png",
    }


def _table(stem: str, *names: str) -> dict[str, str]:
    return {name: f"results/tables/{stem}.{end}" for name, end in zip(names, ("md", "csv", "tex", "png"), strict=False)}


_TABLE = ("out_markdown", "out_csv", "out_latex")
_TOY = ("markdown", "table", "latex", "picture")
_LOCALIZED_INPUTS = ("scene/", "map_path", "poses", "details")

# rule, function, config, inputs, outputs
_STAGES = (
    Stage(
        "download_dataset",
        "scrflow.scene.downloads:download_dataset",
        "download",
        ("table",),
        {"marker": "resources/{root}.downloaded"},
        params=("out",),
    ),
    Stage(
        "reconstruct_scene",
        "scrflow.sfm.reconstruct:run_sfm",
        "sfm",
        ("sources", "hloc"),
        _model("results/{scene}/sfm/sfm.json"),
        params=("root",),
    ),
    Stage(
        "build_scene",
        "scrflow.scene.build:build_scene",
        "scene",
        ("sources", "sfm_model/", "parts/"),
        {
            "scene/": "results/{scene}/scene/scene.json",
            "queries": "results/{scene}/scene/queries.txt",
            "mapping": "results/{scene}/scene/mapping",
        },
        params=("root",),
        code=("source",),
    ),
    Stage(
        "triangulate_points",
        "scrflow.sfm.triangulate:triangulate",
        "triangulate",
        ("scene/", "hloc"),
        _model("results/{scene}/triangulated/triangulation.json"),
    ),
    Stage(
        "build_graph",
        "scrflow.graph.covisibility:build_graph",
        "covisibility",
        ("scene/", "model/"),
        {"graph": "results/{scene}/covisibility.npz"},
    ),
    Stage(
        "build_named_graph",
        "scrflow.graph.covisibility:build_graph",
        "covisibility",
        ("scene/", "model/"),
        {"graph": "results/{scene}/graphs/{graph}.npz"},
    ),
    Stage(
        "embed_graph",
        "scrflow.graph.node2vec:embed",
        "node2vec",
        ("graph",),
        _encoding(),
        modules=("graph.node2vec.reference_worker",),
    ),
    Stage(
        "cluster_features",
        "scrflow.features.global_encoding:cluster_features",
        "clusters",
        ("scene/", "features"),
        _encoding(),
    ),
    Stage(
        "build_retrieval",
        "scrflow.features.retrieval:build_retrieval",
        "retrieval",
        ("scene/", "features", "part_descriptors", "part_models"),
        {
            "descriptors": "results/{scene}/retrieval/{feature}.h5",
            "model": "results/{scene}/retrieval/{feature}.safetensors",
            "quality": "results/{scene}/retrieval/{feature}.json",
        },
        code=("extractor", "retrieval"),
    ),
    # features and matches by hloc
    Stage(
        "list_hloc_images",
        "scrflow.baseline.hloc_images:list_images",
        "hloc_photos",
        ("scene/", "sources"),
        {"images": f"{_HLOC}/images.json"},
        params=("root",),
    ),
    Stage(
        "hloc_global_features",
        "scrflow.baseline.hloc_run:extract_features",
        None,
        ("images",),
        {"features": f"{_HLOC}/global-feats-{{configuration}}.h5"},
        params=("configuration",),
    ),
    Stage(
        "hloc_local_features",
        "scrflow.baseline.hloc_run:extract_features",
        None,
        ("images",),
        {"features": f"{_HLOC}/features.h5"},
        params=("configuration",),
    ),
    Stage(
        "hloc_pairs",
        "scrflow.baseline.hloc_run:pairs_from_retrieval",
        None,
        ("images", "descriptors"),
        {"pairs": f"{_HLOC}/pairs.txt"},
        params=("neighbours",),
    ),
    Stage(
        "hloc_match",
        "scrflow.baseline.hloc_run:match_features",
        None,
        ("features", "pairs"),
        {"matches": f"{_HLOC}/matches.h5"},
        params=("configuration",),
    ),
    Stage(
        "hloc_triangulate",
        "scrflow.baseline.hloc_run:triangulate",
        None,
        ("scene", "reference", "images", "pairs", "features", "matches"),
        {"model": f"{_HLOC}/triangulated"},
    ),
    # training samples and their depths
    Stage(
        "fit_pca",
        "scrflow.features.pca:fit_pca",
        "pca",
        ("scene/",),
        {"pca": f"{_LOCAL}/pca.safetensors"},
        code=("extractor",),
    ),
    Stage(
        "fill_buffer",
        "scrflow.training.buffer:fill_shard",
        "buffer",
        ("scene/", "pca"),
        {"samples": f"{_LOCAL}/buffer-{{shard}}.h5"},
        params=("shard",),
        code=("extractor",),
    ),
    Stage(
        "triangulate_samples",
        "scrflow.depths.matched:estimate_sample_depths",
        "sample_depth",
        ("graph", "shards"),
        {"depth": f"{_LOCAL}/depth-matched.h5"},
    ),
    Stage(
        "find_point_depths",
        "scrflow.depths.points:depths_from_points",
        "point_depth",
        ("points", "shards"),
        {"depth": f"{_LOCAL}/depth-points.h5"},
    ),
    Stage(
        "read_depth_maps",
        "scrflow.depths.maps:depths_from_maps",
        "map_depth",
        ("scene/", "maps", "shards"),
        {"depth": f"{_LOCAL}/depth-maps.h5"},
        params=("root",),
    ),
    # methods
    Stage(
        "train_head",
        "scrflow.training.job:train_head",
        "train",
        ("shards", "graph", "encoding", "depth"),
        {"head": f"{_METHOD}/head.safetensors", "history": f"{_METHOD}/train.jsonl"},
        params=("checkpoint",),
    ),
    Stage(
        "write_map",
        "scrflow.map.file:write_map",
        "map",
        ("scene/", "head", "pca", "encoding", "retrieval", "graph"),
        {"map": f"{_METHOD}/map.safetensors"},
    ),
    Stage(
        "localize_queries",
        "scrflow.localize.localizer:localize_queries",
        "localize",
        ("scene/", "map_path", "descriptors"),
        _localized(_METHOD),
    ),
    Stage(
        "evaluate_poses",
        "scrflow.evaluate.metrics:evaluate",
        "evaluate",
        (*_LOCALIZED_INPUTS, "training"),
        _evaluated(_METHOD),
    ),
    Stage(
        "choose_poses",
        "scrflow.evaluate.submission:write_submission",
        "submission",
        ("scene/", "poses", "metrics"),
        {"chosen": "results/{scene}/poses.txt"},
    ),
    # baselines
    Stage(
        "map_baseline",
        "scrflow.baseline.mapping:build_map",
        "baseline_map",
        ("scene/", "graph", "retrieval"),
        {"map": f"{_BASELINE}/map.h5"},
        code=("features", "retrieval", "retrieval_parts"),
    ),
    Stage(
        "localize_baseline",
        "scrflow.baseline.localizer:localize_baseline",
        "baseline_localize",
        ("scene/", "map_path", "descriptors"),
        _localized(_BASELINE),
    ),
    Stage(
        "evaluate_baseline",
        "scrflow.evaluate.metrics:evaluate",
        "evaluate",
        (*_LOCALIZED_INPUTS, "training"),
        _evaluated(_BASELINE),
    ),
    # reports and tables
    Stage(
        "write_report",
        "scrflow.report.page.page:write_report",
        None,
        (*_LOCALIZED_INPUTS, "folder/", "history", "graph", "descriptors"),
        {"page": f"{_METHOD}/report.html"},
    ),
    Stage(
        "write_baseline_report",
        "scrflow.report.page.page:write_report",
        None,
        (*_LOCALIZED_INPUTS, "folder/", "graph", "descriptors"),
        {"page": f"{_BASELINE}/report.html"},
    ),
    Stage(
        "write_table",
        "scrflow.report.tables.build:write_table",
        "table",
        ("metrics", "published"),
        _table("{table}", *_TABLE),
        params=("results", "papers"),
    ),
    Stage(
        "write_table_of_set",
        "scrflow.report.tables.build:write_table",
        "table",
        ("metrics", "published"),
        _table("{table}@{set_name}", *_TABLE),
        params=("results", "papers"),
    ),
    Stage(
        "toy_example",
        "scrflow.report.toytable:write_toy",
        "toy",
        ("scenes/", "published"),
        _table("glace-figure-8", *_TOY),
        params=("papers",),
        code=("toy",),
    ),
    Stage(
        "toy_example_of_set",
        "scrflow.report.toytable:write_toy",
        "toy",
        ("scenes/", "published"),
        _table("glace-figure-8@{set_name}", *_TOY),
        params=("papers",),
        code=("toy",),
    ),
)
STAGES = {stage.rule: stage for stage in _STAGES}
