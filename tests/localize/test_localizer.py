"""The stage on the wall's map: its poses and times, another device, and a run that was stopped."""

import contextlib
import json

import numpy as np
import pytest
import torch
from PIL import Image
from simulated_device import DEVICE, simulated_device

from scrflow.config import LocalizeStage
from scrflow.core.errors import ScrflowError
from scrflow.core.geometry import pose_error
from scrflow.localize.localizer import Localizer, localize_queries
from scrflow.map.file import load_map
from scrflow.scene.lists import read_poses
from scrflow.scene.model import Scene, load_scene


def run(wall_map, folder, threads: int = 1) -> tuple[bytes, dict]:
    """poses.txt, and localization.json without its times."""
    stage = LocalizeStage(localize=load_map(wall_map.map).config.localize, seed=1)
    localize_queries(stage, wall_map.scene, wall_map.map, folder / "poses.txt", folder / "localization.json", threads)
    details = json.loads((folder / "localization.json").read_text())
    assert [p.name for p in sorted(folder.iterdir())] == ["localization.json", "poses.txt"]
    return (folder / "poses.txt").read_bytes(), details


def untimed(details: dict) -> dict:
    queries = {name: {k: v for k, v in q.items() if k != "ms"} for name, q in details["queries"].items()}
    stamp = {k: v for k, v in details["scrflow"].items() if k != "content"}  # the digest of times, too
    return {**details, "queries": queries, "summary": None, "ran": None, "scrflow": stamp}  # "ran" names the threads


def test_the_stage_and_its_times(wall_map, tmp_path):
    _, details = run(wall_map, tmp_path)
    found = read_poses(tmp_path / "poses.txt")
    for name, truth in wall_map.queries.items():
        t, r = pose_error(found[name], truth)
        assert t < 0.2 and r < 5  # measured: up to 0.07 m and 2 degrees, of a wall at 1.5 m
    for query in details["queries"].values():
        parts = {k: v for k, v in query["ms"].items() if k != "total"}
        assert list(parts) == ["read", "encode", "retrieve", "head", "pose"]
        assert sum(parts.values()) == pytest.approx(query["ms"]["total"], abs=0.05)  # each rounded to 0.01
        assert 0 <= query["confidence"] <= 1
    summary = details["summary"]
    assert summary["queries"] == 3 and summary["queries_per_s"] == pytest.approx(3 / summary["seconds"], rel=0.2)
    assert details["overlay"]["name"] in wall_map.queries and len(details["overlay"]["pixels"]) > 20


def test_on_another_device(wall_map, monkeypatch):
    """PCA and head compute there, and the pose is that of the CPU."""
    scene, map_ = load_scene(wall_map.scene), load_map(wall_map.map)
    query = scene.queries[0]
    photo = scene.photo(query.name)
    expected = Localizer(map_, threads=1, device="cpu").localize_photo(photo, query.camera)
    monkeypatch.setattr("scrflow.localize.localizer.device_for", lambda device: DEVICE)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # of known devices only
    with simulated_device():
        localizer = Localizer(map_, threads=1)
        assert next(localizer._head._head.parameters()).device == DEVICE
        found = localizer.localize_photo(photo, query.camera)
    np.testing.assert_allclose(found.cam_from_world, expected.cam_from_world, atol=1e-4)
    np.testing.assert_allclose(found.xyz_world, expected.xyz_world, atol=1e-4)


def test_a_stopped_run_continues_with_two_threads(wall_map, tmp_path, monkeypatch):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    poses, details = run(wall_map, tmp_path / "whole")
    first, second = list(wall_map.queries)[:2]
    read = Scene.photo

    def read_one(scene: Scene, name: str) -> Image.Image:
        if name == second:
            raise ScrflowError("stopped here")
        return read(scene, name)

    with monkeypatch.context() as patch, pytest.raises(ScrflowError, match="stopped here"):
        patch.setattr(Scene, "photo", read_one)
        run(wall_map, tmp_path / "parts")
    (journal,) = (tmp_path / "parts").iterdir()
    written = journal.read_text().splitlines()
    assert len(written) == 2
    with open(journal, "a") as f:
        f.write('{"name": "' + second)  # cut off by a kill
    again, resumed = run(wall_map, tmp_path / "parts", threads=2)
    assert again == poses and untimed(resumed) == untimed(details)
    # the first was not localized again
    assert resumed["queries"][first]["ms"] == json.loads(written[1])["ms"] and resumed["summary"]["queries"] == 2
