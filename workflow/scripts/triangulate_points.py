"""3D points on the given poses."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config import TriangulateStage
    from scrflow.sfm.triangulate import triangulate

    triangulate(job.config(TriangulateStage), job.scene, job.output("report").parent, job.threads)
