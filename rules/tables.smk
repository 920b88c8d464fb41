# Tables over scenes, methods and seeds, with the published numbers beside ours: config/tables.
#
#   results/tables/NAME.md       on the paper's scenes, with the paper's methods
#   results/tables/NAME@SET.md   on the scenes of a set (demo, real), with methods for machines without GPU


rule write_table:
    input:
        metrics=table_metrics,
        published=paper_files,
    output:
        out_markdown="results/tables/{table}.md",
        out_csv=report(
            "results/tables/{table}.csv",
            caption="../workflow/report/table.rst",
            category="tables",
            labels={"table": "{table}", "scenes": "its own"},
        ),
        out_latex="results/tables/{table}.tex",
    log:
        "results/tables/logs/{table}.log",
    benchmark:
        "results/tables/benchmarks/{table}.tsv"
    conda:
        "../envs/scrflow.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=longer(10),
    params:
        **stage_params("write_table"),
        results=lambda wildcards: "results",
        papers=str(project.path_of("papers")),
    message:
        "table {wildcards.table}"
    script:
        "../workflow/scripts/run_stage.py"


use rule write_table as write_table_of_set with:
    output:
        out_markdown="results/tables/{table}@{set_name}.md",
        out_csv=report(
            "results/tables/{table}@{set_name}.csv",
            caption="../workflow/report/table.rst",
            category="tables",
            labels={"table": "{table}", "scenes": "{set_name}"},
        ),
        out_latex="results/tables/{table}@{set_name}.tex",
    log:
        "results/tables/logs/{table}@{set_name}.log",
    benchmark:
        "results/tables/benchmarks/{table}@{set_name}.tsv"
    message:
        "table {wildcards.table} on {wildcards.set_name}"
