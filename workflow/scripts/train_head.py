"""Train the head of a method."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config import TrainStage
    from scrflow.training.job import TrainJob, run_training

    run_training(
        TrainJob(
            config=job.config(TrainStage),
            shards=tuple(job.inputs("shards")),
            out=job.output("head"),
            history=job.output("history"),
            checkpoint=Path(job.param("checkpoint")),
            threads=job.threads,
            graph=job.optional("graph"),
            encoding=job.optional("encoding"),
            depth=job.optional("depth"),
        )
    )
