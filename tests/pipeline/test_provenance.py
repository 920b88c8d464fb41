"""Where a result comes from: what a run notes of itself, and what evaluation gathers."""

import json
import subprocess

import pytest
import torch
from result_folders import Results

from scrflow import __version__
from scrflow.pipeline.provenance import gather, git_state, note_run, this_run
from scrflow.pipeline.stages import code_version
from scrflow.storage.artifact import Stamp


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_memory_of_a_gpu_is_what_torch_allocated():
    block = torch.zeros(25_000_000, device="cuda")
    ran = this_run(threads=1)
    assert ran["gpu"] == torch.cuda.get_device_name()
    assert ran["gpu_mb"] >= block.nbytes / 1e6 == 100


def git(folder, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_state_of_a_checkout(tmp_path):
    assert git_state(tmp_path) == (None, None)
    git(tmp_path, "init", "-q")
    (tmp_path / "src").mkdir()
    (tmp_path / "src/code.py").write_text("one\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert git_state(tmp_path) == (head, True)
    (tmp_path / "notes.md").write_text("not what results are made by\n")
    assert git_state(tmp_path) == (head, True)
    (tmp_path / "src/more.py").write_text("new\n")
    assert git_state(tmp_path) == (head, False)
    (tmp_path / "src/more.py").unlink()
    (tmp_path / "src/code.py").write_text("two\n")
    assert git_state(tmp_path) == (head, False)


def test_provenance_is_none_of_a_stages_code():
    """A new key here is no reason to train anew."""
    assert code_version("training.job", "pipeline.provenance") == code_version("training.job")


def small_result(root, photos: str = "a" * 16, overlap: float = 0.2, method: str = "m") -> dict:
    """Arguments of ``gather`` for a result of four stages."""
    r = Results(root / "results")
    scene = r.artifact("s/scene/scene.json", "scene", {"unit": "m"}, images=photos, content="b" * 16)
    graph = r.artifact("s/covisibility.npz", "covisibility", {"min_overlap": overlap}, scene=scene)
    head = r.artifact(f"s/{method}/head.safetensors", "head", {}, graph=graph)
    map_ = r.artifact(f"s/{method}/map.safetensors", "map", {}, scene=scene, head=head)
    details = r.artifact(f"s/{method}/localization.json", "localization", {}, scene=scene, map=map_)
    history = r.root / f"s/{method}/train.jsonl"
    history.write_text('{"step": 1, "seconds": 2.0}\n')
    stamp = Stamp("metrics", {"thresholds": [1]}, "c", {"map": "0" * 16})
    return {"stamp": stamp, "map_path": r.root / map_, "details": r.root / details, "history": history}


def test_evaluation_gathers_every_stage(tmp_path):
    arguments = small_result(tmp_path)
    note_run(arguments["history"], this_run(2))
    found = gather(**arguments)
    assert list(found["stages"]) == [
        *("s/scene/scene.json", "s/covisibility.npz"),
        *("s/m/head.safetensors", "s/m/map.safetensors", "s/m/localization.json"),
    ]
    assert Stamp(**found["stages"]["s/covisibility.npz"]).config == {"min_overlap": 0.2}
    assert found["lost"] == []
    assert found["training"]["threads"] == 2
    assert found["localization"] is None  # not noted by older scrflow
    assert found["evaluation"]["scrflow"] == __version__
    json.dumps(found, allow_nan=False)
    (tmp_path / "results/s/covisibility.npz").unlink()
    assert gather(**arguments)["lost"] == ["s/m/head.safetensors: graph"]


def test_digests_show_what_differs(tmp_path):
    found = gather(**small_result(tmp_path / "a"))
    same = gather(**small_result(tmp_path / "b", method="other-name"))
    graph = gather(**small_result(tmp_path / "c", overlap=0.1))
    photos = gather(**small_result(tmp_path / "d", photos="f" * 16))
    assert [found[key] == same[key] for key in ("code", "config", "data")] == [True, True, True]
    assert [found[key] == graph[key] for key in ("code", "config", "data")] == [True, False, True]
    assert [found[key] == photos[key] for key in ("code", "config", "data")] == [True, True, False]
