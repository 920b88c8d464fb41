# Localization by feature matching, to stand beside the methods in every table: docs/baseline.md.


rule map_baseline:
    input:
        scene="results/{scene}/scene/scene.json",
        graph="results/{scene}/covisibility.npz",
        retrieval=baseline_retrieval,
    output:
        map="results/{scene}/{baseline}/map.h5",
    log:
        "results/{scene}/logs/map_baseline/{baseline}.log",
    benchmark:
        "results/{scene}/benchmarks/map_baseline/{baseline}.tsv"
    conda:
        "../envs/scrflow.yaml"
    threads: 8
    resources:
        mem_mb=growing(6000, baseline_networks),
        runtime=longer(720),
        gpu=one_gpu(baseline_networks),
    params:
        **stage_params("map_baseline"),
    message:
        "{wildcards.scene}: map of {wildcards.baseline}"
    script:
        "../workflow/scripts/run_stage.py"


use rule localize_queries as localize_baseline with:
    input:
        scene="results/{scene}/scene/scene.json",
        map_path="results/{scene}/{baseline}/map.h5",
        descriptors=baseline_descriptors,
    output:
        poses="results/{scene}/{baseline}/poses.txt",
        details="results/{scene}/{baseline}/localization.json",
    log:
        "results/{scene}/logs/localize_baseline/{baseline}.log",
    benchmark:
        "results/{scene}/benchmarks/localize_baseline/{baseline}.tsv"
    resources:
        mem_mb=growing(7000, baseline_query_networks),
        runtime=longer(480),
        gpu=one_gpu(baseline_query_networks),
    params:
        **stage_params("localize_baseline"),
    message:
        "{wildcards.scene}: localizing the queries, {wildcards.baseline}"


use rule evaluate_poses as evaluate_baseline with:
    input:
        scene="results/{scene}/scene/scene.json",
        map_path="results/{scene}/{baseline}/map.h5",
        poses="results/{scene}/{baseline}/poses.txt",
        details="results/{scene}/{baseline}/localization.json",
        training=[],
    output:
        out_csv=shown("results/{scene}/{baseline}/queries.csv", "errors of every query"),
        out_metrics="results/{scene}/{baseline}/metrics.json",
        errors_png=shown("results/{scene}/{baseline}/errors.png", "errors on the map, from above"),
        overlay_png=shown("results/{scene}/{baseline}/overlay.png", "one query with its scene coordinates"),
    log:
        "results/{scene}/logs/evaluate_baseline/{baseline}.log",
    benchmark:
        "results/{scene}/benchmarks/evaluate_baseline/{baseline}.tsv"
    message:
        "{wildcards.scene}: evaluation, {wildcards.baseline}"
