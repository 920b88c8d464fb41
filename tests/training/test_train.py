"""Training on a synthetic scene: it learns, repeats to the byte, and continues where it was killed or stopped."""

import io
import os
import pickle
import signal

import pytest
import synthetic
import torch
from training_cases import in_step, known, stage, terminate, train, train_until_killed

import scrflow
from scrflow.config import EarlyStopConfig, GlobalEncodingUse, HeadConfig, LossConfig, TrainingConfig
from scrflow.core.errors import ScrflowError
from scrflow.storage.artifact import read_safetensors, sha256_file
from scrflow.training.buffer import load_buffer
from scrflow.training.optimizer import Muon
from scrflow.training.samples import ColumnLayout, Columns, Samples
from scrflow.training.trainer import Stopped, Trainer, load_checkpoint, save_checkpoint

SMALL = HeadConfig(width=64, hidden_ratio=1, blocks=1, clusters=1, refine_blocks=0)


@pytest.mark.parametrize("config", [stage(300), known(60, optimizer="muon")], ids=["rscore", "known, muon"])
def test_it_learns(inputs, tmp_path, config):
    out, history = train(config, inputs, tmp_path)
    # measured: 3 565 px at first, 122 px after 300 steps
    assert history[-1]["median_error_px"] < 0.25 * history[0]["median_error_px"]
    assert read_safetensors(out, "head")["decoder.out.weight"].dtype == torch.float16


def arrays(with_depth: bool) -> dict:
    """The synthetic scene as arrays."""
    buffer, points, point_of = synthetic.scene(0.3)
    pose = buffer.cam_from_world[buffer.view].numpy()
    depth = (pose[:, 2, :3] * points[point_of]).sum(1) + pose[:, 2, 3]
    names = ("descriptor", "pixel", "view", "K", "cam_from_world", "image")
    return {name: getattr(buffer, name).numpy() for name in names} | ({"depth": depth} if with_depth else {})


@pytest.mark.parametrize("with_depth", [False, True])
def test_training_on_arrays(with_depth):
    samples = scrflow.Samples.from_arrays(**arrays(with_depth))
    torch.manual_seed(0)
    head = scrflow.Head(samples.dim_in, SMALL, samples.cluster_centres(1))
    settings = {"batch_size": 256, "precision": "fp32", "log_every": 10, "loss": LossConfig(known_depth=with_depth)}
    early_stop = EarlyStopConfig(every=50)
    config = TrainingConfig(steps=200, holdout=0.25, early_stop=early_stop, **settings)
    history = scrflow.train(head, samples, config, seed=1, threads=1)
    assert [line["step"] for line in history] == list(range(10, 201, 10))
    assert history[-1]["median_error_px"] < 0.5 * history[0]["median_error_px"]
    assert history[-1]["held_out_error_px"] > 0
    assert head(torch.as_tensor(arrays(False)["descriptor"]).float()).xyz_world.shape == (samples.buffer.rows, 3)


def test_global_encodings_as_they_are():
    """R-SCoRe's table goes into the head without scaling, of an image or a neighbour; GLACE's features have unit length
    after diffusion, and the mean cosine that its noise gives."""
    graph, rng = synthetic.full_graph(), torch.Generator().manual_seed(0)
    table = 5 * torch.randn(graph.shape[0], 256, generator=rng)
    positions = torch.arange(0, 1000)

    def inputs_of(encoding, **settings):
        samples = scrflow.Samples.from_arrays(**arrays(False), encoding=encoding, graph=graph, **settings)
        layout = ColumnLayout(samples.buffer.dim, torch.float16, False, 0)
        columns = Columns.empty(samples.buffer.rows, layout, torch.device("cpu"), None)
        columns.put(0, samples.buffer.read(0, 0, samples.buffer.rows))
        x, _ = samples.batch(columns, positions, torch.Generator().manual_seed(1))
        return x[:, :256], samples.image[columns.view[positions].long()]

    g, image = inputs_of(table, neighbour_share=0.5, scaled=False)
    row = torch.cdist(g, table).argmin(1)
    assert torch.equal(g, table[row])
    # half are drawn among the image and its neighbours, which all others are
    assert (row == image).float().mean() == pytest.approx(0.5 + 0.5 / len(table), abs=0.05)
    unit = torch.nn.functional.normalize(table, dim=1)
    g, image = inputs_of(unit, noise=0.1, scaled=False)
    torch.testing.assert_close(torch.linalg.vector_norm(g, dim=1), torch.ones(len(g)))
    assert (g * unit[image]).sum(1).mean() == pytest.approx((1 + 0.1**2 * 256) ** -0.5, abs=0.01)


def test_arrays_train_as_files_do(inputs, tmp_path):
    """The same samples in one shard: the head of the job is that of ``train``, before its rounding to float16."""
    buffer = load_buffer(inputs["shards"])
    config = stage(10, LossConfig()).model_copy(
        update={"global_encoding": GlobalEncodingUse(), "head": SMALL, "seed": 0}
    )
    one = {**inputs, "encoding": None, "shards": synthetic.write_shards(buffer, tmp_path, shards=1)}
    out, _ = train(config, one, tmp_path / "files")
    names = ("descriptor", "pixel", "view", "K", "cam_from_world", "image")
    samples = Samples.from_arrays(*(getattr(buffer, n) for n in names[:-1]), image=buffer.image, target_depth=4.0)
    torch.manual_seed(scrflow.core.seeds.derived_seed(0, "train.init"))
    head = scrflow.Head(samples.dim_in, SMALL, samples.cluster_centres(1))
    scrflow.train(head, samples, config.training, depth_bias=0.3, threads=1)
    for name, value in read_safetensors(out, "head").items():
        assert torch.equal(value, head.state_dict()[name].to(value.dtype)), name


def test_same_seed_same_bytes(inputs, tmp_path):
    """A checkpoint of another config does not count."""
    first, _ = train(stage(20), inputs, tmp_path / "a")
    (tmp_path / "b").mkdir()
    save_checkpoint(tmp_path / "b/checkpoint.pt", {"digest": "another", "step": 9})
    second, _ = train(stage(20), inputs, tmp_path / "b")
    other, _ = train(stage(20).model_copy(update={"seed": 4}), inputs, tmp_path / "c")
    assert sha256_file(first) == sha256_file(second)
    a, c = read_safetensors(first, "head"), read_safetensors(other, "head")
    assert not torch.equal(a["input.layers.0.weight"], c["input.layers.0.weight"])


@pytest.mark.parametrize("step", [3, 24])
@pytest.mark.parametrize("config", [stage(25), known(25, optimizer="muon")], ids=["rscore", "known, muon"])
def test_a_killed_run_continues_to_the_same_bytes(inputs, tmp_path, monkeypatch, step, config):
    undisturbed, history = train(config, inputs, tmp_path / "whole")
    train_until_killed(config, inputs, tmp_path / "killed", step, monkeypatch)
    assert (tmp_path / "killed" / "checkpoint.pt").exists() == (step >= 7)
    assert not (tmp_path / "killed" / "head.safetensors").exists()
    resumed, resumed_history = train(config, inputs, tmp_path / "killed")
    assert sha256_file(resumed) == sha256_file(undisturbed)
    noted = [
        [{k: v for k, v in line.items() if k not in ("seconds", "ran")} for line in h]
        for h in (history, resumed_history)
    ]
    assert noted[0] == noted[1]
    assert not (tmp_path / "killed" / "checkpoint.pt").exists()


@pytest.mark.parametrize(("accumulate", "saved"), [(1, 12), (5, 15)])
def test_a_stopped_run_saves_and_continues_to_the_same_bytes(inputs, tmp_path, monkeypatch, accumulate, saved):
    config = known(25, accumulate=accumulate, checkpoint_every=1000)
    undisturbed, _ = train(config, inputs, tmp_path / "whole")
    with monkeypatch.context() as patch:
        in_step(11, terminate, patch)
        with pytest.raises(Stopped, match=rf"stopped by SIGTERM after step {saved} of 25.*the same command"):
            train(config, inputs, tmp_path / "stopped")
    assert not (tmp_path / "stopped/head.safetensors").exists()
    data = (tmp_path / "stopped/checkpoint.pt").read_bytes().partition(b"\n")[2]
    assert torch.load(io.BytesIO(data), weights_only=True)["step"] == saved
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    resumed, _ = train(config, inputs, tmp_path / "stopped")
    assert sha256_file(resumed) == sha256_file(undisturbed)


def test_no_changed_checkpoint_is_read(tmp_path, caplog):
    path = tmp_path / "checkpoint.pt"
    state = {"digest": "d", "head": {"w": torch.arange(1000.0)}, "step": 9}
    save_checkpoint(path, state)
    assert torch.equal(load_checkpoint(path, "d")["head"]["w"], state["head"]["w"])
    assert load_checkpoint(path, "another") is None
    whole = path.read_bytes()
    for place in [*range(0, len(whole), 37), len(whole) - 1]:
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


def test_an_incomplete_buffer_is_refused(inputs):
    with pytest.raises(ScrflowError, match="do not hold every mapping image"):
        load_buffer(inputs["shards"][:1])


def test_muon_equals_that_of_torch():
    """Two shapes, a tall one and a wide one, in bf16 as in torch."""
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in [(24, 16), (16, 40), (24, 16)]]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    a = Muon(ours, lr=0.01, weight_decay=0.1, dtype=torch.bfloat16)
    b = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(10):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        # measured: equal
        assert torch.allclose(p, q, rtol=0, atol=1e-5)


def test_held_out_images_are_not_trained_on(inputs, tmp_path):
    config = known(40, holdout=0.25, early_stop=EarlyStopConfig(every=10, patience=1, min_gain=0.9))
    samples = Samples.open(config, inputs["shards"], inputs["graph"], inputs["encoding"], inputs["depth"])
    head = scrflow.Head(samples.dim_in, config.head, samples.cluster_centres(3))
    trainer = Trainer(head, samples, config.training, config.seed, config.depth_bias)
    views = []
    for step in range(10):
        block, positions = trainer.streams[0].at(step, 10)
        views.append(block.columns.view[positions].long())
    trainer.close()
    assert len(torch.unique(samples.image[torch.cat(views)])) == 9  # of 12
    _, history = train(config, inputs, tmp_path)
    assert history[-1]["step"] < 40
    assert history[-1]["held_out_error_px"] > 0


@pytest.mark.parametrize(
    ("settings", "missing", "says"),
    [
        ({"gpus": 4}, (), "set buffer_shards to 4"),
        ({"buffer_memory": 20000}, (), r"buffer_memory of 20000 bytes.*give it at least"),
        ({}, ("encoding",), "global encoding node2vec"),
        ({}, ("graph",), "covisibility graph"),
        ({}, ("depth",), "known_depth"),
    ],
)
def test_what_training_lacks_is_named(inputs, tmp_path, settings, missing, says):
    with pytest.raises(ScrflowError, match=says):
        train(known(**settings), {**inputs, **dict.fromkeys(missing)}, tmp_path)
