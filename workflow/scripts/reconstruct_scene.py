"""Structure from motion on bare photos."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config import SfmStage
    from scrflow.sfm.reconstruct import run_sfm

    run_sfm(job.config(SfmStage), Path(job.param("root")), job.output("report").parent, job.threads)
