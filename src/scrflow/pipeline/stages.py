"""The stages of the workflow, described once: function, config, artifacts, and the code that counts.

Each rule of rules/*.smk is a stage of that name here. A new stage is a function, a row of this table, and a rule.
"""

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


# inputs and outputs of rules that name a folder by a JSON file in it: functions get the folder
_FOLDERS = ("scene", "scenes", "parts", "sfm_model", "model", "report", "folder")


@dataclass(frozen=True)
class Stage:
    """The function that a rule's job calls, and what binds them."""

    function: str  # MODULE:NAME, relative to the package
    config: str | None = None  # Project's method NAME_stage makes it, from the wildcards that its parameters name
    made: str = ""  # outputs below results/SCENE that results are traced to
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
        given: dict[str, Any] = {"threads": snakemake.threads}
        outputs, inputs = ({n: _paths(n, v) for n, v in files.items()} for files in (snakemake.output, snakemake.input))
        given |= {"out": next(iter(outputs.values())), **outputs, **inputs}
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


def _paths(name: str, value: str | list[str]) -> Path | list[Path]:
    if not isinstance(value, str):
        return [_paths(name, v) for v in value]
    path = Path(value)
    return path.parent if name in _FOLDERS and path.suffix == ".json" else path


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

STAGES = {
    # photos, poses and points
    "download_dataset": Stage("scene.downloads:download_dataset", "download"),
    "reconstruct_scene": Stage("sfm.reconstruct:run_sfm", "sfm", "sfm/sfm.json"),
    "build_scene": Stage("scene.build:build_scene", "scene", "scene/scene.json", code="source"),
    "triangulate_points": Stage("sfm.triangulate:triangulate", "triangulate", "triangulated/triangulation.json"),
    # encodings and retrieval
    "build_graph": Stage("graph.covisibility:build_graph", "covisibility", "covisibility.npz"),
    "build_named_graph": Stage("graph.covisibility:build_graph", "covisibility", "graphs/{graph}.npz"),
    "embed_graph": Stage(
        *("graph.node2vec:embed", "node2vec", "encodings/{encoding}.h5 encodings/{encoding}.json"),
        modules=("graph.node2vec.reference_worker",),
    ),
    "cluster_features": Stage(
        "features.global_encoding:cluster_features", "clusters", "encodings/{encoding}.h5 encodings/{encoding}.json"
    ),
    "build_retrieval": Stage(
        *("features.retrieval_index:build_retrieval", "retrieval"),
        "retrieval/{feature}.h5 retrieval/{feature}.safetensors retrieval/{feature}.json",
        code="extractor retrieval",
    ),
    # features and matches by hloc
    "list_hloc_images": Stage("baseline.hloc_images:list_images", "hloc_photos", "hloc/images.json"),
    "hloc_global_features": Stage("baseline.hloc_run:extract_features", None, "hloc/global-feats-{configuration}.h5"),
    "hloc_local_features": Stage("baseline.hloc_run:extract_features", None, "hloc/features.h5"),
    "hloc_pairs": Stage("baseline.hloc_run:pairs_from_retrieval", None, "hloc/pairs.txt"),
    "hloc_match": Stage("baseline.hloc_run:match_features", None, "hloc/matches.h5"),
    "hloc_triangulate": Stage("baseline.hloc_run:triangulate"),
    # training samples and their depths
    "fit_pca": Stage("features.pca:fit_pca", "pca", "local/{encoder}/pca.safetensors", code="extractor"),
    "fill_buffer": Stage("training.buffer:fill_shard", "buffer", "local/{encoder}/buffer-{shard}.h5", code="extractor"),
    "triangulate_samples": Stage(
        "depths.matched:estimate_sample_depths", "sample_depth", "local/{encoder}/depth-matched.h5"
    ),
    "find_point_depths": Stage("depths.points:depths_from_points", "point_depth", "local/{encoder}/depth-points.h5"),
    "read_depth_maps": Stage("depths.maps:depths_from_maps", "map_depth", "local/{encoder}/depth-maps.h5"),
    "build_tracks": Stage("landmarks.tracks:build_tracks", "tracks", "tracks/{tracks}.h5", code="tracks"),
    # methods
    "train_head": Stage("training.job:train_head", "train", "{method}/head.safetensors"),
    "write_map": Stage("map.file:write_map", "map", "{method}/map.safetensors"),
    "localize_queries": Stage("localize.localizer:localize_queries", "localize", "{method}/localization.json"),
    "evaluate_poses": Stage("evaluate.metrics:evaluate", "evaluate", "{method}/metrics.json"),
    "choose_poses": Stage("evaluate.submission:write_submission", "submission"),
    # baselines
    "map_baseline": Stage(
        "baseline.mapping:build_map", "baseline_map", "{baseline}/map.h5", code="features retrieval retrieval_parts"
    ),
    "localize_baseline": Stage(
        "baseline.localizer:localize_baseline", "baseline_localize", "{baseline}/localization.json"
    ),
    "evaluate_baseline": Stage("evaluate.metrics:evaluate", "evaluate", "{baseline}/metrics.json"),
    # reports and tables
    "write_report": Stage("report.page.page:write_report"),
    "write_baseline_report": Stage("report.page.page:write_report"),
    "write_table": Stage("report.table:write_table", "table"),
    "write_table_of_set": Stage("report.table:write_table", "table"),
}
