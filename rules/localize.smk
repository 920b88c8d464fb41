# Poses of the queries, and how good they are.


localrules:
    choose_poses,


rule localize_queries:
    input:
        scene="results/{scene}/scene/scene.json",
        map_path="results/{scene}/{method}/map.safetensors",
        descriptors=method_descriptors,
    output:
        poses="results/{scene}/{method}/poses.txt",
        details="results/{scene}/{method}/localization.json",
    log:
        "results/{scene}/logs/localize_queries/{method}.log",
    benchmark:
        "results/{scene}/benchmarks/localize_queries/{method}.tsv"
    conda:
        "../envs/scrflow.yaml"
    threads: 8
    resources:
        mem_mb=growing(7000, method_networks),
        runtime=longer(240),
        gpu=one_gpu(method_networks),
    params:
        **stage_params("localize_queries"),
    message:
        "{wildcards.scene}: localizing the queries, {wildcards.method}"
    script:
        "../workflow/scripts/run_stage.py"


rule evaluate_poses:
    input:
        scene="results/{scene}/scene/scene.json",
        map_path="results/{scene}/{method}/map.safetensors",
        poses="results/{scene}/{method}/poses.txt",
        details="results/{scene}/{method}/localization.json",
        training=trained("train.jsonl"),
    output:
        out_csv=shown("results/{scene}/{method}/queries.csv", "errors of every query"),
        out_metrics="results/{scene}/{method}/metrics.json",
        errors_png=shown("results/{scene}/{method}/errors.png", "errors on the map, from above"),
        overlay_png=shown("results/{scene}/{method}/overlay.png", "one query with its scene coordinates"),
    log:
        "results/{scene}/logs/evaluate_poses/{method}.log",
    benchmark:
        "results/{scene}/benchmarks/evaluate_poses/{method}.tsv"
    conda:
        "../envs/scrflow.yaml"
    resources:
        mem_mb=growing(1500),
        runtime=longer(30),
    params:
        **stage_params("evaluate_poses"),
    message:
        "{wildcards.scene}: evaluation, {wildcards.method}"
    script:
        "../workflow/scripts/run_stage.py"


# whoever asks for the scene's poses gets the table and the pictures too
rule choose_poses:
    input:
        scene="results/{scene}/scene/scene.json",
        poses=default_method("poses.txt"),
        metrics=default_method("metrics.json"),
    output:
        chosen="results/{scene}/poses.txt",
    log:
        "results/{scene}/logs/choose_poses.log",
    benchmark:
        "results/{scene}/benchmarks/choose_poses.tsv"
    conda:
        "../envs/scrflow.yaml"
    resources:
        mem_mb=growing(200),
        runtime=longer(5),
    params:
        **stage_params("choose_poses"),
    message:
        "{wildcards.scene}: poses of the default method"
    script:
        "../workflow/scripts/run_stage.py"
