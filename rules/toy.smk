# GLACE's 2D toy example of the position decoder (Figure 8): photos of the demo scene, or of a set's scenes.


rule toy_example:
    input:
        scenes=toy_scenes,
        papers=paper_files,
    output:
        markdown="results/tables/glace-figure-8.md",
        csv="results/tables/glace-figure-8.csv",
        latex="results/tables/glace-figure-8.tex",
        picture="results/tables/glace-figure-8.png",
    log:
        "results/tables/logs/glace-figure-8.log",
    benchmark:
        "results/tables/benchmarks/glace-figure-8.tsv"
    conda:
        "../envs/scrflow.yaml"
    threads: 1
    resources:
        mem_mb=growing(1500),
        runtime=longer(60),
    params:
        config=toy_config,
        code=toy_code,
        papers=str(project.dir / "papers"),
    message:
        "toy example of the position decoder"
    script:
        "../workflow/scripts/run_toy.py"


use rule toy_example as toy_example_of_set with:
    output:
        markdown="results/tables/glace-figure-8@{set}.md",
        csv="results/tables/glace-figure-8@{set}.csv",
        latex="results/tables/glace-figure-8@{set}.tex",
        picture="results/tables/glace-figure-8@{set}.png",
    log:
        "results/tables/logs/glace-figure-8@{set}.log",
    benchmark:
        "results/tables/benchmarks/glace-figure-8@{set}.tsv"
    message:
        "toy example of the position decoder on {wildcards.set}"
