"""A small training stage, and one run of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scrflow.config import GlobalEncodingUse, HeadConfig, LossConfig, TrainingConfig, TrainStage
from scrflow.training.stage import train_head
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


def train(config: TrainStage, inputs: dict, folder: Path) -> tuple[Path, list[dict]]:
    """The head's file and the history of a run in ``folder``."""
    folder.mkdir(exist_ok=True)
    out, history = folder / "head.safetensors", folder / "train.jsonl"
    given = dict(inputs)
    shards = given.pop("shards")
    train_head(config, shards, out, history, folder / "checkpoint.pt", 1, **given)
    return out, [json.loads(line) for line in history.read_text().splitlines()]


def train_until_killed(config: TrainStage, inputs: dict, folder: Path, stop: int, monkeypatch) -> None:
    """A run in ``folder`` that dies before its step ``stop``."""

    class Killed(BaseException):
        pass

    one_step = Trainer.one_step

    def dies(self):
        if self.step == stop:
            raise Killed
        return one_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "one_step", dies)
        with pytest.raises(Killed):
            train(config, inputs, folder)
