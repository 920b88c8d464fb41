"""Pairs of images to match, by hloc, in its environment."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.baseline.hloc_run import pairs_from_retrieval

    pairs_from_retrieval(job.input("images"), job.input("descriptors"), job.param("neighbours"), job.output("pairs"))
