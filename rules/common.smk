# Config, wildcard constraints and every helper of the rules.

import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# the package is used as it lies here, installed or not
sys.path.insert(0, str(Path(workflow.basedir) / "src"))

from scrflow.codeversion import code_version
from scrflow.config import Project, restrictions
from scrflow.descriptors import descriptor_module
from scrflow.encoders import encoder_module
from scrflow.errors import ScrflowError
from scrflow.slurm import become_own_array_task, check_array_budget
from scrflow.workflow import file_digest, hold_workflow_lock, inputs_of, source_files, tie_local_jobs

# before all else: a task of a SLURM job array may have been started as the Snakemake of another task
try:
    become_own_array_task(workflow.tear_down)
except ScrflowError as error:
    raise WorkflowError(str(error)) from None


def load_project():
    try:
        return Project("config", overrides=config)
    except ScrflowError as error:
        raise WorkflowError(str(error)) from None


project = load_project()

# the package reads these; a variable that is set already wins over the config
os.environ.setdefault("SCRFLOW_DATA", str(project.data_root()))
os.environ.setdefault("SCRFLOW_WEIGHTS", project.config.weights.cache)
os.environ.setdefault("SCRFLOW_OFFLINE", str(int(project.config.weights.offline)))


# ... and jobs on other machines are to have the values of the Snakemake that was started
envvars:
    "SCRFLOW_DATA",
    "SCRFLOW_WEIGHTS",
    "SCRFLOW_OFFLINE",


def one_of(names):
    # "(?!)" matches nothing: a table may be empty
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    scene=one_of(project.scenes),
    root=one_of(project.downloads()),
    method=one_of([*project.methods, *project.variants]),
    baseline=one_of(project.baselines),
    graph=one_of(project.config.graphs),
    table=one_of(project.tables),
    set=one_of(project.set_names()),
    encoder=one_of(project.encoders),
    encoding=one_of(project.config.encodings),
    feature=one_of(project.config.retrieval),
    configuration=r"[\w-]+",
    shard=r"\d+",


# ---------------------------------------------------------------------------------------------------------------- runs


def hold_lock():
    """Only the Snakemake that a person started locks: it runs this once before the first job, and not in a dry run."""
    if not workflow.is_main_process:
        return
    try:
        check_arrays()
        hold_workflow_lock()
    except ScrflowError as error:
        raise WorkflowError(str(error)) from None
    if workflow.local_exec:
        tie_local_jobs()


def check_arrays():
    """With SLURM's job arrays no limit may hold back a part of the jobs (scrflow.slurm)."""
    names = re.split(r"[\s,;]+", getattr(workflow.executor_settings, "array_jobs", None) or "")
    planned = list(workflow.dag.needrun_jobs())
    in_arrays = [job for job in planned if job.rule.name in names or "all" in names]
    limits = {
        "jobs": workflow.resource_settings.nodes,
        "max-jobs-per-timespan": workflow.scheduling_settings.max_jobs_per_timespan.max_jobs,
    }
    limited = [name for name in workflow.global_resources if any(name in job.resources.keys() for job in in_arrays)]
    if in_arrays:
        check_array_budget(len(planned), limits, [name for name in limited if not name.startswith("_")])


def tell_restrictions():
    """Who asks for a scene or a method that may not be used commercially is told, once each, before the first job."""
    if not workflow.is_main_process:
        return
    wanted = {(job.wildcards.get("scene"), job.wildcards.get("method")) for job in workflow.dag.needrun_jobs()}
    found = {
        line: None
        for scene, method in sorted((scene, method or "") for scene, method in wanted if scene)
        for line in map(str, restrictions(project, scene, method or None))
    }
    for line in found:
        print(f"licence: {line}", file=sys.stderr)


# -------------------------------------------------------------------------------------------------------------- params


def stage_config(name):
    """Params of a rule: the config that the stage NAME reads, for the rule's wildcards."""
    method = getattr(project, f"{name}_stage")

    def resolve(wildcards):
        return method(*(wildcards[key] for key in STAGE_WILDCARDS[name])).model_dump(mode="json")

    return resolve


STAGE_WILDCARDS = {
    "download": ["root"],
    "sfm": ["scene"],
    "scene": ["scene"],
    "triangulate": ["scene"],
    "covisibility": ["scene"],
    "named_graph": ["scene", "graph"],
    "node2vec": ["encoding"],
    "clusters": ["encoding"],
    "retrieval": ["scene", "feature"],
    "pca": ["encoder"],
    "buffer": ["encoder"],
    "sample_depth": [],
    "point_depth": [],
    "map_depth": ["scene"],
    "train": ["scene", "method"],
    "map": ["scene", "method"],
    "localize": ["method"],
    "evaluate": ["scene"],
    "submission": ["scene"],
    "baseline_map": ["baseline"],
    "baseline_localize": ["baseline"],
}


def scene_code(wildcards):
    return code_version("scene.build", f"scene.readers.{project.scene(wildcards.scene).source.reader}")


def encoder_code(stage):
    """Code version of a stage and of the extractor of its wildcard ``encoder``."""

    def resolve(wildcards):
        return code_version(stage, *extractor_modules(wildcards.encoder))

    return resolve


def retrieval_code(wildcards):
    return code_version("retrieval", *feature_modules(wildcards.feature))


def localize_code(wildcards):
    return code_version("localize", *localizing_modules(wildcards))


def report_code(wildcards):
    return code_version("htmlreport.page", *localizing_modules(wildcards))


def localizing_modules(wildcards):
    """Modules of the extractors that a method localizes with."""
    method = project.method(wildcards.method)
    return sorted({*extractor_modules(method.encoder), *feature_modules(method.retrieval)})


def baseline_code(stage):
    """Code version of a baseline's stage, its extractor and its retrieval feature."""

    def resolve(wildcards):
        baseline = project.baseline(wildcards.baseline)
        modules = {encoder_module(baseline.features.name), *feature_modules(baseline.retrieval)}
        return code_version(stage, *sorted(modules))

    return resolve


def extractor_modules(encoder):
    return [encoder_module(project.encoders[encoder].extractor.name)]


def feature_modules(feature):
    """Modules of the extractors and networks that a retrieval feature is made of, if any."""
    if feature is None:
        return []
    retrieval = project.config.retrieval[feature]
    modules = extractor_modules(retrieval.encoder) if retrieval.kind == "vlad" else []
    modules += [descriptor_module(retrieval.network)] if retrieval.kind == "network" else []
    return modules + [module for part in retrieval.parts for module in feature_modules(part)]


# --------------------------------------------------------------------------------------------------------------- cache

# Value of ``cache:``. In a run without --cache Snakemake would warn of every rule that could be cached. The environment
# is not part of the key: versions of the code are in the params, and with or without --sdm it is the same pins.
CACHED = False if workflow.workflow_settings.cache is None else "omit-software"


def cache_key(wildcards, input):
    """What Snakemake's own key leaves out: wildcards (a shard's number), which of the inputs is which, and what is in
    those that other jobs make. It hashes how they are made, and photos are inputs of no rule: two scenes that differ in
    their photos alone would be one. scene.json has their digests.

    Snakemake asks again right before the job, when the files are the present ones, and does not rerun a job for it."""
    if not CACHED:
        return None
    root = project.scene_root(wildcards.scene)
    lines = [f"{key} {value}" for key, value in sorted(wildcards.items()) if key != "scene"]
    for key, value in input.items():
        for path in [value] if isinstance(value, str) else value:
            name = os.path.relpath(path, root) if Path(path).is_relative_to(root) else ""
            lines.append(f"{key} {name} {file_digest(path)}")
    return lines


def failures(rule_name):
    """How often the job of a rule with kept outputs has failed, as it counts itself (scrflow.workflow.stage). Snakemake
    takes what it restores after a failure for made with the new params, and would have nothing to do in the next run:
    one more failure makes other params."""

    def resolve(wildcards):
        counted = Path(f"results/{wildcards.scene}/logs/{rule_name}.failures")
        return counted.read_text() if counted.exists() and not CACHED else ""

    return resolve


def kept(path):
    """An output that stays when a new run of its job fails. In the cache it stays anyway, and update() is not for it."""
    return path if CACHED else update(path)


# ----------------------------------------------------------------------------------------------------------- resources


def beside_others(most):
    """Threads of jobs that others can run beside: up to ``most``, but half of this machine's cores. Two jobs gain more
    from two cores than two threads of one do, as the start and the end of a job keep one core busy."""

    def resolve(wildcards):
        if not (workflow.is_main_process and workflow.local_exec):
            return most  # on a cluster each job has a machine's share to itself
        return min(most, max(1, workflow.cores // 2))

    return resolve


def growing(megabytes):
    """Memory that doubles when a job is tried again (``retries`` of a profile): it may have been killed for too little.
    Of ``megabytes``, a number or a function of the wildcards, in the first attempt."""

    def resolve(wildcards, attempt):
        first = megabytes(wildcards) if callable(megabytes) else megabytes
        return first * 2 ** (attempt - 1)

    return resolve


def longer(minutes):
    """Run time that grows by ``minutes`` with every attempt: what was killed at its limit begins anew. (Training goes on
    from its checkpoint, and needs no more.)"""

    def resolve(wildcards, attempt):
        return minutes * attempt

    return resolve


def training_memory(wildcards):
    """Megabytes of a training job: the samples, as many as the config gives room, and 1.5 GB for all else."""
    return 1500 + round(project.method(wildcards.method).training.buffer_memory / 1e6)


def training_gpus(wildcards):
    return project.method(wildcards.method).training.gpus


# -------------------------------------------------------------------------------------------------------------- inputs


def scene_root(wildcards):
    return str(project.scene_root(wildcards.scene))


def scene_sources(wildcards):
    """Files that make the scene; a scene that is to be downloaded has the marker of that instead. Both are of this
    machine, wherever --default-storage-provider puts results: photos are read as they lie in the scene's folder."""
    marker = downloaded(wildcards.scene)
    if marker:
        return marker
    return [local(path) for path in source_files(project.scene(wildcards.scene), project.scene_root(wildcards.scene))]


def downloaded(scene):
    """The marker of a scene's download, before and after it: files that come with it would be other inputs then."""
    root = project.scene(scene).root
    return [local(f"resources/{root}.downloaded")] if project.scene_root(scene) == Path("resources") / root else []


def download_table(wildcards):
    files = project.downloads()[wildcards.root].files
    return local(str(project.dir / "scenes" / files)) if files else []


def is_bare_photos(scene):
    return project.scene(scene).source.reader == "photos"


def scene_sfm(wildcards):
    return f"results/{wildcards.scene}/sfm/sfm.json" if is_bare_photos(wildcards.scene) else []


def scene_parts(wildcards):
    """The scenes that a combined one is made of."""
    return expand("results/{part}/scene/scene.json", part=project.parts(wildcards.scene))


def graph_points(wildcards):
    """The 3D points that the scene's graph counts, if it is of kind ``points``."""
    return points_of_graph(wildcards.scene, project.scene(wildcards.scene).graph)


def named_graph_points(wildcards):
    return points_of_graph(wildcards.scene, wildcards.graph)


def points_of_graph(scene, graph):
    if project.config.graphs[graph].kind != "points":
        return []
    return (
        f"results/{scene}/sfm/sfm.json" if is_bare_photos(scene) else f"results/{scene}/triangulated/triangulation.json"
    )


def hloc_features(wildcards):
    feature = project.config.retrieval[wildcards.feature]
    return feature.file.replace("{scene}", wildcards.scene) if feature.kind == "hloc" else []


def fused_features(suffix):
    """Files of the features that a feature of kind fusion is joined from, in the config's order."""

    def resolve(wildcards):
        parts = project.config.retrieval[wildcards.feature].parts
        return expand("results/{scene}/retrieval/{part}.{suffix}", scene=wildcards.scene, part=parts, suffix=suffix)

    return resolve


def hloc_files(wildcards):
    """Features and matches made by hloc, where SfM of the scene takes them."""
    sfm = project.scene(wildcards.scene).sfm.of_scene(wildcards.scene)
    return [sfm.hloc_features, sfm.hloc_matches] if sfm.features == "hloc" else []


def hloc_sources(wildcards):
    """What tells hloc's rules the photos: the scene, or bare photos, which hloc may be asked to make the scene from."""
    if is_bare_photos(wildcards.scene):
        return scene_sources(wildcards)
    return f"results/{wildcards.scene}/scene/scene.json"


def hloc_photos(wildcards):
    """Config of bare photos; nothing where the scene is given."""
    return stage_config("sfm")(wildcards) if is_bare_photos(wildcards.scene) else None


def clustered_feature(wildcards):
    """The retrieval feature that an encoding of kind ``clusters`` is made from."""
    name = project.config.encodings[wildcards.encoding].retrieval
    return f"results/{wildcards.scene}/retrieval/{name}.h5"


def buffer_shards(scene, encoder):
    shards = range(project.config.buffer_shards)
    return expand("results/{scene}/local/{encoder}/buffer-{shard}.h5", scene=scene, encoder=encoder, shard=shards)


def encoder_shards(wildcards):
    return buffer_shards(wildcards.scene, wildcards.encoder)


def shard_files(wildcards):
    return buffer_shards(wildcards.scene, project.method(wildcards.method).encoder)


def training_graph(wildcards):
    """Neighbours are drawn from the graph only where the method says so."""
    encoding = project.method(wildcards.method).global_encoding
    if not (encoding.name and encoding.neighbour_share > 0):
        return []
    return graph_file(wildcards.scene, project.graph_of(wildcards.method))


def graph_file(scene, name=None):
    """The scene's covisibility graph, or the one of that name."""
    return f"results/{scene}/graphs/{name}.npz" if name else f"results/{scene}/covisibility.npz"


def encoding_graph(wildcards):
    """The graph that Node2Vec walks on."""
    return graph_file(wildcards.scene, project.config.encodings[wildcards.encoding].graph)


def trained(name):
    """Path of what training leaves; variants that differ in localization alone share a head."""

    def resolve(wildcards):
        return f"results/{wildcards.scene}/{project.head_of(wildcards.method)}/{name}"

    return resolve


def method_graph(wildcards):
    """The graph that a method learns from, by its encoding or by the neighbours that it draws."""
    encoding = project.method(wildcards.method).global_encoding.name
    if encoding not in project.encodings_of_kind("node2vec"):
        return training_graph(wildcards)
    return graph_file(wildcards.scene, project.graph_of(wildcards.method))


def merging_graph(wildcards):
    """The graph by which a map's near-identical images are merged, where the method asks for it."""
    merged = project.method(wildcards.method).map.merge is not None
    return f"results/{wildcards.scene}/covisibility.npz" if merged else []


def training_depths(wildcards):
    """Depths of the samples, for the methods that use them."""
    if not project.needs_depth(wildcards.method):
        return []
    method = project.method(wildcards.method)
    source = method.training.depth_source
    if source == "maps":
        depth_maps(wildcards.scene, wildcards.method)
    return f"results/{wildcards.scene}/local/{method.encoder}/depth-{source}.h5"


def depth_maps(scene, method=""):
    try:
        return project.depth_maps(scene, method)
    except ScrflowError as error:
        raise WorkflowError(str(error)) from None


def depth_map_files(wildcards):
    """Every file that the scene's pattern of depth images can mean: which of them count is known with the scene."""
    marker, root = downloaded(wildcards.scene), project.scene_root(wildcards.scene)
    if marker:
        return marker
    pattern = depth_maps(wildcards.scene).pattern.format(folder="**", stem="*", base="*")
    return [local(path) for path in inputs_of(sorted(root.glob(pattern)))]


def depth_points(wildcards):
    """What the 3D points that give samples their depths belong to: the scene's own model, or the triangulated one."""
    own = project.has_points(wildcards.scene)
    return f"results/{wildcards.scene}/" + ("scene/scene.json" if own else "triangulated/triangulation.json")


def global_encoding(wildcards):
    """Node2Vec, or a retrieval feature that serves as global encoding (GLACE); nothing for ACE."""
    name = project.method(wildcards.method).global_encoding.name
    if name is None:
        return []
    folder = "encodings" if name in project.config.encodings else "retrieval"
    return f"results/{wildcards.scene}/{folder}/{name}.h5"


def method_pca(wildcards):
    return f"results/{wildcards.scene}/local/{project.method(wildcards.method).encoder}/pca.safetensors"


def method_retrieval(wildcards):
    name = project.method(wildcards.method).retrieval
    return f"results/{wildcards.scene}/retrieval/{name}.safetensors" if name else []


def method_descriptors(wildcards):
    """Descriptors of the queries, where a file provides them and no extractor at hand could."""
    return given_descriptors(wildcards.scene, project.method(wildcards.method).retrieval)


def baseline_descriptors(wildcards):
    return given_descriptors(wildcards.scene, project.baseline(wildcards.baseline).retrieval)


def given_descriptors(scene, name):
    given = name and project.config.retrieval[name].kind == "hloc"
    return f"results/{scene}/retrieval/{name}.h5" if given else []


def baseline_retrieval(wildcards):
    name = project.baseline(wildcards.baseline).retrieval
    return f"results/{wildcards.scene}/retrieval/{name}.safetensors"


def default_method(name):
    """Path pattern of an artifact of the scene's default method."""

    def resolve(wildcards):
        return f"results/{wildcards.scene}/{project.scene(wildcards.scene).method}/{name}"

    return resolve


# -------------------------------------------------------------------------------------------------------------- tables


def table_stage(wildcards):
    """Of a table on its own scenes or, where the wildcard is there, on those of a set."""
    set_name = wildcards.get("set")
    if set_name is not None and set_name not in project.table_sets(wildcards.table):
        known = ", ".join(project.table_sets(wildcards.table)) or "none"
        raise WorkflowError(f"config/tables/{wildcards.table}.yaml: no set {set_name!r}; there are {known}")
    try:
        return project.table_stage(wildcards.table, set_name)
    except ScrflowError as error:
        raise WorkflowError(str(error)) from None


def table_config(wildcards):
    return table_stage(wildcards).model_dump(mode="json")


def table_metrics(wildcards):
    """What the table's rows measured on its scenes: a file a scene, method and seed."""
    runs = table_stage(wildcards).runs
    return list(dict.fromkeys(f"results/{run.scene}/{run.folder}/metrics.json" for run in runs))


def paper_files(wildcards):
    return sorted(str(path) for path in (project.dir / "papers").glob("*.yaml"))


def tables_on(name):
    """Every table that can be asked for on the set."""
    tables = [table for table in project.tables if name in project.table_sets(table)]
    tables += ["glace-figure-8"] if name in project.config.table_sets else []
    return [f"results/tables/{table}@{name}.md" for table in tables]


def toy_stage(wildcards):
    """GLACE's toy example, on the scenes of a set where the wildcard is there."""
    try:
        return project.toy_stage(wildcards.get("set"))
    except ScrflowError as error:
        raise WorkflowError(str(error)) from None


def toy_config(wildcards):
    return toy_stage(wildcards).model_dump(mode="json")


def toy_scenes(wildcards):
    return expand("results/{scene}/scene/scene.json", scene=toy_stage(wildcards).toy.scenes)


def toy_code(wildcards):
    return code_version("toytable", encoder_module(project.config.toy.extractor.name))
