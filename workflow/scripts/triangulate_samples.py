"""Depths of the training samples."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config import SampleDepthStage
    from scrflow.depths.matched import estimate_sample_depths

    estimate_sample_depths(
        job.config(SampleDepthStage), job.input("graph"), job.inputs("shards"), job.output("depth"), job.threads
    )
