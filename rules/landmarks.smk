# Landmarks: keypoints of mapping photos, matched and triangulated on the known poses.


rule build_tracks:
    input:
        scene="results/{scene}/scene/scene.json",
        graph="results/{scene}/covisibility.npz",
    output:
        tracks="results/{scene}/tracks/{tracks}.h5",
    log:
        "results/{scene}/logs/build_tracks/{tracks}.log",
    benchmark:
        "results/{scene}/benchmarks/build_tracks/{tracks}.tsv"
    conda:
        "../envs/scrflow.yaml"
    threads: 8
    resources:
        mem_mb=growing(3000, tracks_network),
        runtime=longer(240),
        gpu=one_gpu(tracks_network),
    params:
        **stage_params("build_tracks"),
    message:
        "{wildcards.scene}: tracks of keypoints, {wildcards.tracks}"
    script:
        "../workflow/scripts/run_stage.py"
