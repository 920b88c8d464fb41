"""A small training job, and runs of it."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from scrflow.config import GlobalEncodingUse, HeadConfig, LossConfig, TrainingConfig, TrainStage
from scrflow.training.job import TrainJob
from scrflow.training.trainer import Trainer

RSCORE = LossConfig(bandwidth_max=25, coarse=True, depth_adjusted=True, pull=True)
KNOWN = RSCORE.model_copy(update={"known_depth": True})


def stage(steps: int = 60, loss: LossConfig = RSCORE, **training) -> TrainStage:
    """R-SCoRe with a small head."""
    settings = {"batch_size": 256, "checkpoint_every": 7, "log_every": 5, "precision": "fp32", **training}
    return TrainStage(
        global_encoding=GlobalEncodingUse(name="node2vec", neighbour_share=0.5),
        head=HeadConfig(width=64, hidden_ratio=1, blocks=1, clusters=3, refine_blocks=1, frequencies=4),
        training=TrainingConfig(steps=steps, loss=loss, **settings),
        depth_bias=0.3,
        target_depth=4.0,
        seed=3,
    )


def known(steps: int = 25, **training) -> TrainStage:
    """The same with known depths and mixed descriptors."""
    return stage(steps, KNOWN, mix_share=0.5, known_share=0.8, **training)


def job_of(config: TrainStage, inputs: dict, folder: Path) -> TrainJob:
    """A job whose files are in ``folder``."""
    folder.mkdir(exist_ok=True)
    names = {"out": "head.safetensors", "history": "train.jsonl", "checkpoint": "checkpoint.pt"}
    paths = {key: folder / name for key, name in names.items()}
    return TrainJob(config=config, threads=1, device="cpu", **{**inputs, **paths, "shards": tuple(inputs["shards"])})


def train(config: TrainStage, inputs: dict, folder: Path) -> tuple[Path, list[dict]]:
    """The head's file and the history of a run in ``folder``."""
    job = job_of(config, inputs, folder)
    job.train()
    return job.out, [json.loads(line) for line in job.history.read_text().splitlines()]


def in_step(step: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let training call ``act`` as it begins a step."""
    one_step = Trainer.one_step

    def acted(self):
        if self.step == step:
            act()
        return one_step(self)

    monkeypatch.setattr(Trainer, "one_step", acted)


def train_until_killed(config: TrainStage, inputs: dict, folder: Path, step: int, monkeypatch) -> None:
    """A run in ``folder`` that dies before a step."""

    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    with monkeypatch.context() as patch:
        in_step(step, die, patch)
        with pytest.raises(Killed):
            train(config, inputs, folder)


def terminate() -> None:
    """SIGTERM to this process."""
    os.kill(os.getpid(), signal.SIGTERM)
