# hloc (github.com/cvg/Hierarchical-Localization) in an environment of its own: needs --sdm conda and the network.
# The files are targets to ask for by name, and inputs of retrieval features and SfM whose config names them.


localrules:
    list_hloc_images,


rule list_hloc_images:
    input:
        scene=hloc_scene,
        sources=hloc_sources,
    output:
        images="results/{scene}/hloc/images.json",
    log:
        "results/{scene}/logs/list_hloc_images.log",
    benchmark:
        "results/{scene}/benchmarks/list_hloc_images.tsv"
    conda:
        "../envs/scrflow.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=longer(10),
    params:
        **stage_params("list_hloc_images"),
        root=scene_root,
    message:
        "{wildcards.scene}: photos for hloc"
    script:
        "../workflow/scripts/run_stage.py"


rule hloc_global_features:
    input:
        images="results/{scene}/hloc/images.json",
    output:
        features="results/{scene}/hloc/global-feats-{configuration}.h5",
    log:
        "results/{scene}/logs/hloc_global_features/{configuration}.log",
    benchmark:
        "results/{scene}/benchmarks/hloc_global_features/{configuration}.tsv"
    conda:
        "../envs/hloc.yaml"
    threads: 4
    resources:
        mem_mb=growing(6000),
        runtime=longer(480),
        gpu=1,
    params:
        configuration=lambda wildcards: wildcards.configuration,
        code=stage_code("hloc_global_features"),
    message:
        "{wildcards.scene}: global descriptors by hloc, {wildcards.configuration}"
    script:
        "../workflow/scripts/run_stage.py"


use rule hloc_global_features as hloc_local_features with:
    input:
        images="results/{scene}/hloc/images.json",
    output:
        features="results/{scene}/hloc/features.h5",
    log:
        "results/{scene}/logs/hloc_local_features.log",
    benchmark:
        "results/{scene}/benchmarks/hloc_local_features.tsv"
    params:
        configuration=project.config.hloc.features,
        code=stage_code("hloc_local_features"),
    message:
        "{wildcards.scene}: local features by hloc"


use rule hloc_global_features as hloc_match with:
    input:
        features="results/{scene}/hloc/features.h5",
        pairs="results/{scene}/hloc/pairs.txt",
    output:
        matches="results/{scene}/hloc/matches.h5",
    log:
        "results/{scene}/logs/hloc_match.log",
    benchmark:
        "results/{scene}/benchmarks/hloc_match.tsv"
    resources:
        mem_mb=growing(6000),
        runtime=longer(1440),
        gpu=1,
    params:
        configuration=project.config.hloc.matcher,
        code=stage_code("hloc_match"),
    message:
        "{wildcards.scene}: matches by hloc"


rule hloc_pairs:
    input:
        images="results/{scene}/hloc/images.json",
        descriptors=f"results/{{scene}}/hloc/global-feats-{project.config.hloc.retrieval}.h5",
    output:
        pairs="results/{scene}/hloc/pairs.txt",
    log:
        "results/{scene}/logs/hloc_pairs.log",
    benchmark:
        "results/{scene}/benchmarks/hloc_pairs.tsv"
    conda:
        "../envs/hloc.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=longer(60),
    params:
        neighbours=project.config.hloc.pairs,
        code=stage_code("hloc_pairs"),
    message:
        "{wildcards.scene}: pairs to match by hloc"
    script:
        "../workflow/scripts/run_stage.py"


# for use with hloc's own localization; the graph of kind points has triangulate_points instead
rule hloc_triangulate:
    input:
        scene="results/{scene}/scene/scene.json",
        reference="results/{scene}/scene/mapping",
        images="results/{scene}/hloc/images.json",
        pairs="results/{scene}/hloc/pairs.txt",
        features="results/{scene}/hloc/features.h5",
        matches="results/{scene}/hloc/matches.h5",
    output:
        model=directory("results/{scene}/hloc/triangulated"),
    log:
        "results/{scene}/logs/hloc_triangulate.log",
    benchmark:
        "results/{scene}/benchmarks/hloc_triangulate.tsv"
    conda:
        "../envs/hloc.yaml"
    threads: 8
    resources:
        mem_mb=growing(6000),
        runtime=longer(720),
    params:
        code=stage_code("hloc_triangulate"),
    message:
        "{wildcards.scene}: triangulation by hloc"
    script:
        "../workflow/scripts/run_stage.py"
