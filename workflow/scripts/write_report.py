"""The page of a method on a scene."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.report.page.page import write_report

    write_report(job.input("metrics").parent, job.output("page"), job.threads)
