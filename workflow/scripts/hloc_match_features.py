"""Matches by hloc, in its environment."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.baseline.hloc_run import match_features

    match_features(job.input("features"), job.input("pairs"), job.param("configuration"), job.output("matches"))
