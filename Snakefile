# Visual localization by scene coordinate regression: from photos to poses.
#
#   snakemake --cores 8 results/demo/poses.txt                the scene's default method
#   snakemake --cores 8 results/redkitchen/ace-cpu/poses.txt  any scene of config/scenes, any method of config/methods
#   snakemake --cores 8 results/fox/poses.txt --config seed=3 keys of config/config.yaml; nested ones as {key: {...}}
#
# Settings of the run itself are in profiles/default/config.yaml, which Snakemake finds by itself.

from snakemake.utils import min_version

min_version("9.27")


# -------------------------------------------------------------------------------------------------------------- config


include: "rules/common.smk"
include: "rules/params.smk"
include: "rules/resources.smk"
include: "rules/inputs.smk"


# --------------------------------------------------------------------------------------------------------------- rules


include: "rules/dataset.smk"
include: "rules/sfm.smk"
include: "rules/graph.smk"
include: "rules/encodings.smk"
include: "rules/retrieval.smk"
include: "rules/hloc.smk"
include: "rules/buffer.smk"
include: "rules/landmarks.smk"
include: "rules/train.smk"
include: "rules/localize.smk"
include: "rules/baseline.smk"
include: "rules/report.smk"
include: "rules/tables.smk"


# ------------------------------------------------------------------------------------------------------------- targets


# no jobs of a cluster: the last one copies a file
localrules:
    all,
    demo,
    tables,
    tables_demo,
    tables_real,
    choose_poses,


# the scenes whose photos are here: those of the papers are tens of gigabytes, and come when asked for by name
rule all:
    default_target: True
    input:
        expand("results/{scene}/poses.txt", scene=project.scenes_at_hand()),


rule demo:
    input:
        "results/demo/poses.txt",
        f"results/demo/{project.scene('demo').method}/report.html" if "demo" in project.scenes else [],


# every table of config/tables: on the papers' scenes, or on those of a set
rule tables:
    input:
        expand("results/tables/{table}.md", table=project.tables),


rule tables_demo:
    input:
        tables_on("demo"),


rule tables_real:
    input:
        tables_on("real"),


onstart:
    hold_lock()
    tell_restrictions()
