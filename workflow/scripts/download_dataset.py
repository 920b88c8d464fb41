"""Fetch the files and archives of a dataset."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config import Download
    from scrflow.scene.downloads import download_dataset

    download_dataset(job.config(Download), job.optional("table"), Path(job.param("folder")))
    job.output("marker").touch()
