"""Train the head of a method."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.workflow import stage

with stage(snakemake) as job:
    from scrflow.config import TrainStage
    from scrflow.train import train_head

    train_head(
        job.config(TrainStage),
        job.inputs("shards"),
        job.output("head"),
        job.output("history"),
        Path(job.param("checkpoint")),
        job.threads,
        graph=job.optional("graph"),
        encoding=job.optional("encoding"),
        depth=job.optional("depth"),
    )
