# Image retrieval: a descriptor of each mapping image, and what a query needs to be compared with them.


rule build_retrieval:
    input:
        scene="results/{scene}/scene/scene.json",
        features=hloc_features,
        part_descriptors=fused_features("h5"),
        part_models=fused_features("safetensors"),
    output:
        descriptors="results/{scene}/retrieval/{feature}.h5",
        model="results/{scene}/retrieval/{feature}.safetensors",
        quality="results/{scene}/retrieval/{feature}.json",
        benchmark="results/{scene}/benchmarks/build_retrieval/{feature}.tsv",
    log:
        "results/{scene}/logs/build_retrieval/{feature}.log",
    cache: CACHED
    conda:
        "../envs/scrflow.yaml"
    threads: beside_others(4, feature_networks)
    resources:
        mem_mb=growing(3000, feature_networks),
        runtime=longer(240),
        gpu=one_gpu(feature_networks),
    params:
        **stage_params("build_retrieval"),
        key=cache_key,
    message:
        "{wildcards.scene}: retrieval features, {wildcards.feature}"
    script:
        "../workflow/scripts/run_stage.py"
