"""Fetch the files of a scene."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.workflow import stage

with stage(snakemake) as job:
    from scrflow.scene.download import download_scene

    download_scene(job.input("table"), Path(job.param("folder")))
    job.output("marker").touch()
