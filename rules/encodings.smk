# Global encodings: one vector a mapping image.


rule embed_graph:
    input:
        graph=encoding_graph,
    output:
        encoding="results/{scene}/encodings/{encoding}.h5",
        metrics="results/{scene}/encodings/{encoding}.json",
    log:
        "results/{scene}/logs/embed_graph/{encoding}.log",
    benchmark:
        "results/{scene}/benchmarks/embed_graph/{encoding}.tsv"
    wildcard_constraints:
        encoding=one_of(project.encodings_of_kind("node2vec")),
    conda:
        "../envs/scrflow.yaml"
    threads: beside_others(2)
    resources:
        mem_mb=growing(2000),
        runtime=longer(120),
        gpu=one_gpu(encoding_on_gpu),
    params:
        **stage_params("embed_graph"),
    message:
        "{wildcards.scene}: Node2Vec, {wildcards.encoding}"
    script:
        "../workflow/scripts/run_stage.py"


# GLACE's ablation: the query's own feature chooses among the same centres
rule cluster_features:
    input:
        scene="results/{scene}/scene/scene.json",
        features=clustered_feature,
    output:
        encoding="results/{scene}/encodings/{encoding}.h5",
        metrics="results/{scene}/encodings/{encoding}.json",
    log:
        "results/{scene}/logs/cluster_features/{encoding}.log",
    benchmark:
        "results/{scene}/benchmarks/cluster_features/{encoding}.tsv"
    wildcard_constraints:
        encoding=one_of(project.encodings_of_kind("clusters")),
    conda:
        "../envs/scrflow.yaml"
    resources:
        mem_mb=growing(1500),
        runtime=longer(30),
    params:
        **stage_params("cluster_features"),
    message:
        "{wildcards.scene}: clusters of a retrieval feature, {wildcards.encoding}"
    script:
        "../workflow/scripts/run_stage.py"
