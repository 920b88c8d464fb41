"""Depths of the training samples by the 3D points of an SfM model."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config import PointDepthStage
    from scrflow.depths.points import depths_from_points

    points = job.input("points")
    model = points.parent / "mapping" if points.name == "scene.json" else points.parent
    depths_from_points(job.config(PointDepthStage), model, points, job.inputs("shards"), job.output("depth"))
