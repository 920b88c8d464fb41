# Config, wildcard constraints, and what is done before a run.

import logging
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# the package is used as it lies here, installed or not
sys.path.insert(0, str(Path(workflow.basedir) / "src"))

from scrflow.core.device import machine_has_gpu
from scrflow.pipeline.project import Project
from scrflow.core.errors import ScrflowError
from scrflow.pipeline.stages import STAGES, code_of
from scrflow.pipeline.job import check_room, file_digest, hold_workflow_lock, inputs_of, source_files, tie_local_jobs

logging.raiseExceptions = False  # a log on a full disk is not to hide what is wrong


def load_project():
    try:
        return Project("config", overrides=config)
    except ScrflowError as error:
        raise WorkflowError(str(error)) from None


project = load_project()

# the package reads these; a variable that is set already wins over the config
os.environ.setdefault("SCRFLOW_DATA", str(project.data_root()))
os.environ.setdefault("SCRFLOW_WEIGHTS", project.config.weights.cache)
os.environ.setdefault("SCRFLOW_OFFLINE", str(int(project.config.weights.offline)))
os.environ.setdefault("SCRFLOW_DEVICE", project.config.device)


# ... and jobs on other machines are to have the values of the Snakemake that was started
envvars:
    "SCRFLOW_DATA",
    "SCRFLOW_WEIGHTS",
    "SCRFLOW_OFFLINE",
    "SCRFLOW_DEVICE",


def one_of(names):
    # "(?!)" matches nothing: a table may be empty
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    scene=one_of(project.scenes),
    root=one_of(project.downloads()),
    method=one_of([*project.methods, *project.variants]),
    baseline=one_of(project.baselines),
    graph=one_of(project.config.graphs),
    table=one_of(project.tables),
    set_name=one_of(project.set_names()),
    encoder=one_of(project.encoders),
    tracks=one_of(project.config.tracks),
    encoding=one_of(project.config.encodings),
    feature=one_of(project.config.retrieval),
    configuration=r"[\w-]+",
    shard=r"\d+",


# ---------------------------------------------------------------------------------------------------------------- runs


def hold_lock():
    """Only the Snakemake that a person started locks: it runs this once before the first job, and not in a dry run. It is
    also the one whose disk must have room."""
    if not workflow.is_main_process:
        return
    try:
        check_room()
        hold_workflow_lock()
    except ScrflowError as error:
        raise WorkflowError(str(error)) from None
    if workflow.local_exec:
        tie_local_jobs()


def tell_restrictions():
    """Before the first job, print each wanted scene or method that may not be used commercially."""
    if not workflow.is_main_process:
        return
    wanted = {(job.wildcards.get("scene"), job.wildcards.get("method")) for job in workflow.dag.needrun_jobs()}
    found = {
        line: None
        for scene, method in sorted((scene, method or "") for scene, method in wanted if scene)
        for line in map(str, project.restrictions(scene, method or None))
    }
    for line in found:
        print(f"licence: {line}", file=sys.stderr)
