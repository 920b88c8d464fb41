"""Covisibility graph of the mapping images."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config import CovisibilityStage
    from scrflow.graph.covisibility import build_graph

    points = job.optional("points")
    build_graph(job.config(CovisibilityStage), job.scene, job.output("graph"), points.parent if points else None)
