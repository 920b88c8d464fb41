# Structure from motion where no poses are given; 3D points on given poses where the graph counts them.


rule reconstruct_scene:
    input:
        sources=scene_sources,
        hloc=hloc_files,
    output:
        report=update("results/{scene}/sfm/sfm.json"),  # stays when a new run fails
    log:
        "results/{scene}/logs/reconstruct_scene.log",
    benchmark:
        "results/{scene}/benchmarks/reconstruct_scene.tsv"
    conda:
        "../envs/scrflow.yaml"
    threads: 8
    resources:
        mem_mb=4000,
        runtime=720,
    params:
        config=stage_config("sfm"),
        code=code_version("sfm"),
        root=scene_root,
    message:
        "{wildcards.scene}: structure from motion"
    script:
        "../workflow/scripts/reconstruct_scene.py"


rule triangulate_points:
    input:
        scene="results/{scene}/scene/scene.json",
        hloc=hloc_files,
    output:
        report="results/{scene}/triangulated/triangulation.json",
    log:
        "results/{scene}/logs/triangulate_points.log",
    benchmark:
        "results/{scene}/benchmarks/triangulate_points.tsv"
    conda:
        "../envs/scrflow.yaml"
    threads: 8
    resources:
        mem_mb=4000,
        runtime=480,
    params:
        config=stage_config("triangulate"),
        code=code_version("triangulate"),
    message:
        "{wildcards.scene}: triangulating 3D points"
    script:
        "../workflow/scripts/triangulate_points.py"
