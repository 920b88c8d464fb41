"""SIGTERM during training, as a scheduler sends it, and checkpoints that are not what was written."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from training_cases import known, train

import scrflow
from scrflow.storage.artifact import sha256_file
from scrflow.training.checkpoint import load_checkpoint, save_checkpoint
from scrflow.training.launch import TrainJob
from scrflow.training.stop import Stopped
from scrflow.training.trainer import Trainer


def state_of(path: Path) -> dict:
    """Whatever work the checkpoint is of."""
    return torch.load(io.BytesIO(path.read_bytes().partition(b"\n")[2]), weights_only=True)


def stop_in_step(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM to this process while it is in a step."""
    one_step = Trainer.one_step

    def signalled(self):
        if self.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return one_step(self)

    monkeypatch.setattr(Trainer, "one_step", signalled)


@pytest.mark.parametrize(("accumulate", "saved"), [(1, 12), (2, 12), (5, 15)])
def test_it_saves_and_the_next_run_goes_on(inputs, tmp_path, monkeypatch, accumulate, saved):
    config = known(25, accumulate=accumulate, checkpoint_every=1000)
    undisturbed, _ = train(config, inputs, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_in_step(11, patch)
        with pytest.raises(Stopped, match=rf"stopped by SIGTERM after step {saved} of 25.*the same command") as caught:
            train(config, inputs, tmp_path / "stopped")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "stopped/head.safetensors").exists()
    assert state_of(tmp_path / "stopped/checkpoint.pt")["step"] == saved
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    resumed, _ = train(config, inputs, tmp_path / "stopped")
    assert sha256_file(resumed) == sha256_file(undisturbed)


def test_the_last_step_is_not_stopped(inputs, tmp_path, monkeypatch):
    stop_in_step(24, monkeypatch)
    out, history = train(known(25), inputs, tmp_path)
    assert out.exists() and history[-1]["step"] == 25 and not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_processes_of_their_own(inputs, tmp_path, processes):
    """The signal goes to the one that the workflow started; with several, torchrun's are its children."""
    config = known(100_000, gpus=2, checkpoint_every=50)
    job = job_of(inputs, config, tmp_path / "stopped")
    code = "import sys; from pathlib import Path; from scrflow.training.launch import TrainJob, run_training\n"
    code += "job = TrainJob.model_validate_json(Path(sys.argv[1]).read_text())\n"
    code += "try:\n    run_training(job, processes=int(sys.argv[2]))\n"
    code += "except Exception as error:\n    sys.exit(f'{type(error).__name__}: {error}')\n"
    (tmp_path / "job.json").write_text(job.model_dump_json())
    environment = {**os.environ, "PYTHONPATH": str(Path(scrflow.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "job.json"), str(processes)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not job.checkpoint.exists():
            assert run.poll() is None, "it ended before it could be stopped"
            time.sleep(0.05)
        run.send_signal(signal.SIGTERM)
        _, told = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 1 and "Stopped: training: stopped by SIGTERM" in told, told
    state = state_of(job.checkpoint)
    assert f"stopped by SIGTERM after step {state['step']} of 100000" in told
    # the rest is not run: that a checkpoint of any step goes on to the same bytes is tested above
    assert load_checkpoint(job.checkpoint, state["digest"]) is not None


def job_of(inputs: dict, config, folder: Path) -> TrainJob:
    folder.mkdir()
    paths = {"out": "head.safetensors", "history": "train.jsonl", "checkpoint": "checkpoint.pt"}
    given = {**inputs, "shards": tuple(inputs["shards"]), **{k: folder / v for k, v in paths.items()}}
    return TrainJob(config=config, threads=1, device="cpu", **given)


def test_no_checkpoint_that_changed_is_believed(tmp_path, caplog):
    path = tmp_path / "checkpoint.pt"
    state = {"digest": "d", "head": {"w": torch.arange(1000.0)}, "step": 9}
    save_checkpoint(path, state)
    assert torch.equal(load_checkpoint(path, "d")["head"]["w"], state["head"]["w"])
    assert load_checkpoint(path, "another") is None
    whole = path.read_bytes()
    places = [*range(0, len(whole), 37), len(whole) - 1]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert load_checkpoint(path, "d") is None, place
        path.write_bytes(whole[:place])
        assert load_checkpoint(path, "d") is None, place
    assert "training begins anew" in caplog.text


class Payload:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_crafted_checkpoint_is_not_run(tmp_path, monkeypatch, caplog):
    """With the right digest, so that it comes as far as torch."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint.pt"
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", lambda state, f: f.write(pickle.dumps(state)))
        save_checkpoint(path, {"digest": "d", "evil": Payload()})
    assert load_checkpoint(path, "d") is None
    assert "not a checkpoint" in caplog.text and not (tmp_path / "ran").exists()
