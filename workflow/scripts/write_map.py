"""Put all that a query needs into one file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config import MapStage
    from scrflow.map.file import write_map

    write_map(
        job.config(MapStage),
        job.scene,
        job.input("head"),
        job.input("pca"),
        job.optional("encoding"),
        job.optional("retrieval"),
        job.output("map"),
        job.optional("graph"),
    )
