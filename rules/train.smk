# The scene-specific head, and the map: one file with all that a query needs.


rule train_head:
    input:
        shards=encoder_shards,
        graph=training_graph,
        encoding=global_encoding,
        depth=training_depths,
    output:
        head="results/{scene}/{method}/head.safetensors",
        history="results/{scene}/{method}/train.jsonl",
    log:
        "results/{scene}/logs/train_head/{method}.log",
    benchmark:
        "results/{scene}/benchmarks/train_head/{method}.tsv"
    conda:
        "../envs/scrflow.yaml"
    threads: 8
    resources:
        mem_mb=growing(training_memory),
        runtime=1440,
        gpu=training_gpus,
    params:
        **stage_params("train_head"),
        # no output: Snakemake deletes those of a killed job, and training is to go on from here
        checkpoint="results/{scene}/{method}/checkpoint.pt",
    message:
        "{wildcards.scene}: training, {wildcards.method}"
    script:
        "../workflow/scripts/run_stage.py"


rule write_map:
    input:
        scene="results/{scene}/scene/scene.json",
        head=trained("head.safetensors"),
        pca=method_pca,
        encoding=global_encoding,
        retrieval=method_retrieval,
        graph=merging_graph,
        tracks=method_tracks,
    output:
        map="results/{scene}/{method}/map.safetensors",
    log:
        "results/{scene}/logs/write_map/{method}.log",
    benchmark:
        "results/{scene}/benchmarks/write_map/{method}.tsv"
    conda:
        "../envs/scrflow.yaml"
    resources:
        mem_mb=growing(1500),
        runtime=longer(30),
    params:
        **stage_params("write_map"),
    message:
        "{wildcards.scene}: map file, {wildcards.method}"
    script:
        "../workflow/scripts/run_stage.py"
