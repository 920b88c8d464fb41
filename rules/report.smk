# Pages that show what came out: one of each method on a scene. `snakemake --report report.zip` makes one of them all.


report: "../workflow/report/workflow.rst"


rule write_report:
    input:
        scene="results/{scene}/scene/scene.json",
        map_path="results/{scene}/{method}/map.safetensors",
        poses="results/{scene}/{method}/poses.txt",
        details="results/{scene}/{method}/localization.json",
        folder="results/{scene}/{method}/metrics.json",
        history=trained("train.jsonl"),
        graph=method_graph,
        descriptors=method_descriptors,
    output:
        page=shown("results/{scene}/{method}/report.html", "all on one page"),
    log:
        "results/{scene}/logs/write_report/{method}.log",
    benchmark:
        "results/{scene}/benchmarks/write_report/{method}.tsv"
    conda:
        "../envs/scrflow.yaml"
    threads: 4
    resources:
        mem_mb=growing(3000, method_networks),
        runtime=longer(60),
        gpu=one_gpu(method_networks),
    params:
        code=stage_code("write_report"),
    message:
        "{wildcards.scene}: report, {wildcards.method}"
    script:
        "../workflow/scripts/run_stage.py"


use rule write_report as write_baseline_report with:
    input:
        scene="results/{scene}/scene/scene.json",
        map_path="results/{scene}/{baseline}/map.h5",
        poses="results/{scene}/{baseline}/poses.txt",
        details="results/{scene}/{baseline}/localization.json",
        folder="results/{scene}/{baseline}/metrics.json",
        graph="results/{scene}/covisibility.npz",
        descriptors=baseline_descriptors,
    output:
        page=shown("results/{scene}/{baseline}/report.html", "all on one page"),
    log:
        "results/{scene}/logs/write_baseline_report/{baseline}.log",
    benchmark:
        "results/{scene}/benchmarks/write_baseline_report/{baseline}.tsv"
    resources:
        mem_mb=growing(3000, baseline_query_networks),
        runtime=longer(60),
        gpu=one_gpu(baseline_query_networks),
    params:
        code=stage_code("write_baseline_report"),
    message:
        "{wildcards.scene}: report, {wildcards.baseline}"
