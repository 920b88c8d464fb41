"""The job of every rule: call the function that scrflow.pipeline.stages names for it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from scrflow.pipeline.job import run_stage

run_stage(snakemake)
