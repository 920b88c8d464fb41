"""The photos that hloc is to read."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.baseline.hloc_images import images_of_photos, images_of_scene, write_images
    from scrflow.config import SfmStage

    config = job.config(SfmStage) if job.param("config") else None
    if config is not None:
        images = images_of_photos(config, Path(job.param("root")))
    else:
        images = images_of_scene(job.input("sources").parent)
    write_images(job.output("images"), images, config)
