# Local encodings of augmented copies of the mapping images: what the head is trained on.


rule fit_pca:
    input:
        scene="results/{scene}/scene/scene.json",
    output:
        pca="results/{scene}/local/{encoder}/pca.safetensors",
        benchmark="results/{scene}/benchmarks/fit_pca/{encoder}.tsv",
    log:
        "results/{scene}/logs/fit_pca/{encoder}.log",
    cache: CACHED
    conda:
        "../envs/scrflow.yaml"
    threads: beside_others(4, encoder_network)
    resources:
        mem_mb=growing(2500, encoder_network),
        runtime=longer(120),
        gpu=one_gpu(encoder_network),
    params:
        **stage_params("fit_pca"),
        key=cache_key,
    message:
        "{wildcards.scene}: PCA of the local descriptors, {wildcards.encoder}"
    script:
        "../workflow/scripts/run_stage.py"


# one job a shard, a range of the images each; the number of shards is in the config
rule fill_buffer:
    input:
        scene="results/{scene}/scene/scene.json",
        pca="results/{scene}/local/{encoder}/pca.safetensors",
    output:
        samples="results/{scene}/local/{encoder}/buffer-{shard}.h5",
        benchmark="results/{scene}/benchmarks/fill_buffer/{encoder}-{shard}.tsv",
    log:
        "results/{scene}/logs/fill_buffer/{encoder}-{shard}.log",
    cache: CACHED
    conda:
        "../envs/scrflow.yaml"
    threads: beside_others(1, encoder_network)
    resources:
        mem_mb=growing(1500, encoder_network),
        runtime=longer(480),
        gpu=one_gpu(encoder_network),
    params:
        **stage_params("fill_buffer"),
        shard=lambda wildcards: int(wildcards.shard),
        key=cache_key,
    message:
        "{wildcards.scene}: training samples, {wildcards.encoder}, shard {wildcards.shard}"
    script:
        "../workflow/scripts/run_stage.py"


# depths of the samples, one file a source: only methods with known_depth, pull_to depth or mix_share ask for one
rule triangulate_samples:
    input:
        graph="results/{scene}/covisibility.npz",
        shards=encoder_shards,
    output:
        depth="results/{scene}/local/{encoder}/depth-matched.h5",
    log:
        "results/{scene}/logs/triangulate_samples/{encoder}.log",
    benchmark:
        "results/{scene}/benchmarks/triangulate_samples/{encoder}.tsv"
    conda:
        "../envs/scrflow.yaml"
    threads: 8
    resources:
        mem_mb=growing(2500),
        runtime=longer(240),
    params:
        **stage_params("triangulate_samples"),
    message:
        "{wildcards.scene}: depths of the training samples, {wildcards.encoder}"
    script:
        "../workflow/scripts/run_stage.py"


use rule triangulate_samples as find_point_depths with:
    input:
        points=depth_points,
        shards=encoder_shards,
    output:
        depth="results/{scene}/local/{encoder}/depth-points.h5",
    log:
        "results/{scene}/logs/find_point_depths/{encoder}.log",
    benchmark:
        "results/{scene}/benchmarks/find_point_depths/{encoder}.tsv"
    threads: 1
    params:
        **stage_params("find_point_depths"),
    message:
        "{wildcards.scene}: depths of the training samples by 3D points, {wildcards.encoder}"


use rule triangulate_samples as read_depth_maps with:
    input:
        scene="results/{scene}/scene/scene.json",
        maps=depth_map_files,
        shards=encoder_shards,
    output:
        depth="results/{scene}/local/{encoder}/depth-maps.h5",
    log:
        "results/{scene}/logs/read_depth_maps/{encoder}.log",
    benchmark:
        "results/{scene}/benchmarks/read_depth_maps/{encoder}.tsv"
    threads: 1
    params:
        **stage_params("read_depth_maps"),
        root=scene_root,
    message:
        "{wildcards.scene}: depths of the training samples by depth images, {wildcards.encoder}"
