"""Node2Vec on the covisibility graph."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config import Node2VecStage
    from scrflow.graph.node2vec import embed

    embed(job.config(Node2VecStage), job.input("graph"), job.output("encoding"), job.output("metrics"), job.threads)
