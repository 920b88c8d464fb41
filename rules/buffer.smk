# Local encodings of augmented copies of the mapping images: what the head is trained on.


rule fit_pca:
    input:
        scene="results/{scene}/scene/scene.json",
    output:
        pca="results/{scene}/local/{encoder}/pca.safetensors",
    log:
        "results/{scene}/logs/fit_pca/{encoder}.log",
    benchmark:
        "results/{scene}/benchmarks/fit_pca/{encoder}.tsv"
    conda:
        "../envs/scrflow.yaml"
    threads: 4
    resources:
        mem_mb=2500,
        runtime=120,
    params:
        config=stage_config("pca"),
        code=encoder_code("pca"),
    message:
        "{wildcards.scene}: PCA of the local descriptors, {wildcards.encoder}"
    script:
        "../workflow/scripts/fit_pca.py"


# one job a shard, a range of the images each; the number of shards is in the config
rule fill_buffer:
    input:
        scene="results/{scene}/scene/scene.json",
        pca="results/{scene}/local/{encoder}/pca.safetensors",
    output:
        shard="results/{scene}/local/{encoder}/buffer-{shard}.h5",
    log:
        "results/{scene}/logs/fill_buffer/{encoder}-{shard}.log",
    benchmark:
        "results/{scene}/benchmarks/fill_buffer/{encoder}-{shard}.tsv"
    conda:
        "../envs/scrflow.yaml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=480,
    params:
        config=stage_config("buffer"),
        code=encoder_code("buffer"),
    message:
        "{wildcards.scene}: training samples, {wildcards.encoder}, shard {wildcards.shard}"
    script:
        "../workflow/scripts/fill_buffer.py"


# beyond the papers: only methods with known_depth or mix_share ask for it
rule triangulate_samples:
    input:
        graph="results/{scene}/covisibility.npz",
        shards=encoder_shards,
    output:
        depth="results/{scene}/local/{encoder}/depth.h5",
    log:
        "results/{scene}/logs/triangulate_samples/{encoder}.log",
    benchmark:
        "results/{scene}/benchmarks/triangulate_samples/{encoder}.tsv"
    conda:
        "../envs/scrflow.yaml"
    threads: 8
    resources:
        mem_mb=2500,
        runtime=240,
    params:
        config=stage_config("sample_depth"),
        code=code_version("sampledepth"),
    message:
        "{wildcards.scene}: depths of the training samples, {wildcards.encoder}"
    script:
        "../workflow/scripts/triangulate_samples.py"
