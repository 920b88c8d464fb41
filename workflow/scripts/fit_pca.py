"""PCA of the local descriptors."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config import PcaStage
    from scrflow.features.pca import fit_pca

    fit_pca(job.config(PcaStage), job.scene, job.output("pca"), job.threads)
