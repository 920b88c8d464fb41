# Tables over scenes, methods and seeds, with the published numbers beside ours: config/tables.
#
#   results/tables/NAME.md       on the paper's scenes, with the paper's methods
#   results/tables/NAME@SET.md   on the scenes of a set (demo, real), with methods for machines without GPU


rule write_table:
    input:
        metrics=table_metrics,
        papers=paper_files,
    output:
        markdown="results/tables/{table}.md",
        csv=report(
            "results/tables/{table}.csv",
            caption="../workflow/report/table.rst",
            category="tables",
            labels={"table": "{table}", "scenes": "its own"},
        ),
        latex="results/tables/{table}.tex",
    log:
        "results/tables/logs/{table}.log",
    benchmark:
        "results/tables/benchmarks/{table}.tsv"
    conda:
        "../envs/scrflow.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=longer(10),
    params:
        config=table_config,
        code=code_version("report.tables.build"),
        papers=str(project.dir / "papers"),
    message:
        "table {wildcards.table}"
    script:
        "../workflow/scripts/write_table.py"


use rule write_table as write_table_of_set with:
    output:
        markdown="results/tables/{table}@{set}.md",
        csv=report(
            "results/tables/{table}@{set}.csv",
            caption="../workflow/report/table.rst",
            category="tables",
            labels={"table": "{table}", "scenes": "{set}"},
        ),
        latex="results/tables/{table}@{set}.tex",
    log:
        "results/tables/logs/{table}@{set}.log",
    benchmark:
        "results/tables/benchmarks/{table}@{set}.tsv"
    message:
        "table {wildcards.table} on {wildcards.set}"
