# hloc (github.com/cvg/Hierarchical-Localization) in an environment of its own: needs --sdm conda and the network.
# The files are targets to ask for by name, and inputs of retrieval features and SfM whose config names them.


localrules:
    list_hloc_images,


rule list_hloc_images:
    input:
        sources=hloc_sources,
    output:
        images="results/{scene}/hloc/images.json",
    log:
        "results/{scene}/logs/list_hloc_images.log",
    benchmark:
        "results/{scene}/benchmarks/list_hloc_images.tsv"
    conda:
        "../envs/scrflow.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=longer(10),
    params:
        config=hloc_photos,
        code=code_version("baseline.hloc_images"),
        root=scene_root,
    message:
        "{wildcards.scene}: photos for hloc"
    script:
        "../workflow/scripts/list_hloc_images.py"


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
        code=code_version("baseline.hloc_run"),
    message:
        "{wildcards.scene}: global descriptors by hloc, {wildcards.configuration}"
    script:
        "../workflow/scripts/hloc_extract_features.py"


rule hloc_local_features:
    input:
        images="results/{scene}/hloc/images.json",
    output:
        features="results/{scene}/hloc/features.h5",
    log:
        "results/{scene}/logs/hloc_local_features.log",
    benchmark:
        "results/{scene}/benchmarks/hloc_local_features.tsv"
    conda:
        "../envs/hloc.yaml"
    threads: 4
    resources:
        mem_mb=growing(6000),
        runtime=longer(480),
        gpu=1,
    params:
        configuration=project.config.hloc.features,
        code=code_version("baseline.hloc_run"),
    message:
        "{wildcards.scene}: local features by hloc"
    script:
        "../workflow/scripts/hloc_extract_features.py"


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
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=longer(60),
    params:
        neighbours=project.config.hloc.pairs,
        code=code_version("baseline.hloc_run"),
    message:
        "{wildcards.scene}: pairs to match by hloc"
    script:
        "../workflow/scripts/hloc_choose_pairs.py"


rule hloc_match:
    input:
        features="results/{scene}/hloc/features.h5",
        pairs="results/{scene}/hloc/pairs.txt",
    output:
        matches="results/{scene}/hloc/matches.h5",
    log:
        "results/{scene}/logs/hloc_match.log",
    benchmark:
        "results/{scene}/benchmarks/hloc_match.tsv"
    conda:
        "../envs/hloc.yaml"
    threads: 4
    resources:
        mem_mb=growing(6000),
        runtime=longer(1440),
        gpu=1,
    params:
        configuration=project.config.hloc.matcher,
        code=code_version("baseline.hloc_run"),
    message:
        "{wildcards.scene}: matches by hloc"
    script:
        "../workflow/scripts/hloc_match_features.py"


# for use with hloc's own localization; the graph of kind points has triangulate_points instead
rule hloc_triangulate:
    input:
        scene="results/{scene}/scene/scene.json",
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
        code=code_version("baseline.hloc_run"),
    message:
        "{wildcards.scene}: triangulation by hloc"
    script:
        "../workflow/scripts/hloc_triangulate.py"
