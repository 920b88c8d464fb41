# Params of the rules: the part of the config that a stage reads, the version of its code, and the key of the cache.


def stage_config(rule_name):
    """The config that the stage reads, for the rule's wildcards (scrflow.pipeline.stages)."""

    def resolve(wildcards):
        made = config_for(rule_name, wildcards)
        return None if made is None else made.model_dump(mode="json")

    return resolve


def stage_code(rule_name):
    """Version of the code of the stage, and of the encoders, descriptors and readers that its config names."""

    def resolve(wildcards):
        return code_of(rule_name, config_for(rule_name, wildcards))

    return resolve


def stage_params(rule_name):
    return {"config": stage_config(rule_name), "code": stage_code(rule_name)}


def config_for(rule_name, wildcards):
    try:
        return STAGES[rule_name].config_of(project, wildcards)
    except ScrflowError as error:
        raise WorkflowError(str(error)) from None


def shown(path, what):
    """The output results/SCENE/METHOD/NAME in Snakemake's report of a run, with the caption workflow/report/NAME.rst."""
    _, scene, method, name = path.split("/")
    caption = f"../workflow/report/{Path(name).stem}.rst"
    return report(path, caption=caption, category=scene, labels={"method": method, "what": what})


# --------------------------------------------------------------------------------------------------------------- cache

# Value of ``cache:``. In a run without --cache Snakemake would warn of every rule that could be cached. The environment
# is not part of the key: versions of the code are in the params, and with or without --sdm it is the same pins.
CACHED = False if workflow.workflow_settings.cache is None else "omit-software"


def cache_key(wildcards, input):
    """What Snakemake's own key leaves out: wildcards (a shard's number), which input is which, and the content of inputs
    that other jobs make: scenes that differ in their photos alone differ in the digests in scene.json. Snakemake asks
    again right before the job, when the files exist, and does not rerun a job for it."""
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
    """How often the job of a rule with kept outputs has failed, as it counts itself. Snakemake takes the outputs that it
    restores after a failure for up to date; one more failure makes other params, so the next run tries again."""

    def resolve(wildcards):
        counted = Path(f"results/{wildcards.scene}/logs/{rule_name}.failures")
        return counted.read_text() if counted.exists() and not CACHED else ""

    return resolve


def kept(path):
    """An output that stays when a new run of its job fails. In the cache it stays anyway, and update() is not for it."""
    return path if CACHED else update(path)
