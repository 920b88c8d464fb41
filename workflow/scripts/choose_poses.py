"""The default method's poses, in the form that the scene asks for."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config import SubmissionStage
    from scrflow.evaluate.submission import write_submission

    write_submission(
        job.config(SubmissionStage), job.scene, job.input("poses"), job.input("metrics"), job.output("poses")
    )
