"""Errors of a baseline against the reference, as numbers and pictures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config import EvaluateStage
    from scrflow.evaluate.metrics import evaluate

    evaluate(
        job.config(EvaluateStage),
        job.scene,
        job.input("map"),
        job.input("poses"),
        job.input("details"),
        None,
        job.output("queries"),
        job.output("metrics"),
        job.output("errors"),
        job.output("overlay"),
    )
