"""The map of a baseline: points and descriptors to match against."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.baseline.mapping import build_map
    from scrflow.config import BaselineMapStage

    build_map(
        job.config(BaselineMapStage),
        job.scene,
        job.input("graph"),
        job.input("retrieval"),
        job.output("map"),
        job.threads,
    )
