# Params of the rules: the part of the config that a stage reads, the version of its code, and the key of the cache.


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
    return code_version("features.retrieval", *feature_modules(wildcards.feature))


def localize_code(wildcards):
    return code_version("localize.localizer", *localizing_modules(wildcards))


def report_code(wildcards):
    return code_version("report.page.page", *localizing_modules(wildcards))


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
    """How often the job of a rule with kept outputs has failed, as it counts itself (scrflow.pipeline.job.stage). Snakemake
    takes what it restores after a failure for made with the new params, and would have nothing to do in the next run:
    one more failure makes other params."""

    def resolve(wildcards):
        counted = Path(f"results/{wildcards.scene}/logs/{rule_name}.failures")
        return counted.read_text() if counted.exists() and not CACHED else ""

    return resolve


def kept(path):
    """An output that stays when a new run of its job fails. In the cache it stays anyway, and update() is not for it."""
    return path if CACHED else update(path)
