"""Clusters of a retrieval feature as global encodings."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config import ClustersStage
    from scrflow.features.clusters import cluster_features

    cluster_features(
        job.config(ClustersStage), job.scene, job.input("features"), job.output("encoding"), job.output("metrics")
    )
