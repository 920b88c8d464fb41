"""The training job: check its inputs, train the head in one process or several, and write it.

``[torchrun ...] -m scrflow.training results/SCENE/METHOD/train.json`` runs a job by hand, on several machines too.
"""

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import torch
import torch.distributed as dist
from pydantic import Field, ValidationError

from scrflow.config import Strict, TrainStage
from scrflow.core.device import device_for
from scrflow.core.errors import ScrflowError, exit_on_error
from scrflow.core.progress import log
from scrflow.core.seeds import derived_seed
from scrflow.pipeline.provenance import note_run, this_run
from scrflow.pipeline.stages import code_of
from scrflow.storage.artifact import Stamp, open_h5, read_stamp, write_safetensors, write_text
from scrflow.training.buffer import SAMPLE_DEPTH
from scrflow.training.head import Head
from scrflow.training.samples import Samples
from scrflow.training.trainer import Stopped, Trainer, on_sigterm


class TrainJob(Strict):
    """Everything that a training process needs. Paths are relative to the working directory."""

    config: TrainStage
    shards: tuple[Path, ...]
    out: Path = Field(description="the head: float16 safetensors")
    history: Path = Field(description="JSON lines")
    checkpoint: Path = Field(description="continued from if it is of the same inputs and config, removed at the end")
    threads: int = Field(ge=1, description="a process")
    graph: Path | None = Field(None, description="covisibility, where encodings of neighbours are taken")
    encoding: Path | None = Field(None, description="global encodings: Node2Vec's HDF5, or hloc's layout")
    depth: Path | None = Field(None, description="of the samples, for known depths and descriptor mixing")
    device: str | None = None

    def train(self) -> None:
        """Train in this process or as one of torchrun's; write head and history. ScrflowError for wrong inputs."""
        torch.set_num_threads(self.threads)
        device = device_for(self.device)
        kind = device.type
        if "TORCHELASTIC_RUN_ID" in os.environ:
            if kind == "cuda":
                device = torch.device(kind, int(os.environ["LOCAL_RANK"]))
                torch.cuda.set_device(device)
            if int(os.environ["WORLD_SIZE"]) > 1:
                dist.init_process_group("nccl" if kind == "cuda" else "gloo")
        self._train(device)
        # a process that failed does not wait here for those that wait for it: it ends, and torchrun ends the others
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()

    def _train(self, device: torch.device) -> None:
        config = self.config
        inputs = {f"shard{i}": read_stamp(p, "buffer").digest for i, p in enumerate(self.shards)}
        named = {"graph": self.graph, "encoding": self.encoding, "depth": self.depth}
        inputs |= {name: read_stamp(path).digest for name, path in named.items() if path is not None}
        stamp = Stamp.make("head", config, code_of("train_head", config), **inputs)

        depth = self.depth if config.training.needs_depth else None
        samples = Samples.open(config, list(self.shards), self.graph, self.encoding, depth)
        unit = output_unit(depth) if depth is not None and config.training.loss.known_depth else 1.0
        torch.manual_seed(derived_seed(config.seed, "train.init"))
        head = Head(samples.dim_in, config.head, samples.cluster_centres(config.head.clusters, config.seed), unit)
        bias = config.training.loss.depth_bias
        bias = config.depth_bias if bias is None else bias
        trainer = Trainer(head.to(device), samples, config.training, config.seed, bias, self.threads)
        trainer.run(self.checkpoint, stamp.digest)
        if trainer.rank:
            return
        state = {
            name: value.half() if value.is_floating_point() and name != "decoder.centres" else value
            for name, value in head.state_dict().items()
        }
        write_text(self.history, "".join(json.dumps(line) + "\n" for line in trainer.history))
        write_safetensors(self.out, state, stamp, {"dim_in": str(samples.dim_in), "output_unit": repr(unit)})
        self.checkpoint.unlink(missing_ok=True)
        note_run(self.history, this_run(self.threads, trainer.world))


def output_unit(depth: Path) -> float:
    """The median of known depths: a length of the scene's own size that the head's number 1 stands for."""
    with open_h5(depth, SAMPLE_DEPTH) as f:
        return round(float(torch.from_numpy(f["depth"][:]).nanmedian()), 3)


def train_head(
    config: TrainStage,
    shards: list[Path],
    out: Path,
    history: Path,
    checkpoint: Path,
    threads: int,
    graph: Path | None = None,
    encoding: Path | None = None,
    depth: Path | None = None,
) -> None:
    """The stage that trains the head of a method."""
    files = {"shards": shards, "out": out, "history": history, "checkpoint": checkpoint}
    run_training(TrainJob(config=config, threads=threads, graph=graph, encoding=encoding, depth=depth, **files))


def run_training(job: TrainJob, processes: int | None = None) -> None:
    """Train with as many processes as ``training.gpus`` names and GPUs are there; ``processes`` sets another number.
    The job stays as ``train.json`` beside the head. ScrflowError when a process fails."""
    path = job.out.with_name("train.json")
    write_text(path, job.model_dump_json(indent=1) + "\n")
    wanted = job.config.training.gpus
    there = torch.cuda.device_count() if device_for(job.device).type == "cuda" else 0
    count = processes or max((n for n in range(1, wanted + 1) if wanted % n == 0 and n <= max(1, there)), default=1)
    if count < wanted:
        log.warning("training.gpus is %d, %d are here: each process takes several shard groups", wanted, there)
    if count == 1:
        job.train()
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command += ["-m", "scrflow.training", str(path)]
    source = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    environment["OMP_NUM_THREADS"] = str(job.threads)
    stop = threading.Event()
    with (
        subprocess.Popen(command, env=environment) as torchrun,
        on_sigterm(lambda: (stop.set(), torchrun.terminate())),
    ):
        status = torchrun.wait()
    if status:
        if stop.is_set():
            raise Stopped(
                f"training: stopped by SIGTERM, saved in {job.checkpoint}; the same command goes on from there"
            )
        raise ScrflowError(f"{count} training processes: one failed (exit status {status}); see above")


def main(arguments: list[str]) -> int:
    """Exit status: 0 trained, 1 an error (printed in one line), 2 wrong usage."""
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print("usage: [torchrun ...] -m scrflow.training JOB, the train.json beside a head", file=sys.stderr)
        return 2
    quiet = int(os.environ.get("RANK", "0")) > 0
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, format="%(message)s", stream=sys.stderr)
    path = Path(arguments[0])
    with exit_on_error():
        try:
            job = TrainJob.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise ScrflowError(
                f"{path}: not a training job ({str(error).splitlines()[0]}); give the train.json beside a head"
            ) from None
        job.train()
    return 0
