"""Poses of the queries."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config import LocalizeStage
    from scrflow.localize.localizer import localize_queries

    localize_queries(
        job.config(LocalizeStage),
        job.scene,
        job.input("map"),
        job.output("poses"),
        job.output("details"),
        job.threads,
        descriptors=job.optional("descriptors"),
    )
