"""The stages of the workflow, described once: function, config, inputs, outputs, and the code that counts.

Each rule of rules/*.smk is a stage of that name here. A new stage is a function, a row of this table, and a rule.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, TypeAdapter

from scrflow.config.features import RetrievalConfig
from scrflow.config.method import ExtractorConfig, MatchFeaturesConfig
from scrflow.core.plugins import module_of
from scrflow.pipeline.project import Project

_ROOT = Path(__file__).parents[1]
# modules, and folders with everything in them
_NEUTRAL = (
    *("core.device", "core.errors", "core.plugins", "core.progress", "config", "pipeline", "cli"),
    *("storage.artifact", "storage.checksum", "storage.fetch", "storage.journal", "storage.untrusted"),
    "storage.weights",
)
_BESIDE = (".json", ".html", ".css", ".js")  # numbers and templates of a module, in files of its name


@dataclass(frozen=True)
class Stage:
    """The function that a rule's job calls, and what binds them."""

    function: str  # MODULE:NAME, relative to the package
    config: str | None  # Project's method NAME_stage makes it, from the wildcards that its parameters name
    inputs: str  # names; "name/": the function gets the folder of that file
    outputs: Mapping[str, str]  # name or "name/" -> pattern, relative to the project
    code: str = ""  # keys of the config that name an encoder, a descriptor or a reader whose code counts too
    modules: tuple[str, ...] = ()  # other modules that count and that no import shows

    def load(self) -> Callable[..., None]:
        """The function; imports its module."""
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(f"scrflow.{module}"), name)

    def config_of(self, project: Project, wildcards: Mapping[str, str]) -> BaseModel | None:
        """The config that a job with these wildcards reads."""
        if self.config is None:
            return None
        make, known = getattr(project, f"{self.config}_stage"), dict(wildcards.items())
        return make(**{name: known[name] for name in inspect.signature(make).parameters if name in known})

    def run(self, snakemake: Any) -> None:
        """Call the function. Its parameters are the rule's params, inputs and outputs (Paths or lists of them),
        ``config`` and ``threads``; ``out`` is the first output unless it is a param. For an input that the rule leaves
        empty the parameter keeps its default or is None."""
        function = self.load()
        folders = {name.rstrip("/") for name in (*self.inputs.split(), *self.outputs) if name.endswith("/")}
        given: dict[str, Any] = {"threads": snakemake.threads}
        for files in (snakemake.output, snakemake.input):
            given |= {name: _paths(value, name in folders) for name, value in files.items()}
        first = next(iter(self.outputs)).rstrip("/")
        given["out"] = _paths(getattr(snakemake.output, first), first in folders)
        params, parameters = dict(snakemake.params.items()), inspect.signature(function).parameters
        for name, parameter in parameters.items():
            if name in params:
                given[name] = Path(params[name]) if parameter.annotation in ("Path", Path) else params[name]
            elif given.get(name) == []:
                given[name] = parameter.default if parameter.default is not parameter.empty else None
        if self.config is not None:
            made = get_type_hints(getattr(Project, f"{self.config}_stage"))["return"]
            given["config"] = TypeAdapter(made).validate_python(params["config"])
        function(**{name: given[name] for name in parameters if name in given})


def _paths(value: str | list[str], folder: bool) -> Path | list[Path]:
    if isinstance(value, str):
        return Path(value).parent if folder else Path(value)
    return [_paths(v, folder) for v in value]


def code_of(rule: str, config: Any = None) -> str:
    """Version of a stage's code, with the encoders, descriptors and readers that ``config`` names."""
    stage = STAGES[rule]
    named = {module for key in stage.code.split() for module in _modules(getattr(config, key))}
    return code_version(stage.function.partition(":")[0], *stage.modules, *sorted(named))


def _modules(part: Any) -> Iterator[str]:
    """Modules of the encoders, descriptors and readers that a part of a config names."""
    if isinstance(part, ExtractorConfig | MatchFeaturesConfig):
        yield module_of("local encoder", part.name)
    elif isinstance(part, RetrievalConfig):
        if part.network is not None:
            yield module_of("global descriptor", part.network)
    elif hasattr(part, "reader"):
        yield module_of("reader", part.reader)
    elif isinstance(part, BaseModel | tuple):
        for value in part if isinstance(part, tuple) else dict(part).values():
            yield from _modules(value)


@functools.cache
def code_version(*modules: str) -> str:
    """Digest (12 hex digits) of the modules, named relative to the package (``training.stage``), and of every module of
    the package that they import, directly or not.

    Snakemake tracks the script that a rule names, not the package behind it, so a rule's params carry this digest.
    Comments and docstrings do not count, nor do modules of _NEUTRAL: configuration, messages, provenance, file formats
    and downloads. What they change in a stage is in its params already (the config subset), in the schema version, or
    in the SHA-256 of what was downloaded.
    """
    seen: set[str] = set()
    todo = list(modules)
    while todo:
        name = todo.pop()
        neutral = any(name == n or name.startswith(f"{n}.") for n in _NEUTRAL)
        if name and name not in seen and not neutral:
            seen.add(name)
            todo.extend(_imports(name))
    text = "".join(f"{name}:{_digest(name)}\n" for name in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _path(module: str) -> Path | None:
    base = _ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@functools.cache
def _tree(module: str) -> ast.Module:
    path = _path(module)
    if path is None:
        raise ValueError(f"no module scrflow.{module}")
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _imports(module: str) -> list[str]:
    found = []
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "scrflow":
            base = node.module.removeprefix("scrflow").removeprefix(".")
            names = [f"{base}.{a.name}".removeprefix(".") for a in node.names]
            submodules = [n for n in names if _path(n)]
            found += submodules if len(submodules) == len(names) else [*submodules, base]
        elif isinstance(node, ast.Import):
            found += [a.name.removeprefix("scrflow.") for a in node.names if a.name.startswith("scrflow.")]
    return found


def _digest(module: str) -> str:
    tree = _tree(module)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body[0].value.value = ""
    beside = (_path(module).with_suffix(suffix) for suffix in _BESIDE)
    data = b"".join(path.read_bytes() for path in beside if path.is_file())
    return hashlib.sha256(ast.dump(tree).encode() + data).hexdigest()


# ---------------------------------------------------------------------------------------------------------- the table


def _files(folder: str, **names: str) -> dict[str, str]:
    return {name: f"{folder}/{file}" for name, file in names.items()}


def _of_set(files: Mapping[str, str]) -> dict[str, str]:
    return _files(_TABLES, **{name: file.replace(".", "@{set_name}.") for name, file in files.items()})


def _model(folder: str, report: str) -> dict[str, str]:
    """A COLMAP model and the report on it, whose folder the function gets."""
    parts = {part: f"{part}.bin" for part in ("cameras", "frames", "images", "points3D", "rigs")}
    return {"report/": f"{folder}/{report}", **_files(folder, **parts)}


_SCENE, _TABLES = "results/{scene}", "results/tables"
_HLOC, _LOCAL = f"{_SCENE}/hloc", f"{_SCENE}/local/{{encoder}}"
_METHOD, _BASELINE = f"{_SCENE}/{{method}}", f"{_SCENE}/{{baseline}}"
_SCENE_FILES = {"scene/": f"{_SCENE}/scene/scene.json"}
_SCENE_FILES |= _files(f"{_SCENE}/scene", queries="queries.txt", mapping="mapping")
_ENCODING = _files(f"{_SCENE}/encodings", encoding="{encoding}.h5", metrics="{encoding}.json")
_RETRIEVAL = {"descriptors": "{feature}.h5", "model": "{feature}.safetensors", "quality": "{feature}.json"}
_LOCALIZED = {"poses": "poses.txt", "details": "localization.json"}
_EVALUATED = {"out_csv": "queries.csv", "out_metrics": "metrics.json"}
_EVALUATED |= {"errors_png": "errors.png", "overlay_png": "overlay.png"}
_TABLE = {"out_markdown": "{table}.md", "out_csv": "{table}.csv", "out_latex": "{table}.tex"}
_TOY = {"markdown": "glace-figure-8.md", "table": "glace-figure-8.csv"}
_TOY |= {"latex": "glace-figure-8.tex", "picture": "glace-figure-8.png"}

STAGES = {
    # photos, poses and points
    "download_dataset": Stage(
        "scene.downloads:download_dataset", "download", "table", {"marker": "resources/{root}.downloaded"}
    ),
    "reconstruct_scene": Stage("sfm.reconstruct:run_sfm", "sfm", "sources hloc", _model(f"{_SCENE}/sfm", "sfm.json")),
    "build_scene": Stage("scene.build:build_scene", "scene", "sources sfm_model/ parts/", _SCENE_FILES, code="source"),
    "triangulate_points": Stage(
        "sfm.triangulate:triangulate",
        "triangulate",
        "scene/ hloc",
        _model(f"{_SCENE}/triangulated", "triangulation.json"),
    ),
    # encodings and retrieval
    "build_graph": Stage(
        "graph.covisibility:build_graph", "covisibility", "scene/ model/", _files(_SCENE, graph="covisibility.npz")
    ),
    "build_named_graph": Stage(
        "graph.covisibility:build_graph", "covisibility", "scene/ model/", _files(_SCENE, graph="graphs/{graph}.npz")
    ),
    "embed_graph": Stage(
        "graph.node2vec:embed", "node2vec", "graph", _ENCODING, modules=("graph.node2vec.reference_worker",)
    ),
    "cluster_features": Stage("features.global_encoding:cluster_features", "clusters", "scene/ features", _ENCODING),
    "build_retrieval": Stage(
        "features.retrieval_index:build_retrieval",
        "retrieval",
        "scene/ features part_descriptors part_models",
        _files(f"{_SCENE}/retrieval", **_RETRIEVAL),
        code="extractor retrieval",
    ),
    # features and matches by hloc
    "list_hloc_images": Stage(
        "baseline.hloc_images:list_images", "hloc_photos", "scene/ sources", _files(_HLOC, images="images.json")
    ),
    "hloc_global_features": Stage(
        "baseline.hloc_run:extract_features", None, "images", _files(_HLOC, features="global-feats-{configuration}.h5")
    ),
    "hloc_local_features": Stage(
        "baseline.hloc_run:extract_features", None, "images", _files(_HLOC, features="features.h5")
    ),
    "hloc_pairs": Stage(
        "baseline.hloc_run:pairs_from_retrieval", None, "images descriptors", _files(_HLOC, pairs="pairs.txt")
    ),
    "hloc_match": Stage(
        "baseline.hloc_run:match_features", None, "features pairs", _files(_HLOC, matches="matches.h5")
    ),
    "hloc_triangulate": Stage(
        "baseline.hloc_run:triangulate",
        None,
        "scene reference images pairs features matches",
        _files(_HLOC, model="triangulated"),
    ),
    # training samples and their depths
    "fit_pca": Stage("features.pca:fit_pca", "pca", "scene/", _files(_LOCAL, pca="pca.safetensors"), code="extractor"),
    "fill_buffer": Stage(
        "training.buffer:fill_shard",
        "buffer",
        "scene/ pca",
        _files(_LOCAL, samples="buffer-{shard}.h5"),
        code="extractor",
    ),
    "triangulate_samples": Stage(
        "depths.matched:estimate_sample_depths",
        "sample_depth",
        "graph shards",
        _files(_LOCAL, depth="depth-matched.h5"),
    ),
    "find_point_depths": Stage(
        "depths.points:depths_from_points", "point_depth", "points shards", _files(_LOCAL, depth="depth-points.h5")
    ),
    "read_depth_maps": Stage(
        "depths.maps:depths_from_maps", "map_depth", "scene/ maps shards", _files(_LOCAL, depth="depth-maps.h5")
    ),
    "build_tracks": Stage(
        "landmarks.tracks:build_tracks",
        "tracks",
        "scene/ graph",
        _files(_SCENE, tracks="tracks/{tracks}.h5"),
        code="tracks",
    ),
    # methods
    "train_head": Stage(
        "training.job:train_head",
        "train",
        "shards graph encoding depth",
        _files(_METHOD, head="head.safetensors", history="train.jsonl"),
    ),
    "write_map": Stage(
        "map.file:write_map",
        "map",
        "scene/ head pca encoding retrieval graph tracks",
        _files(_METHOD, map="map.safetensors"),
    ),
    "localize_queries": Stage(
        "localize.localizer:localize_queries", "localize", "scene/ map_path descriptors", _files(_METHOD, **_LOCALIZED)
    ),
    "evaluate_poses": Stage(
        "evaluate.metrics:evaluate", "evaluate", "scene/ map_path poses details training", _files(_METHOD, **_EVALUATED)
    ),
    "choose_poses": Stage(
        "evaluate.submission:write_submission", "submission", "scene/ poses metrics", _files(_SCENE, chosen="poses.txt")
    ),
    # baselines
    "map_baseline": Stage(
        "baseline.mapping:build_map",
        "baseline_map",
        "scene/ graph retrieval",
        _files(_BASELINE, map="map.h5"),
        code="features retrieval retrieval_parts",
    ),
    "localize_baseline": Stage(
        "baseline.localizer:localize_baseline",
        "baseline_localize",
        "scene/ map_path descriptors",
        _files(_BASELINE, **_LOCALIZED),
    ),
    "evaluate_baseline": Stage(
        "evaluate.metrics:evaluate",
        "evaluate",
        "scene/ map_path poses details training",
        _files(_BASELINE, **_EVALUATED),
    ),
    # reports and tables
    "write_report": Stage(
        "report.page.page:write_report",
        None,
        "scene/ map_path poses details folder/ history graph descriptors",
        _files(_METHOD, page="report.html"),
    ),
    "write_baseline_report": Stage(
        "report.page.page:write_report",
        None,
        "scene/ map_path poses details folder/ graph descriptors",
        _files(_BASELINE, page="report.html"),
    ),
    "write_table": Stage("report.table:write_table", "table", "metrics published", _files(_TABLES, **_TABLE)),
    "write_table_of_set": Stage("report.table:write_table", "table", "metrics published", _of_set(_TABLE)),
    "toy_example": Stage("report.toy:write_toy", "toy", "scenes/ published", _files(_TABLES, **_TOY), code="toy"),
    "toy_example_of_set": Stage("report.toy:write_toy", "toy", "scenes/ published", _of_set(_TOY), code="toy"),
}
