"""Image descriptors and their quantised index."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config import RetrievalStage
    from scrflow.features.retrieval import build_retrieval

    build_retrieval(
        job.config(RetrievalStage),
        job.scene,
        job.output("descriptors"),
        job.output("model"),
        job.output("quality"),
        job.threads,
        list(zip(job.inputs("part_descriptors"), job.inputs("part_models"), strict=True)),
    )
