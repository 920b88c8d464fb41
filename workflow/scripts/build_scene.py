"""Read a dataset into the scene artifact."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import stage

with stage(snakemake) as job:
    from scrflow.config import SceneStage
    from scrflow.scene.build import build_scene

    sfm = job.optional("sfm")
    out = job.output("scene").parent
    parts = {path.parents[1].name: path.parent for path in job.inputs("parts")}  # results/PART/scene/scene.json
    build_scene(job.config(SceneStage), Path(job.param("root")), out, sfm.parent if sfm else None, parts)
