"""Poses of the queries by feature matching."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.baseline.localizer import localize_baseline
    from scrflow.config import BaselineLocalizeStage

    localize_baseline(
        job.config(BaselineLocalizeStage),
        job.scene,
        job.input("map"),
        job.output("poses"),
        job.output("details"),
        job.threads,
        descriptors=job.optional("descriptors"),
    )
