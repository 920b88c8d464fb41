"""Write a table over scenes, methods and seeds."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config.table import TableStage
    from scrflow.report.tables.build import write_table

    write_table(
        job.config(TableStage),
        Path("results"),
        Path(job.param("papers")),
        job.output("markdown"),
        job.output("csv"),
        job.output("latex"),
    )
