"""Training samples of one range of images."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config import BufferStage
    from scrflow.training.buffer import fill_shard

    shard = int(snakemake.wildcards.shard)
    fill_shard(job.config(BufferStage), job.scene, job.input("pca"), shard, job.output("shard"), job.threads)
