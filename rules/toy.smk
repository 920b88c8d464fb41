# GLACE's 2D toy example of the position decoder (Figure 8): photos of the demo scene, or of a set's scenes.


rule toy_example:
    input:
        scenes=toy_scenes,
        published=paper_files,
    output:
        markdown="results/tables/glace-figure-8.md",
        table="results/tables/glace-figure-8.csv",
        latex="results/tables/glace-figure-8.tex",
        picture="results/tables/glace-figure-8.png",
    log:
        "results/tables/logs/glace-figure-8.log",
    benchmark:
        "results/tables/benchmarks/glace-figure-8.tsv"
    conda:
        "../envs/scrflow.yaml"
    resources:
        mem_mb=growing(1500),
        runtime=longer(60),
    params:
        **stage_params("toy_example"),
        papers=str(project.path_of("papers")),
    message:
        "toy example of the position decoder"
    script:
        "../workflow/scripts/run_stage.py"


use rule toy_example as toy_example_of_set with:
    output:
        markdown="results/tables/glace-figure-8@{set_name}.md",
        table="results/tables/glace-figure-8@{set_name}.csv",
        latex="results/tables/glace-figure-8@{set_name}.tex",
        picture="results/tables/glace-figure-8@{set_name}.png",
    log:
        "results/tables/logs/glace-figure-8@{set_name}.log",
    benchmark:
        "results/tables/benchmarks/glace-figure-8@{set_name}.tsv"
    message:
        "toy example of the position decoder on {wildcards.set_name}"
