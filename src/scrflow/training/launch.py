"""A training job as a file, and the processes that it is run by."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from pydantic import Field

from scrflow.config import Strict, TrainStage
from scrflow.core.errors import ScrflowError
from scrflow.core.progress import log
from scrflow.pipeline.provenance import note_run, this_run
from scrflow.storage.artifact import write_text
from scrflow.training.stage import train_head
from scrflow.training.stop import Stopped, forwarding_sigterm


class TrainJob(Strict):
    """Everything that a training process is told. Paths are relative to the working directory."""

    config: TrainStage
    shards: tuple[Path, ...]
    out: Path
    history: Path
    checkpoint: Path
    threads: int = Field(ge=1, description="a process")
    graph: Path | None = None
    encoding: Path | None = None
    depth: Path | None = None
    device: str | None = None

    def train(self) -> None:
        """Train in this process, or as one of torchrun's, of which the first notes in the history what it ran on (the
        others hold as much in GPU memory: as many lanes of as many samples)."""
        train_head(
            self.config,
            list(self.shards),
            self.out,
            self.history,
            self.checkpoint,
            self.threads,
            graph=self.graph,
            encoding=self.encoding,
            depth=self.depth,
            device=self.device,
        )
        processes = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1
        if processes == 1 or os.environ["RANK"] == "0":
            note_run(self.history, this_run(self.threads, processes))


def run_training(job: TrainJob, processes: int | None = None) -> None:
    """Train with as many processes as ``training.gpus`` names and GPUs are there; ``processes`` sets another number.

    The job stays as ``train.json`` beside the head: ``torchrun ... -m scrflow.training train.json`` runs it by hand, on
    several machines too. Raises ScrflowError when a process fails.
    """
    path = job.out.with_name("train.json")
    write_text(path, job.model_dump_json(indent=1) + "\n")
    wanted = job.config.training.gpus
    there = torch.cuda.device_count() if job.device != "cpu" else 0
    count = processes or max((n for n in range(1, wanted + 1) if wanted % n == 0 and n <= max(1, there)), default=1)
    if count < wanted:
        log.warning("training.gpus is %d, %d are here: each process takes several parts of a batch", wanted, there)
    if count == 1:
        job.train()
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command += ["-m", "scrflow.training", str(path)]
    source = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    environment["OMP_NUM_THREADS"] = str(job.threads)
    with subprocess.Popen(command, env=environment) as torchrun, forwarding_sigterm(torchrun) as stop:
        status = torchrun.wait()
    if status:
        if stop.requested:
            raise Stopped(
                f"training: stopped by SIGTERM, saved in {job.checkpoint}; the same command goes on from there"
            )
        raise ScrflowError(f"{count} training processes: one failed (exit status {status}); see above")
