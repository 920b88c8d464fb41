"""The learning curves of benchmarks/curves.py and the demo's further queries, at a small size."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_project import REPO, Project

from scrflow.pipeline.project import Project as Config

sys.path += [str(REPO / "benchmarks"), str(REPO / "demo")]


def test_a_curve_stopped_and_continued(finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import curves

    monkeypatch.chdir(finished.folder)
    folders = {"results": Path("results"), "config": Path("config"), "out": tmp_path}
    evaluate, told = curves.Run.evaluate, []

    def stopped_at_the_end(run: curves.Run) -> dict:
        told.append(run.trainer.step)
        if told == [4, 16]:
            raise KeyboardInterrupt
        return evaluate(run)

    monkeypatch.setattr(curves.Run, "evaluate", stopped_at_the_end)
    arguments = {"name": "quick", "scene": "tiny", "steps": 16, "seed": 1, "over": "{}", "label": None, "looks": 2}
    with pytest.raises(KeyboardInterrupt):
        curves.run(**arguments, **folders, pause_s=0)
    curves.run(**arguments, **folders, pause_s=0)
    assert told == [4, 16, 16]
    curves.collect(tmp_path, None, None, ["tiny=0.5"])
    table = pd.read_csv(tmp_path / "curves.csv")
    assert table["step"].tolist() == [4, 16]
    assert (table[["cpu_min", "train_px", "median_t", "query_px"]] > 0).all(axis=None)
    assert Image.open(tmp_path / "curves.png").width > 300


def test_the_runs_fit_the_methods():
    import curves

    project = Config(REPO / "config")
    for name, (method, keys) in curves.RUNS.items():
        training = curves.variant(project, method, keys).config.training
        assert training.loss.known_depth == (name in ("rscore-cpu", "rscore-known"))


def test_further_queries_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import make_demo

    monkeypatch.setattr(make_demo, "paths", lambda walks=make_demo.paths: [walks()[0][:3]])
    only = ["mapping/000.jpg", "night/000.jpg"]
    options = ["--queries", "4", "--out", str(tmp_path), "--jobs", "1", "--only", *only]
    monkeypatch.setattr(sys, "argv", ["make_demo.py", *options])
    make_demo.main()
    counts = {name: len((tmp_path / f"{name}.txt").read_text().split()) for name in ("mapping", "queries_day")}
    assert counts == {"mapping": 3, "queries_day": 3}
    assert (tmp_path / "queries_night.txt").read_text() == "night/000.jpg\n"
    made, stored = (np.asarray(Image.open(f / "images/mapping/000.jpg")) for f in (tmp_path, REPO / "demo"))
    assert (made == stored).all()
    assert (tmp_path / "images/night/000.jpg").exists()
