# Structure from motion where no poses are given; 3D points on given poses where the graph counts them.


rule reconstruct_scene:
    input:
        sources=scene_sources,
        hloc=hloc_files,
    output:
        report=kept("results/{scene}/sfm/sfm.json"),
        cameras=kept("results/{scene}/sfm/cameras.bin"),
        frames=kept("results/{scene}/sfm/frames.bin"),
        images=kept("results/{scene}/sfm/images.bin"),
        points3D=kept("results/{scene}/sfm/points3D.bin"),
        rigs=kept("results/{scene}/sfm/rigs.bin"),
        benchmark="results/{scene}/benchmarks/reconstruct_scene.tsv",
    log:
        "results/{scene}/logs/reconstruct_scene.log",
    cache: CACHED
    conda:
        "../envs/scrflow.yaml"
    threads: 8
    resources:
        mem_mb=growing(4000),
        runtime=longer(720),
    params:
        **stage_params("reconstruct_scene"),
        root=scene_root,
        failures=failures("reconstruct_scene"),
        key=cache_key,
    message:
        "{wildcards.scene}: structure from motion"
    script:
        "../workflow/scripts/run_stage.py"


rule triangulate_points:
    input:
        scene="results/{scene}/scene/scene.json",
        hloc=hloc_files,
    output:
        report="results/{scene}/triangulated/triangulation.json",
        cameras="results/{scene}/triangulated/cameras.bin",
        frames="results/{scene}/triangulated/frames.bin",
        images="results/{scene}/triangulated/images.bin",
        points3D="results/{scene}/triangulated/points3D.bin",
        rigs="results/{scene}/triangulated/rigs.bin",
        benchmark="results/{scene}/benchmarks/triangulate_points.tsv",
    log:
        "results/{scene}/logs/triangulate_points.log",
    cache: CACHED
    conda:
        "../envs/scrflow.yaml"
    threads: 8
    resources:
        mem_mb=growing(4000),
        runtime=longer(480),
    params:
        **stage_params("triangulate_points"),
        key=cache_key,
    message:
        "{wildcards.scene}: triangulating 3D points"
    script:
        "../workflow/scripts/run_stage.py"
