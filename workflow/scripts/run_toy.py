"""GLACE's 2D toy example of the position decoder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config import ToyStage
    from scrflow.report.toytable import write_toy

    write_toy(
        job.config(ToyStage),
        [scene.parent for scene in job.inputs("scenes")],
        Path(job.param("papers")),
        job.output("markdown"),
        job.output("csv"),
        job.output("latex"),
        job.output("picture"),
        job.threads,
    )
