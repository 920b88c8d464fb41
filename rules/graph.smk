# Which mapping images see the same.


rule build_graph:
    input:
        scene="results/{scene}/scene/scene.json",
        model=graph_points,
    output:
        graph="results/{scene}/covisibility.npz",
    log:
        "results/{scene}/logs/build_graph.log",
    benchmark:
        "results/{scene}/benchmarks/build_graph.tsv"
    conda:
        "../envs/scrflow.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=longer(120),
    params:
        **stage_params("build_graph"),
    message:
        "{wildcards.scene}: covisibility graph"
    script:
        "../workflow/scripts/run_stage.py"


# another graph than the scene's, for the encodings that name one
use rule build_graph as build_named_graph with:
    input:
        scene="results/{scene}/scene/scene.json",
        model=graph_points,
    output:
        graph="results/{scene}/graphs/{graph}.npz",
    log:
        "results/{scene}/logs/build_named_graph/{graph}.log",
    benchmark:
        "results/{scene}/benchmarks/build_named_graph/{graph}.tsv"
    params:
        **stage_params("build_named_graph"),
    message:
        "{wildcards.scene}: covisibility graph {wildcards.graph}"
