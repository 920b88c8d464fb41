# Photos and poses of a scene, in one form whatever they came from.


localrules:
    download_dataset,


# one download for all scenes with the same root
rule download_dataset:
    input:
        table=download_table,
    output:
        # a marker, so that a broken transfer is not deleted but continued
        marker=touch(local("resources/{root}.downloaded")),
    log:
        "resources/{root}.log",
    benchmark:
        "resources/{root}.tsv"
    conda:
        "../envs/scrflow.yaml"
    resources:
        mem_mb=growing(500),
        runtime=longer(1440),
    params:
        config=stage_config("download_dataset"),
        out="resources/{root}",
    message:
        "{wildcards.root}: downloading"
    script:
        "../workflow/scripts/run_stage.py"


rule build_scene:
    input:
        sources=scene_sources,
        sfm_model=scene_sfm,
        parts=scene_parts,
    output:
        # update: what was read before stays when the source has become faulty
        scene=update("results/{scene}/scene/scene.json"),
        queries=update("results/{scene}/scene/queries.txt"),
        mapping=update(directory("results/{scene}/scene/mapping")),
    log:
        "results/{scene}/logs/build_scene.log",
    benchmark:
        "results/{scene}/benchmarks/build_scene.tsv"
    conda:
        "../envs/scrflow.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=longer(60),
    params:
        **stage_params("build_scene"),
        root=scene_root,
        failures=failures("build_scene"),
    message:
        "{wildcards.scene}: reading the scene"
    script:
        "../workflow/scripts/run_stage.py"
