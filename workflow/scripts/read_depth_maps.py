"""Depths of the training samples by depth images."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config import MapDepthStage
    from scrflow.depths.maps import depths_from_maps

    root = Path(job.param("root"))
    depths_from_maps(job.config(MapDepthStage), job.scene, root, job.inputs("shards"), job.output("depth"))
