"""3D points by hloc, in its environment."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.baseline.hloc_run import triangulate

    triangulate(
        job.input("images"),
        job.scene / "mapping",
        job.input("pairs"),
        job.input("features"),
        job.input("matches"),
        job.output("model"),
    )
